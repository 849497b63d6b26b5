"""Fills memory in one process.

base: stub
code: 0
quality: 0
seconds: 4
reason: memory
"""

_held = []
while True:
    try:
        _held.append(b"x" * (1 << 26))
    except MemoryError:
        pass
