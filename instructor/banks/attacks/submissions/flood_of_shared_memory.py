"""Memory shared with nobody, given back to be uncounted and kept all the same; socket buffers.

base: reference
code: usual
quality: usual
"""

import mmap
import socket

_held = []
try:
    for _ in range(16):
        _held.append(mmap.mmap(-1, 256 << 20))
        _held[-1].write(bytes(256 << 20))
        _held[-1].madvise(mmap.MADV_DONTNEED)
except (OSError, ValueError):
    pass
try:
    for _ in range(100):
        _held += socket.socketpair()
        _held[-1].setblocking(False)
        while True:
            _held[-1].send(bytes(1 << 16))
except OSError:
    pass
if len(_held) > 8:
    raise RuntimeError(f"holds {len(_held)} pieces")
