"""A submission of one function, and the call that its worker gets."""

from pathlib import Path

import numpy as np

CALL = ("mis_chain", {"log_w": np.zeros((2, 3)), "u": np.full((1, 3), 0.5)})


def write_chain(folder: Path, body: str) -> None:
    """Write a submission.py whose `mis_chain(log_w, u)` has this body."""
    code = f"import os, sys, time\ndef mis_chain(log_w, u):\n    {body}"
    (folder / "submission.py").write_text(code)
