"""Stops itself with SIGSTOP.

base: stub
code: 0
quality: 0
seconds: 3
reason: took longer than
"""

import os
import signal

os.kill(os.getpid(), signal.SIGSTOP)
