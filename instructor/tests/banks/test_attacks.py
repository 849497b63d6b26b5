"""The bank of attacks: each is what it says, and the grader stands a part of them."""

import subprocess
import sys

import pytest
import torch

pytest.importorskip("psutil", reason="needs instructor/requirements.txt")

from instructor.banks.attacks import archives
from instructor.banks.attacks.attack import problems, read_attacks
from instructor.banks.attacks.bank import SAMPLE
from instructor.grading.result import Check, Code, Quality, Result
from instructor.isolation.check import require
from instructor.isolation.sandbox import SandboxError
from kit.files import ROOT

pytestmark = pytest.mark.staff
ATTACKS = {attack.name: attack for attack in read_attacks()}


def test_names_and_verdicts_are_complete():
    assert len(ATTACKS) == len(read_attacks()) >= 50
    assert set(SAMPLE) <= set(ATTACKS)
    for attack in ATTACKS.values():
        assert attack.code != "" and (attack.quality != "" or attack.flag), attack.name


def test_archives_are_registered_by_their_decorator(monkeypatch):
    monkeypatch.setattr(archives, "ARCHIVES", [])

    def helper(folder, honest):
        """A docstring alone registers nothing."""

    @archives.archive_attack
    def new_attack(folder, honest):
        """Tries something new.

        code: 0
        quality: usual
        """

    found = [attack for attack in read_attacks() if attack.build in (helper, new_attack)]
    assert [attack.name for attack in found] == ["new_attack"]
    assert (found[0].what, found[0].code) == ("Tries something new.", "0")


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


def row(code: float, quality: float, reason: str = "no model") -> Result:
    """An upload with so many points for code, and for the quality of one of three tasks."""
    check = Check("TODO 2.2: all", "2.2", code, 90.0, "failed", "", "visible")
    tasks = {task: Quality(0.0, 30.0, reason=reason) for task in ("VAEwolabel", "JSA")}
    tasks["Genwithlabel"] = Quality(quality, 30.0, reason=reason)
    return Result("name", "key", False, Code(["2", "3", "4"], [check]), tasks)


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
    command = [sys.executable, "-m", "instructor", "attacks", "--sample"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"attacks withstood: {len(SAMPLE)}/{len(SAMPLE)}" in done.stdout
