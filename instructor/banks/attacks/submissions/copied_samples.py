"""Samples that are images of the training data; earns what the formula gives, and is flagged.

base: reference
code: usual
flag: samples repeat
"""

import numpy as np


def _step(folder, name, task, seed, arrays):
    declaration, images = _honest(folder, name, task, seed, arrays)
    if name == "generate":
        images = np.tile(images[:10], (len(images) // 10, 1, 1))
    return declaration, images
