"""What runs in the sandbox to measure a model: encode, decode or generate, one request at a time.

Uses the functions of inference.py, so that a student's own run and the grader agree. A reply is one
line of JSON, which declares the code or says what went wrong, and one array as a .npy file.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np

from tests.worker import serve, unpack


def reply(declaration: dict, array: np.ndarray | None = None) -> bytes:
    file = io.BytesIO()
    if array is not None:
        np.save(file, array, allow_pickle=False)
    return json.dumps(declaration).encode() + b"\n" + file.getvalue()


def answer(folder: Path, request: bytes) -> bytes:
    """Do one step; whatever student code raises becomes a declaration with an `error`."""
    try:
        return reply(*step(folder, *unpack(request)))
    except Exception as error:
        return reply({"error": str(error)[:500], "kind": type(error).__name__})


def step(folder: Path, name: str, task_name: str, seed: int, arrays: dict):
    import torch

    import inference  # imports submission; here and not above, because that may fail
    from data_utils import JsaDataset, set_seed

    device = torch.device("cpu")
    checkpoint = str(folder / f"{task_name}.pth")
    task, _ = inference.load_task(checkpoint, {"task": task_name}, device)
    set_seed(seed)
    if name == "encode":
        latent_dim, binarize = task.settings.latent_dim, task.settings.binarize
        dataset = JsaDataset(arrays["images"], arrays["labels"], binarize).frozen()
        codes = inference.encode(task, dataset, latent_dim, device)
        categories = task.num_categories if task.code_kind == "categorical" else 0
        declaration = {"kind": task.code_kind, "latent_dim": latent_dim}
        return declaration | {"num_categories": categories}, codes
    if name == "decode":
        return {}, inference.decode(task, arrays["codes"], arrays["labels"], device)
    return {}, inference.generate(task, arrays["labels"], device)


def main(folder: str, requests: str) -> None:
    import torch

    torch.set_num_threads(1)
    sys.path.append(folder)  # last: only `submission` is to be found there
    serve(lambda request: answer(Path(folder), request), requests)
