"""tests/pack.py: what students hand in."""

from pathlib import Path

import pytest
import torch

import train
from instructor.uploads import LIMITS, unpack
from tests import pack
from trainer import read_checkpoint

SHORT = ["--epochs", "1", "--batch_size", "20"]


@pytest.fixture
def here(tmp_path, monkeypatch, small_data):
    """A working directory with a trained VAE and a trained JSA; the tests are not run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset").symlink_to(small_data)
    rows = [{"number": "2.3", "score": 15.0, "max_score": 15.0}]
    rows += [{"number": "4.6", "score": 0.0, "max_score": 4.0}]
    monkeypatch.setattr(pack, "run_tests", lambda: rows)
    train.main(["--task", "VAEwolabel", "--latent_dim", "5", *SHORT])
    train.main(["--task", "JSA", "--latent_dim", "12", "--hidden", "20", *SHORT])
    return tmp_path


def stop_message(*arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        pack.main(list(arguments))
    return str(stop.value)


def test_the_class_grader_takes_the_zip(here, capsys):
    pack.main([])
    out = capsys.readouterr().out
    assert "code           15 / 19" in out and "TODO 4.6        0 / 4" in out
    assert "JSA" in out and "Hand in this file" in out
    assert "Genwithlabel: there is no runs/Genwithlabel/best.pth" in out
    (here / "unpacked").mkdir()
    assert unpack(here / "submission.zip", here / "unpacked") == []
    names = {path.name for path in (here / "unpacked").iterdir()}
    assert names == {"submission.py", "VAEwolabel.pth", "log_VAEwolabel.csv", "JSA.pth",
                     "log_JSA.csv"}  # fmt: skip
    slim = read_checkpoint(here / "unpacked" / "JSA.pth")
    assert "sampler_state_dict" not in slim and slim["config"]["task"] == "JSA"
    whole = read_checkpoint("runs/JSA/best.pth")["model_state_dict"]
    assert all(torch.equal(whole[name], slim["model_state_dict"][name]) for name in whole)
    assert (here / "unpacked" / "submission.py").read_bytes() == (
        Path(pack.__file__).parents[1] / "submission.py"
    ).read_bytes()


def test_limits_are_the_graders():
    assert LIMITS["submission.py"] == pack.LIMITS["submission.py"]
    for name, limit in LIMITS.items():
        if name.endswith(".pth"):
            assert limit == pack.LIMITS["checkpoint"]
        if name.endswith(".csv"):
            assert limit == pack.LIMITS["log"]


def test_what_is_wrong_is_named(here, monkeypatch):
    assert "runs/JSA/no.pth" in stop_message("--checkpoint", "JSA=runs/JSA/no.pth")
    assert "write TASK=FILE" in stop_message("--checkpoint", "jsa")
    message = stop_message("--checkpoint", "JSA=runs/VAEwolabel/best.pth")
    assert "runs/VAEwolabel/best.pth is a checkpoint of VAEwolabel, not of JSA" in message
    Path("runs/JSA/best.pth").write_bytes(b"nonsense")
    assert "runs/JSA/best.pth cannot be loaded" in stop_message()
    monkeypatch.setitem(pack.LIMITS, "checkpoint", 10_000)
    message = stop_message("--checkpoint", "JSA=runs/JSA/last.pth")
    assert "VAEwolabel.pth has" in message and "make it smaller" in message
    assert not Path("submission.zip").exists()
    monkeypatch.setattr(pack, "ROOT", here)
    assert "submission.py is missing" in stop_message()


def test_tests_that_do_not_run(here, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(pack, "ROOT", here)
    with pytest.raises(pack.PackError, match="did not run"):
        pack.run_tests()
