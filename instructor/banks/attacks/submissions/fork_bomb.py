"""Forks without end.

base: stub
code: 0
quality: 0
seconds: 3
"""

import os

while True:
    try:
        os.fork()
    except OSError:
        pass
