"""Codes of NaN and infinities, and bits that are bytes.

base: reference
code: usual
quality: 0
reason: finite
reason: the entries of a bernoulli code are 0 to 1
"""

import numpy as np


def _step(folder, name, task, seed, arrays):
    flat = arrays["images"].reshape(-1, 784)
    code = np.full((len(flat), 20), np.nan if task == "VAEwolabel" else np.inf, np.float32)
    floats = {"kind": "float", "latent_dim": 20, "num_categories": 0}
    bits = {"kind": "bernoulli", "latent_dim": 784, "num_categories": 0}
    return (bits, flat) if task == "JSA" else (floats, code)
