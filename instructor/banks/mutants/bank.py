"""What is in the bank, and how it is graded: a forked child and a results.json for each."""

import itertools
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch

from instructor.banks.mutants.mutant import (
    REFERENCE,
    alternative_source,
    alternatives,
    mutant_source,
    read_mutants,
)
from kit.files import ROOT

SECONDS = 300  # wall clock for one submission; what is unfinished then counts as failed
# The tests that train a network take most of the time of a run. They train VAE and GenModel and see
# none of the other definitions, so without --every-test they run for edits of these two only.
TRAINING = {
    "VAE": ["tests/test_part2.py::test_training_lowers_the_loss_and_z_has_the_right_spread"],
    "GenModel": [
        "tests/test_part3.py::test_trained_model_draws_the_digit_asked_for",
        "tests/test_part3.py::test_mu_is_the_code",
    ],
}
# What CI runs: a few mistakes of every part, one wrong and one right network that is trained.
SAMPLE = (
    "vae-eps-shared",
    "vae-log-var-detached",
    "loss-no-half",
    "gen-label-shifted",
    "net-hidden-order",
    "joint-no-prior",
    "proposal-draw-shared",
    "chain-barker",
    "chain-previous-proposal",
    "sample-stale-score",
    "step-cache-of-proposals",
    "jsa-joint-detached",
    "mixture-each-entry",
    "scores-whole-norm",
    "gibbs-not-removed",
    "patch-log-q-own-patch",
    "mlp_networks",
    "torch_distributions",
    "loops",
)


@dataclass(frozen=True)
class Candidate:
    """A submission to grade.

    Attributes:
        name: its name in the bank.
        part: the TODO that must lose points; "" for a correct submission.
        source: the text of its submission.py.
        tests: arguments of pytest that leave out some tests.
    """

    name: str
    part: str
    source: str
    tests: tuple[str, ...] = ()


@dataclass
class Verdict:
    """What the autograder said of a candidate.

    Attributes:
        lost: points lost, by TODO.
        messages: the first failure message of each TODO.
    """

    candidate: Candidate
    lost: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    messages: dict[str, str] = field(default_factory=dict)

    @property
    def word(self) -> str:
        part, elsewhere = self.candidate.part, sorted(set(self.lost) - {self.candidate.part})
        if not part:
            return f"FALSE ALARM in {', '.join(elsewhere)}" if elsewhere else "full marks"
        if part not in self.lost:
            return "ESCAPED"
        return f"LOST ELSEWHERE, in {', '.join(elsewhere)}" if elsewhere else "caught"

    @property
    def good(self) -> bool:
        return self.word in ("caught", "full marks")


def candidates(
    names: list[str], every_test: bool = False, more: tuple[str, ...] = ()
) -> list[Candidate]:
    """The bank, or what `names` gives of it; `more` are arguments of pytest for everyone.

    Raises:
        LookupError: a name is not in the bank.
    """
    reference = REFERENCE.read_text()
    bank = []
    for mutant in read_mutants():
        unseen = [] if every_test else [t for k, t in TRAINING.items() if k != mutant.where]
        tests = tuple(f"--deselect={test}" for test in itertools.chain(*unseen)) + more
        bank.append(Candidate(mutant.name, mutant.part, mutant_source(mutant, reference), tests))
    for name, path in alternatives().items():
        bank.append(Candidate(name, "", alternative_source(path, reference), more))
    if unknown := set(names) - {candidate.name for candidate in bank}:
        raise LookupError(f"not in the bank: {', '.join(sorted(unknown))}")
    return [candidate for candidate in bank if not names or candidate.name in names]


def grade_all(candidates: Iterable[Candidate], jobs: int = 2) -> Iterator[Verdict]:
    """Grade `jobs` candidates at a time, in forked children that need not import torch again.

    This process must not compute with torch before: OpenMP's threads do not survive a fork.
    """
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    waiting, running = list(candidates)[::-1], {}
    while waiting or running:
        while waiting and len(running) < jobs:
            candidate = waiting.pop()
            folder = Path(tempfile.mkdtemp(prefix="mutant-"))
            (folder / "submission.py").write_text(candidate.source)
            process = context.Process(target=_child, args=(folder, candidate.tests))
            process.start()
            running[process.sentinel] = process, candidate, folder, time.monotonic() + SECONDS
        nearest = min(deadline for *_, deadline in running.values())
        ended = wait(list(running), max(0.0, nearest - time.monotonic()))
        late = [key for key, (*_, deadline) in running.items() if deadline < time.monotonic()]
        for key in {*ended, *late}:
            process, candidate, folder, _ = running.pop(key)
            process.kill()
            process.join()
            yield _verdict(candidate, folder)
            shutil.rmtree(folder)


def _child(folder: Path, tests: tuple[str, ...]) -> None:
    """Run the autograder in this process; its output goes to a file beside the submission."""
    with (folder / "output.txt").open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(ROOT)
    sys.dont_write_bytecode = True
    paths = ["--submission", str(folder), "--results", str(folder / "results.json")]
    pytest.main(["tests", "-q", "-p", "no:cacheprovider", *paths, *tests])


def _verdict(candidate: Candidate, folder: Path) -> Verdict:
    results = folder / "results.json"
    if not results.is_file():
        raise RuntimeError(f"{candidate.name}: no results\n{(folder / 'output.txt').read_text()}")
    verdict = Verdict(candidate)
    for row in json.loads(results.read_text())["tests"]:
        if row["score"] < row["max_score"]:
            verdict.lost[row["number"]] += row["max_score"] - row["score"]
            verdict.messages.setdefault(row["number"], row["output"])
    return verdict
