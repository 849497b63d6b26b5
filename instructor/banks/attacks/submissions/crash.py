"""Takes the interpreter down with a null pointer.

base: stub
code: 0
quality: 0
seconds: 4
reason: the process ended before it answered
"""

import ctypes

ctypes.string_at(0)
