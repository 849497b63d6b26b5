"""Announces a reply of 2^63 bytes and sends without end.

base: stub
code: 0
quality: 0
seconds: 4
reason: the answer is not readable
"""

import os

for _descriptor in range(3, 20):
    try:
        os.write(_descriptor, (2**63).to_bytes(8, "little"))
        while True:
            os.write(_descriptor, bytes(1 << 16))
    except OSError:
        continue
