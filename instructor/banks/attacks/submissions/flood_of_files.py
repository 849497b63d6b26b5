"""Millions of empty files, which take memory that no limit counts.

base: stub
code: 0
quality: 0
seconds: 4
reason: temporary files
"""

import os

_number = 0
while True:
    try:
        os.symlink("x", f"/tmp/{_number}")
        os.symlink("x", f"/dev/shm/{_number}")
    except OSError:
        pass
    _number += 1
