"""A run that was killed or interrupted and resumed equals the unbroken run, bit for bit."""

import random
import signal
from pathlib import Path

import pytest
import torch

import data_utils
import submission
import train
from instructor.tests.kit.tools import AT_BATCH, IN_CHECKPOINT, assert_same_run, execute
from kit.settings import JSASettings, VAESettings
from kit.tasks import Task, make_task
from trainer import read_checkpoint

EPOCHS, BATCHES = 4, 3  # 60 examples in batches of 20
RUNS = {
    "vae": "--task VAEwolabel --latent_dim 5 --hidden 30",
    "gen": "--task Genwithlabel --latent_dim 5 --binarize dynamic",
    "jsa": "--task JSA --latent_dim 12 --cache_start_epoch 2 --hidden 30",
    "jsa_categorical": "--task JSA --latent categorical --latent_dim 4 --num_categories 7 "
    "--hidden 30 --cache_start_epoch 2 --chain_states all --code posterior "
    "--prior uniform --local_steps 0",
    "cgae": "--task CGAE --latent_dim 3 --num_prototypes 4",
    "cgae_mis": "--task CGAE --latent_dim 2 --num_prototypes 2 --patch_size 5 --sampler mis",
}


def flags_of(name: str) -> list[str]:
    return [*RUNS[name].split(), "--epochs", str(EPOCHS), "--batch_size", "20"]


@pytest.fixture
def arguments(here):
    """A function: name of a run and folder -> command-line arguments of train.py."""

    return lambda name, folder: [*flags_of(name), "--save_dir", folder]


@pytest.fixture
def complete(trained):
    """A function: name of a run and folder -> leaves the complete run in the folder."""
    return lambda name, folder: trained(flags_of(name), folder)


@pytest.mark.parametrize("name", RUNS)
def test_killed_and_interrupted_runs_equal_the_unbroken_one(arguments, complete, name):
    complete(name, "unbroken")
    rng = random.Random(name)  # kill points that differ by run and stay the same over time
    for number, how in (("killed", signal.SIGKILL), ("interrupted", signal.SIGINT)):
        batch = rng.randrange(1, EPOCHS * BATCHES)
        status = execute(AT_BATCH, batch=batch, signal=int(how), arguments=arguments(name, number))
        assert status == (-signal.SIGKILL if how == signal.SIGKILL else 0)
        completed = (batch - 1) // BATCHES  # at most the epoch of that batch is repeated
        assert read_checkpoint(f"{number}/last.pth")["epoch"] == completed
        train.main([*arguments(name, number), "--resume"])
        assert_same_run("unbroken", number)


def test_kill_while_writing_a_checkpoint(arguments, complete):
    complete("jsa", "unbroken")
    # The first is last.pth before training; then best.pth (where it is) and last.pth per epoch.
    number = random.Random(7).randrange(2, EPOCHS + 1)
    status = execute(IN_CHECKPOINT, number=number, arguments=arguments("jsa", "torn"))
    assert status == -signal.SIGKILL
    assert any(file.name.startswith(".tmp-") for file in Path("torn").iterdir())
    read_checkpoint("torn/last.pth")
    train.main([*arguments("jsa", "torn"), "--resume"])
    assert_same_run("unbroken", "torn")


def test_full_disk_keeps_the_last_checkpoint(arguments, complete, monkeypatch):
    complete("jsa", "run")
    before = Path("run/last.pth").read_bytes()

    def full(path, data):
        with path.open("wb") as file:
            file.write(data[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SystemExit) as stop:
        train.main([*arguments("jsa", "run"), "--resume", "--epochs", "6"])
    assert "No space left" in str(stop.value) and "--resume" in str(stop.value)
    assert Path("run/last.pth").read_bytes() == before
    assert not any(file.name.startswith(".tmp-") for file in Path("run").iterdir())


def test_resuming_a_complete_run_changes_nothing(arguments, complete):
    complete("jsa", "a")
    complete("jsa", "b")
    train.main([*arguments("jsa", "b"), "--resume"])
    assert_same_run("a", "b")


def test_resume_refuses_other_settings_data_and_code(arguments, complete, monkeypatch):
    complete("jsa", "run")
    before = Path("run/last.pth").read_bytes()

    def refused(*flags):
        with pytest.raises(SystemExit) as stop:
            train.main([*arguments("jsa", "run"), "--resume", *flags])
        return str(stop.value)

    assert "--sigma 0.25" in refused("--sigma", "0.4")
    other = Path("other")
    data_utils.prepare("sample", other)
    assert "not those" in refused("--data_dir", "other")

    class OtherTask(Task):
        def __init__(self):
            super().__init__(torch.nn.Linear(2, 2), VAESettings(batch_size=20))

        def param_groups(self):
            return [{"params": self.model.parameters(), "lr": 1e-3}]

    monkeypatch.setattr(train, "make_task", lambda *_: OtherTask())
    assert "does not fit" in refused()
    assert Path("run/last.pth").read_bytes() == before


def test_resume_takes_data_and_toy_from_the_run_folder(arguments):
    data = Path("dataset").resolve()
    train.main([*arguments("vae", "elsewhere"), "--data_dir", str(data)])
    Path("dataset").unlink()
    train.main(["--task", "VAEwolabel", "--save_dir", "elsewhere", "--resume", "--epochs", "5"])
    assert read_checkpoint("elsewhere/last.pth")["epoch"] == 5
    toy = ["--task", "JSA", "--dataset", "gaussian2d", "--save_dir", "toy", "--epochs", "1"]
    toy += ["--latent_dim", "1"]  # fewer states to sum over
    train.main(toy)
    train.main(["--task", "JSA", "--save_dir", "toy", "--resume", "--epochs", "2"])
    assert read_checkpoint("toy/last.pth")["epoch"] == 2


def test_resume_goes_on_past_the_old_end(arguments, complete):
    complete("vae", "run")
    train.main([*arguments("vae", "run"), "--resume", "--epochs", "6"])
    assert read_checkpoint("run/last.pth")["epoch"] == 6
    assert len(Path("run/log.csv").read_text().splitlines()) == 7


def test_cache_moves_between_dtypes_and_sizes_with_a_clear_error():
    def cache(num_examples, **changes):
        settings = JSASettings(**{"latent_dim": 3, **changes})
        return make_task(submission, settings, num_examples).cache

    a, b = cache(5), cache(5)
    a.put(torch.tensor([4, 1]), torch.tensor([[1.0, 0, 1], [0, 1, 1]]))
    b.load_state_dict(a.state_dict())
    assert torch.equal(a.table, b.table) and a.table is not b.table
    assert b.table[0].tolist() == [255] * 3 and b.table[4].tolist() == [1, 0, 1]
    for other in (cache(6), cache(5, latent="categorical"), cache(5, latent_dim=4)):
        with pytest.raises(ValueError, match="cache"):
            other.load_state_dict(a.state_dict())
