"""The hostile bank: its attacks are what they say, and the grader stands a part of them."""

import subprocess
import sys

import pytest
import torch

pytest.importorskip("psutil", reason="needs instructor/requirements.txt")

from instructor.hostile.__main__ import SAMPLE
from instructor.hostile.attack import problems, read_attacks
from instructor.sandbox import SandboxError
from instructor.sandbox_check import require
from tests.worker import ROOT

ATTACKS = {attack.name: attack for attack in read_attacks()}


def test_names_and_verdicts_are_complete():
    assert len(ATTACKS) == len(read_attacks()) >= 50
    assert set(SAMPLE) <= set(ATTACKS)
    for attack in ATTACKS.values():
        assert attack.code != "" and (attack.quality != "" or attack.flag), attack.name


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_can_be_built(name, tmp_path):
    honest = tmp_path / "honest"
    honest.mkdir()
    (honest / "submission.py").write_bytes((ROOT / "submission.py").read_bytes())
    torch.save({"config": {}}, honest / "JSA.pth")
    (tmp_path / "attack").mkdir()
    path = ATTACKS[name].build(tmp_path / "attack", honest)
    assert path.parent == tmp_path / "attack"
    if path.is_dir() and (path / "submission.py").is_file() and name != "source_bomb":
        compile((path / "submission.py").read_text(), name, "exec")


def row(code: float, quality: float, reason: str = "", flags: tuple = ()) -> dict:
    one = {"points": quality, "reason": reason, "flags": list(flags)}
    tasks = {"VAEwolabel": one} | dict.fromkeys(("Genwithlabel", "JSA"), one | {"points": 0.0})
    return {"reason": "", "notes": [], "code": {"score": code, "tests": []}, "quality": tasks}


@pytest.mark.parametrize(
    ("name", "found", "words"),
    [
        ("daemon", row(90, 9), []),
        ("daemon", row(89, 9), ["code"]),
        ("daemon", row(90, 8.99), ["quality"]),
        ("equals_everything", row(0, 0, "must be a tensor"), []),
        ("equals_everything", row(0.5, 0, "must be a tensor"), ["code"]),
        ("equals_everything", row(0, 0, "something else"), ["no reason says"]),
        ("identity_in_the_digits", row(90, 8.99), []),
        ("identity_in_the_digits", row(90, 9), ["quality"]),
        ("copied_samples", row(90, 9), ["no flag says"]),
    ],
)
def test_verdicts(name, found, words):
    told = problems(ATTACKS[name], found, row(90, 9))
    assert len(told) == len(words) and all(w in t for w, t in zip(words, told, strict=True))


@pytest.mark.timeout(600)
def test_sample_of_the_bank():
    try:
        require()
    except SandboxError as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "instructor.hostile", "--sample"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"attacks withstood: {len(SAMPLE)}/{len(SAMPLE)}" in done.stdout
