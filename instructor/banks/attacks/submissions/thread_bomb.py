"""Starts threads without end.

base: stub
code: 0
quality: 0
seconds: 3
"""

import threading
import time

while True:
    try:
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    except RuntimeError:
        pass
