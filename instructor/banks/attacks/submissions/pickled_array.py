"""An array of objects, which would run code where it is unpickled; a false header; too few bytes.

base: reference
code: usual
quality: 0
reason: and is something else
"""

import io

import numpy as np


class _Bomb:
    def __reduce__(self):
        return exec, ("open('/tmp/hostile-unpickled', 'w').close()",)


def _step(folder, name, task, seed, arrays):
    file = io.BytesIO()
    if task == "VAEwolabel":
        np.save(file, np.array([_Bomb()] * 20, dtype=object), allow_pickle=True)
    elif task == "Genwithlabel":
        np.save(file, np.zeros((9, 20), np.float32, order="F"))
    else:
        np.save(file, np.zeros((10**6, 20), np.float32))
    declaration = b'{"kind": "float", "latent_dim": 20, "num_categories": 0}\n'
    return declaration + file.getvalue()[:1000]
