"""The example of separation.md: a new joint model that nothing else had to change for."""

import os
import re

from instructor.tests.warm import run_python
from kit.files import ROOT
from trainer import read_checkpoint

PAGE = ROOT / "instructor" / "research" / "separation.md"


def test_the_page_s_example_runs(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    assert "--latent_dim 5" in example
    short = example.replace("--latent_dim 5", "--latent_dim 5 --epochs 2")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = run_python("-c", short, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "gaussian2d"
    logits = read_checkpoint(run / "last.pth")["model_state_dict"]["joint.prior_logits"]
    assert logits.shape == (5,) and logits.abs().min() > 0
    assert (run / "toy.png").is_file()


def test_the_page_names_what_is_there():
    """Every file and every name in the table of roles."""
    table = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    places = re.findall(r"`([\w/]+\.py|[\w/]+/)`", "\n".join(table))
    assert {"model.py", "submission.py", "trainer.py", "kit/tasks/"} <= set(places)
    code = "".join(
        path.read_text()
        for place in set(places)
        for path in ([ROOT / place] if place.endswith(".py") else (ROOT / place).glob("*.py"))
    )
    for name in re.findall(r"`(?:self\.)?([A-Za-z_]+)`", "\n".join(table)):
        assert re.search(rf"\b{name}\b", code), name
