"""Hidden images carried out in the text of errors, which students read.

base: reference
code: usual
quality: 0
reason: your code stopped with ValueError
reason: your code stopped with an error
reason: your code stopped with RuntimeError
absent: hostile-pixels
absent: 123456789
"""


def _step(folder, name, task, seed, arrays):
    text = f"hostile-pixels {arrays['images'][0].tobytes().hex()[:1000]}"
    if task == "VAEwolabel":
        raise ValueError(text)
    if task == "Genwithlabel":
        raise type("hostile-pixels", (Exception,), {})(text)
    return {"error": text, "kind": "RuntimeError", "latent_dim": 123456789}, None
