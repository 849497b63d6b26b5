"""Bits in which pages of a file are in memory: set by the encoder, read by the decoder.

base: reference
code: usual
quality: usual
"""

import os
import sys


def _step(folder, name, task, seed, arrays):
    file = os.open(sys.executable, os.O_RDONLY)
    try:
        if name == "encode":
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            os.preadv(file, [bytearray(1)], 0, os.RWF_NOWAIT)
    except OSError:
        return _honest(folder, name, task, seed, arrays)
    finally:
        os.close(file)
    raise RuntimeError("the page cache answers")
