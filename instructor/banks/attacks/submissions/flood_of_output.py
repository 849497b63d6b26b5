"""Prints without end to both standard streams.

base: stub
code: 0
quality: 0
seconds: 3
reason: took longer than
"""

import sys

while True:
    print("A" * 10_000)
    print("B" * 10_000, file=sys.stderr)
