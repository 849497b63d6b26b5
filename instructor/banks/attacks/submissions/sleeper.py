"""Sleeps without using any CPU time.

base: stub
code: 0
quality: 0
seconds: 3
reason: took longer than
"""

import time

while True:
    time.sleep(1000)
