"""The bank that tests the autograder: all edits apply, and a representative part is judged."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from instructor.mutants.__main__ import SAMPLE
from instructor.mutants.mutant import (
    REFERENCE,
    alternative_source,
    alternatives,
    mutant_source,
    read_mutants,
)

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("2.2", "2.3", "3", "4.1", "4.2", "4.3", "4.4", "4.5", "4.6")


def test_every_edit_applies_and_compiles():
    reference = REFERENCE.read_text()
    sources = {mutant.name: mutant_source(mutant, reference) for mutant in read_mutants()}
    others = {name: alternative_source(path, reference) for name, path in alternatives().items()}
    assert not sources.keys() & others.keys()
    assert len(sources) == len(read_mutants())
    for name, source in (sources | others).items():
        assert source != reference, name
        compile(source, name, "exec")
    assert len(set(sources.values())) == len(sources)
    assert set(SAMPLE) <= sources.keys() | others.keys()


def test_every_todo_has_several_mutants():
    counts = Counter(mutant.part for mutant in read_mutants())
    assert set(counts) == set(PARTS)
    assert min(counts.values()) >= 4


@pytest.mark.timeout(900)
def test_a_representative_part_of_the_bank_is_judged_rightly():
    """`python -m instructor.mutants` runs all of it; in a new process, because it forks."""
    command = [sys.executable, "-m", "instructor.mutants", "--sample"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
