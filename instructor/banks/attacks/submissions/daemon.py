"""Leaves processes behind that left their session and ignore every signal.

base: reference
code: usual
quality: usual
"""

import os
import signal
import time


def _fork():
    try:
        return os.fork()
    except OSError:
        return 1


for _ in range(5):
    if _fork() == 0:
        os.setsid()
        if _fork() == 0:
            for _number in range(1, 64):
                try:
                    signal.signal(_number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            os.closerange(0, 256)
            if _ % 2:
                os.execv("/usr/bin/sleep", ["sleep", "98765"])
            while True:
                time.sleep(1)
        os._exit(0)
