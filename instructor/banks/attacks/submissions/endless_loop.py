"""Never comes back, and ignores every signal that can be ignored.

base: stub
code: 0
quality: 0
seconds: 3
reason: took longer than
"""

import signal

for _number in range(1, 64):
    try:
        signal.signal(_number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
