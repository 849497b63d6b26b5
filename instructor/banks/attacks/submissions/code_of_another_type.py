"""The identity as a code: of wider numbers, of further dimensions, of more bits than declared.

base: reference
code: usual
quality: 0
reason: and is something else
"""


def _step(folder, name, task, seed, arrays):
    images = arrays["images"]
    flat = images.reshape(len(images), -1)
    return {
        "VAEwolabel": ({"kind": "float", "latent_dim": 784, "num_categories": 0}, flat / 255),
        "Genwithlabel": (
            {"kind": "float", "latent_dim": 1, "num_categories": 0},
            flat[:, None].astype("float32"),
        ),
        "JSA": ({"kind": "bernoulli", "latent_dim": 98, "num_categories": 0}, flat),
    }[task]
