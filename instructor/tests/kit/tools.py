"""What several test files of the provided code share."""

import csv
import os
from pathlib import Path

import pytest
import torch

import submission
from instructor.tests.warm import run_python
from kit.files import ROOT
from kit.settings import ToySettings
from kit.tasks import make_task
from trainer import read_checkpoint

# Runs train.py, and kills itself with signal {signal} at the {batch}th training batch; of several
# processes the first one lives.
AT_BATCH = """
import os, train, trainer
original, count = trainer.Trainer.set_learning_rate, 0
def counting(self, progress):
    global count
    count += 1
    if count == {batch} and os.environ.get("RANK") != "0":
        os.kill(os.getpid(), {signal})
    original(self, progress)
trainer.Trainer.set_learning_rate = counting
train.main({arguments})
"""
# Runs train.py, and kills itself half-way through writing the {number}th checkpoint.
IN_CHECKPOINT = """
import os, pathlib, signal, train
original, count = pathlib.Path.write_bytes, 0
def torn(path, data):
    global count
    count += path.name.endswith(".pth")
    if count == {number}:
        original(path, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    original(path, data)
pathlib.Path.write_bytes = torn
train.main({arguments})
"""


def execute(script: str, **values) -> int:
    """Run a script in a new process; returns its exit status, negative for a signal."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return run_python("-c", script.format(**values), env=environment).returncode


def equal(a, b) -> bool:
    """Bitwise equality of nested containers of tensors and plain values."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def assert_same_run(first: str, second: str) -> None:
    names = {file.name for file in Path(first).iterdir()}
    assert names == {f.name for f in Path(second).iterdir() if not f.name.startswith(".tmp-")}
    for name in sorted(names):
        one, two = Path(first, name), Path(second, name)
        if name.endswith(".pth"):
            one, two = read_checkpoint(one), read_checkpoint(two)
            for key in one:
                assert equal(one[key], two[key]), f"{name}: {key} differs"
        else:
            assert one.read_bytes() == two.read_bytes(), f"{name} differs"


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log.csv, without the empty cells."""
    with path.open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def weights(path: str | Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)["model_state_dict"]


def stop_message(function, *arguments) -> str:
    """What a program prints that stops with a message."""
    with pytest.raises(SystemExit) as stop:
        function(list(arguments))
    return str(stop.value)


def small_task(latent="bernoulli", **changes):
    """A JSA task with linear networks on points in the plane, far from its start."""
    sizes = {"latent_dim": 3, "num_categories": 3, "sigma": 0.5, "sigma_start": 0.5}
    settings = ToySettings(hidden=[], latent=latent, **sizes, **changes)
    torch.manual_seed(0)
    task = make_task(submission, settings, num_examples=40)
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.mul_(2)
    return task
