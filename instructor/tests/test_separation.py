"""The example of separation.md: a new joint model that nothing else had to change for."""

import os
import re
import subprocess
import sys
from pathlib import Path

from trainer import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_s_example_runs(tmp_path):
    page = (ROOT / "instructor" / "separation.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    short = example.replace("--latent_dim 5", "--latent_dim 5 --epochs 2")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", short]
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    run = tmp_path / "runs" / "gaussian2d"
    logits = read_checkpoint(run / "last.pth")["model_state_dict"]["joint.prior_logits"]
    assert logits.shape == (5,) and logits.abs().min() > 0
    assert (run / "toy.png").is_file()
