"""Training in several processes, as torchrun starts them."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train
from data_utils import OwnExamples
from instructor.tests.kit.tools import AT_BATCH, assert_same_run
from instructor.tests.warm import run_python
from kit.files import ROOT
from trainer import read_checkpoint

EPOCHS, BATCHES = 4, 3  # 60 examples in batches of 20, ten of them in each process
COLLECTIVES = """
import pathlib
import torch
from kit.processes import Processes
from trainer import Totals
processes = Processes()
processes.start(torch.device("cpu"))
rank = processes.rank
model = torch.nn.Linear(2, 1)
torch.nn.init.constant_(model.weight, rank + 5)
processes.share_weights(model)
assert (model.weight == 5).all()
model.weight.grad = torch.full((1, 2), 1.0 + rank)  # and no gradient for the bias
assert not processes.average_gradients(model, False)
assert (model.weight.grad == 1.5).all() and (model.bias.grad == 0).all()
assert processes.average_gradients(model, rank == 1)
for dtype in (torch.uint8, torch.int16):
    table = torch.full((5, 3), -1).to(dtype)
    table[rank::2] = 10 * rank + torch.arange(5)[rank::2, None].to(dtype)
    processes.share_rows(table)
    assert table[:, 0].tolist() == [0, 11, 2, 13, 4], table
assert processes.in_turn(lambda: rank) == rank
totals = Totals()
totals.add({"loss": torch.tensor(1.0 + rank), "ess": torch.tensor(4.0)}, 10 + 20 * rank)
totals.add({"loss": torch.tensor(3.0)}, 20)  # and no ess in this batch
assert totals.means(processes) == {"loss": (10 + 60 + 60 + 60) / 80, "ess": 4.0}
torch.optim.Adam(model.parameters())  # imports much, and nothing of it may keep the group alive
processes.end()
threads = [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
assert not any("gloo" in name for name in threads), threads
"""


# torchrun but for the start of its processes: they are forks and need not import torch again.
FORKING = """
import runpy, sys
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args
alone = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]  # what --standalone stands for
config, _, _ = config_from_args(parse_args([*alone, *sys.argv[1:]]))
config.start_method = "fork"
def run():
    runpy.run_path(sys.argv[-1], run_name="__main__")
elastic_launch(config, entrypoint=run)()
"""


def torchrun(folder: Path, script: str, forking: bool = False) -> subprocess.CompletedProcess:
    """Run a script in two processes of one thread each, `forking` to save the imports."""
    file = folder / "script.py"
    file.write_text(script)
    flags = ["--nproc_per_node=2", str(file)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if forking and sys.platform == "linux":
        return run_python("-c", FORKING, *flags, env=environment)
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", *flags],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def arguments(here):
    """A function: folder -> command-line arguments of train.py."""
    flags = "--task JSA --latent categorical --latent_dim 4 --hidden 30 --cache_start_epoch 2"
    flags += f" --epochs {EPOCHS} --batch_size 20 --save_dir"
    return lambda folder: [*flags.split(), folder]


def test_each_example_has_one_owner():
    for num_examples, size in ((60, 2), (61, 2), (61, 3), (5, 5)):
        seen = set()
        for _ in range(2):
            orders = [
                OwnExamples(num_examples, rank, size, torch.Generator().manual_seed(len(seen)))
                for rank in range(size)
            ]
            passes = [list(order) for order in orders]
            for rank, (order, indices) in enumerate(zip(orders, passes, strict=True)):
                assert all(i % size == rank for i in indices)
                assert len(indices) == len(set(indices)) == len(order) == num_examples // size
                seen |= set(indices)
        in_order = [i for rank in range(size) for i in OwnExamples(num_examples, rank, size)]
        assert sorted(in_order) == list(range(num_examples))
        assert len(seen) >= num_examples - size + 1


def test_collectives(tmp_path):
    done = torchrun(tmp_path, COLLECTIVES)
    assert done.returncode == 0, done.stderr


def test_two_processes_one_killed_and_resumed(arguments, tmp_path, capsys):
    script = f"import train\ntrain.main({arguments('unbroken')})"
    done = torchrun(tmp_path, script, forking=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{EPOCHS} epochs") == 1  # one process does the talking
    checkpoint = read_checkpoint("unbroken/last.pth")
    assert (checkpoint["sampler_state_dict"]["cache"] >= 0).all()
    assert len(checkpoint["random_states"]) == 2

    batch = random.Random(3).randrange(BATCHES + 1, EPOCHS * BATCHES)
    script = AT_BATCH.format(batch=batch, signal=int(signal.SIGKILL), arguments=arguments("killed"))
    done = torchrun(tmp_path, script)
    assert done.returncode != 0 and "--resume" in done.stderr
    assert read_checkpoint("killed/last.pth")["epoch"] == (batch - 1) // BATCHES
    script = f"import train\ntrain.main({[*arguments('killed'), '--resume']})"
    done = torchrun(tmp_path, script, forking=True)
    assert done.returncode == 0, done.stderr
    assert_same_run("unbroken", "killed")

    train.main(["--task", "JSA", "--save_dir", "killed", "--resume", "--epochs", str(EPOCHS + 1)])
    assert "number of processes" in capsys.readouterr().out
    assert read_checkpoint("killed/last.pth")["epoch"] == EPOCHS + 1


def test_patches_in_two_processes(arguments, tmp_path):
    flags = [
        "--task",
        "CGAE",
        "--latent_dim",
        "2",
        "--num_prototypes",
        "2",
        "--patch_size",
        "5",
        "--epochs",
        "2",
    ]
    flags += ["--batch_size", "20", "--save_dir", "patches", "--device", "cpu"]
    done = torchrun(tmp_path, f"import train\ntrain.main({flags})", forking=True)
    assert done.returncode == 0, done.stderr
    checkpoint = read_checkpoint("patches/last.pth")
    assert (checkpoint["sampler_state_dict"]["cache"] >= 0).all()
    assert checkpoint["model_state_dict"]["joint.counts"].sum() == 60 * 2


def test_batches_that_cannot_be_shared_are_refused(arguments, monkeypatch, capsys):
    monkeypatch.setattr(train.Processes, "start", lambda self, device: device)
    monkeypatch.setattr(train.Processes, "in_turn", lambda self, function, *args: function(*args))
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SystemExit) as stop:
        train.main(arguments("run"))
    assert "3 processes cannot share batches of 20" in str(stop.value)
