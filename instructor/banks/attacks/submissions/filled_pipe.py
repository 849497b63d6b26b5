"""Fills its own standard input, so that the next request could not be sent.

base: stub
code: 0
quality: 0
"""

import os

try:
    _input = os.open("/proc/self/fd/0", os.O_WRONLY | os.O_NONBLOCK)
    while True:
        os.write(_input, b"1\n" * 2048)
except OSError:
    pass
