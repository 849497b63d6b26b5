"""Codes of no entries, of a truth value's entries, of more categories than allowed.

base: reference
code: usual
quality: 0
reason: a code has 1 to 784 entries
reason: the code's size is not declared
reason: an entry has 2 to 256 categories
"""

import numpy as np


def _step(folder, name, task, seed, arrays):
    count = len(arrays["images"])
    return {
        "VAEwolabel": (
            {"kind": "float", "latent_dim": 0, "num_categories": 0},
            np.zeros((count, 0), np.float32),
        ),
        "Genwithlabel": (
            {"kind": "float", "latent_dim": True, "num_categories": 0},
            np.zeros((count, 1), np.float32),
        ),
        "JSA": (
            {"kind": "categorical", "latent_dim": 1, "num_categories": 2**62},
            np.zeros((count, 1), np.int16),
        ),
    }[task]
