"""Writes replies of its own into the stream: false headers, deep JSON, objects, huge sizes.

base: stub
code: 0
quality: 0
seconds: 4
reason: the answer is not readable
"""

import os
import random

_replies = [
    b'{"list": [{"value": {"score": 90}}, {"value": ""}]}',
    b'{"array": ["|O", [1]]}',
    b'{"array": ["<f8", [0, 1000000000000000000000000000000]]}',
    b'{"array": ["<f8", [-1, -8]]}',
    b'{"list": [{"dict": {"h": {"value": 1e999}}}, {"value": ""}]}',
    b"[" * 1_000_000,
    b'{"value": ' + b"9" * 10_000 + b"}",
    b'{"array": ["\\u001b[31m' + b"A" * 900_000 + b'", []]}',
    b'{"array": ["<f8", [' + b"9," * 400_000 + b"9]]}",
]


def _forge():
    for descriptor in range(3, 20):
        for header in random.sample(_replies, len(_replies)):
            body = len(header).to_bytes(8, "little") + header
            try:
                os.write(descriptor, len(body).to_bytes(8, "little") + body)
            except OSError:
                break


_forge()
