"""Ends the process with success before anything is asked.

base: stub
code: 0
quality: 0
seconds: 4
reason: the process ended before it answered
"""

import os

os._exit(0)
