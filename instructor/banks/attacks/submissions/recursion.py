"""Recursion without a limit, until the stack ends.

base: stub
code: 0
quality: 0
seconds: 4
"""

import sys

sys.setrecursionlimit(10**9)


def _deeper(f):
    return (lambda: _deeper(f))()


_deeper(_deeper)
