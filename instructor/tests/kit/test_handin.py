"""kit/handin.py: what students hand in."""

from pathlib import Path

import pytest
import torch

from instructor.grading.uploads import unpack
from instructor.tests.kit.tools import stop_message
from kit import handin
from kit.files import ROOT
from trainer import read_checkpoint

SHORT = ["--epochs", "1", "--batch_size", "20"]


@pytest.fixture
def models(here, trained, monkeypatch):
    """A working directory with a trained VAE and a trained JSA; the tests are not run."""
    rows = [{"number": "2.3", "score": 15.0, "max_score": 15.0}]
    rows += [{"number": "4.6", "score": 0.0, "max_score": 4.0}]
    monkeypatch.setattr(handin, "run_tests", lambda: rows)
    trained(["--task", "VAEwolabel", "--latent_dim", "5", *SHORT], "runs/VAEwolabel")
    jsa = ["--task", "JSA", "--latent_dim", "12", "--hidden", "20"]
    trained([*jsa, *SHORT], "runs/JSA")
    return here


def refused(*arguments: str) -> str:
    return stop_message(handin.main, *arguments)


def test_the_class_grader_takes_the_zip(models, capsys):
    handin.main([])
    out = capsys.readouterr().out
    assert "code           15 / 19" in out and "TODO 4.6        0 / 4" in out
    assert "JSA" in out and "Hand in this file" in out
    assert "Genwithlabel: there is no runs/Genwithlabel/best.pth" in out
    (models / "unpacked").mkdir()
    assert unpack(models / "submission.zip", models / "unpacked") == []
    names = {path.name for path in (models / "unpacked").iterdir()}
    assert names == {"submission.py", "VAEwolabel.pth", "log_VAEwolabel.csv", "JSA.pth",
                     "log_JSA.csv"}  # fmt: skip
    slim = read_checkpoint(models / "unpacked" / "JSA.pth")
    assert "sampler_state_dict" not in slim and slim["config"]["task"] == "JSA"
    whole = read_checkpoint("runs/JSA/best.pth")["model_state_dict"]
    assert all(torch.equal(whole[name], slim["model_state_dict"][name]) for name in whole)
    assert (models / "unpacked" / "submission.py").read_bytes() == (
        ROOT / "submission.py"
    ).read_bytes()


def test_what_is_wrong_is_named(models, monkeypatch):
    assert "runs/JSA/no.pth" in refused("--checkpoint", "JSA=runs/JSA/no.pth")
    assert "write TASK=FILE" in refused("--checkpoint", "jsa")
    message = refused("--checkpoint", "JSA=runs/VAEwolabel/best.pth")
    assert "runs/VAEwolabel/best.pth is a checkpoint of VAEwolabel, not of JSA" in message
    Path("runs/JSA/best.pth").write_bytes(b"nonsense")
    assert "runs/JSA/best.pth cannot be loaded" in refused()
    monkeypatch.setitem(handin.LIMITS, "VAEwolabel.pth", 10_000)
    message = refused("--checkpoint", "JSA=runs/JSA/last.pth")
    assert "VAEwolabel.pth has" in message and "make it smaller" in message
    assert not Path("submission.zip").exists()
    monkeypatch.setattr(handin, "ROOT", models)
    assert "submission.py is missing" in refused()


def test_tests_that_do_not_run(models, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(handin, "ROOT", models)
    with pytest.raises(handin.HandInError, match="did not run"):
        handin.run_tests()
