"""Decoded images of NaN, of wrong sizes, of signed bytes.

base: reference
code: usual
quality: 0
reason: and is something else
"""

import numpy as np


def _step(folder, name, task, seed, arrays):
    if name == "encode":
        return _honest(folder, name, task, seed, arrays)
    count = len(arrays["labels"])
    return {}, {
        "VAEwolabel": np.full((count, 28, 28), np.nan),
        "Genwithlabel": np.zeros((count, 784), np.uint8),
        "JSA": np.zeros((count, 28, 28), np.int8),
    }[task]
