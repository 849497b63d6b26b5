"""The autograder judged by the bank: what it must catch, what it must pass, what it is worth."""

import json
import re
import subprocess
import sys
from collections import Counter

import pytest

from instructor.banks.mutants.bank import SAMPLE, TRAINING, Candidate, Verdict, candidates
from instructor.banks.mutants.mutant import REFERENCE, alternatives, mutant_source, read_mutants
from instructor.handout.stubs import strip_solutions
from instructor.tests.warm import run_python
from kit.assignment import ROWS
from kit.files import ROOT

POINTS = {todo: points for part in ROWS for todo, points in part.points.items()}
SOURCE = REFERENCE.read_text()


def results_of(tmp_path, *arguments) -> dict:
    """results.json after a run of the autograder."""
    path = tmp_path / "results.json"
    options = ("-q", "-p", "no:cacheprovider", "tests", f"--results={path}")
    run = run_python("-m", "pytest", *options, *arguments, cwd=ROOT)
    assert path.is_file(), run.stdout + run.stderr
    return json.loads(path.read_text())


def test_mutants_are_edits_of_the_reference():
    sources = {mutant.name: mutant_source(mutant, SOURCE) for mutant in read_mutants()}
    assert SOURCE not in sources.values()
    assert len(set(sources.values())) == len(sources)
    for name, source in sources.items():
        compile(source, f"{name}.py", "exec")


def test_names_and_coverage():
    mutants = read_mutants()
    names = [mutant.name for mutant in mutants] + list(alternatives())
    assert max(Counter(names).values()) == 1
    assert set(SAMPLE) <= set(names)
    by_part = Counter(mutant.part for mutant in mutants)
    assert by_part.keys() == POINTS.keys()
    assert min(by_part.values()) >= 4


def test_an_edit_must_fit_exactly_once():
    mutant = read_mutants()[0]
    (line,) = (line for line in SOURCE.splitlines() if mutant.old[0] in line and "2 *" in line)
    with pytest.raises(ValueError, match=f"{mutant.name}: its text must occur"):
        mutant_source(mutant, SOURCE.replace(line, f"{line}\n{line}"))


@pytest.mark.parametrize(
    ("part", "lost", "word"),
    [
        ("2.3", {"2.3"}, "caught"),
        ("2.3", set(), "ESCAPED"),
        ("2.3", {"4.1"}, "ESCAPED"),
        ("2.3", {"2.3", "4.1"}, "LOST ELSEWHERE, in 4.1"),
        ("", set(), "full marks"),
        ("", {"3", "2.2"}, "FALSE ALARM in 2.2, 3"),
    ],
)
def test_verdicts(part, lost, word):
    verdict = Verdict(Candidate("name", part, ""), dict.fromkeys(lost, 1.0))
    assert verdict.word == word
    assert verdict.good == (word in ("caught", "full marks"))


def test_training_is_left_out_where_it_sees_nothing():
    chosen = candidates(["vae-tanh", "gen-no-sigmoid", "loss-no-kl", "loops"])
    assert {
        c.name: sum("_train" in test or "_mu_" in test for test in c.tests) for c in chosen
    } == {
        "vae-tanh": 2,
        "gen-no-sigmoid": 1,
        "loss-no-kl": 3,
        "loops": 0,
    }


def test_what_is_left_out_exists():
    for name in (name for names in TRAINING.values() for name in names):
        path, _, test = name.partition("::")
        assert f"\ndef {test}(" in (ROOT / path).read_text(), name
    with pytest.raises(LookupError, match="not in the bank: no-such-mutant"):
        candidates(["no-such-mutant"])


def test_points(tmp_path):
    points = Counter()
    for row in results_of(tmp_path, "--collect-only")["tests"]:
        points[row["number"]] += row["max_score"]
    assert points == POINTS
    assert points.total() == 110


def test_stubs_earn_nothing_and_say_why(tmp_path):
    (tmp_path / "submission.py").write_text(strip_solutions(SOURCE))
    results = results_of(tmp_path, f"--submission={tmp_path}")
    assert results["score"] == 0
    for row in results["tests"]:
        assert row["status"] == "failed"
        todo = re.fullmatch(r"TODO ([\d.]+) is not implemented yet", row["output"])
        assert todo and todo[1].startswith(row["number"]), row


@pytest.mark.staff
@pytest.mark.timeout(600)
def test_a_part_of_the_bank():
    """Some mistakes of every part and two other ways to be right; about 50 s of one core.

    All of it: `python -m instructor mutants`. Without staff's requirements it is left out, so that
    the front page's command stays short; CI has them.
    """
    pytest.importorskip("psutil", reason="needs instructor/requirements.txt")
    command = [sys.executable, "-m", "instructor", "mutants", "--sample"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    count = len(SAMPLE) - len(set(SAMPLE) & set(alternatives()))
    assert f"mutants caught: {count}/{count}" in run.stdout
