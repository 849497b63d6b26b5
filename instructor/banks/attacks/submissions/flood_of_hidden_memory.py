"""Memory that is in no process: files without names, System V segments, temporary files, pipes.

base: reference
code: usual
quality: usual
"""

import ctypes
import os

_libc, _held, _total = ctypes.CDLL(None), [], 0
for _ in range(64):
    try:
        _held.append(os.memfd_create("x"))
        _total += os.write(_held[-1], bytes(32 << 20))
    except (OSError, AttributeError):
        break
for _ in range(64):
    if (_segment := _libc.shmget(0, 64 << 20, 0o1600)) >= 0:
        _total += 64 << 20
for _folder in ("/tmp", "/dev/shm", "/dev/mqueue", "/run", "/"):
    for _number in range(64):
        try:
            with open(f"{_folder}/x{_number}", "wb") as _file:
                _total += _file.write(bytes(32 << 20))
        except OSError:
            break
if _total > 300 << 20:
    raise RuntimeError(f"holds {_total >> 20} MiB")
for _folder in ("/tmp", "/dev/shm"):
    for _name in os.listdir(_folder):
        if _name.startswith("x"):
            os.unlink(f"{_folder}/{_name}")
