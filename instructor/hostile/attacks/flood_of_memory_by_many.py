"""Fills memory in many processes, each below the limit of one.

base: stub
code: 0
quality: 0
seconds: 3
reason: memory
"""

import os
import time

for _ in range(20):
    if os.fork() == 0:
        _held = b"x" * (400 << 20)
        time.sleep(1000)
time.sleep(1000)
