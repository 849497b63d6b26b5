"""Exact categories for a VAE, floats for bits, a kind that is a list.

base: reference
code: usual
quality: 0
reason: the code must be declared as float
reason: the code must be declared as bernoulli or categorical
"""

import numpy as np


def _step(folder, name, task, seed, arrays):
    count = len(arrays["images"])
    size = {"latent_dim": 20, "num_categories": 256}
    if task == "VAEwolabel":
        return {"kind": "categorical", **size}, np.zeros((count, 20), np.int16)
    if task == "Genwithlabel":
        return {"kind": ["float"], **size}, np.zeros((count, 20), np.float32)
    return {"kind": "float", **size}, np.zeros((count, 20), np.float32)
