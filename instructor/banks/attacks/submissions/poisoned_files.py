"""Bytecode, .pth files and modules for the next student's process, wherever a file can be made.

base: reference
code: usual
quality: usual
"""

import os
import sys

for _folder in (*sys.path, sys.prefix, sys.base_prefix, "/kit", "/in", "/usr/lib", "/etc", "/root"):
    for _name in (
        "sitecustomize.py",
        "hostile.pth",
        "__pycache__/model.cpython-311.pyc",
        "model.py",
    ):
        _path = os.path.join(_folder or ".", _name)
        try:
            os.makedirs(os.path.dirname(_path), exist_ok=True)
            with open(_path, "wb") as _file:
                _file.write(b"raise SystemExit('poisoned')\n")
        except OSError:
            continue
        if not _path.startswith(("/tmp", "./", "/dev/shm")):
            raise RuntimeError(f"wrote {_path}")
