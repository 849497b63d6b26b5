"""The handout of parts 2 to 4, and the reference that it is made from."""

from collections.abc import Callable
from pathlib import Path

import pytest

from instructor.handout import checks
from instructor.handout.build import collect
from instructor.handout.checks import Files, write_files
from instructor.handout.stubs import find_blocks, strip_solutions
from instructor.tests.warm import run_in_handout
from kit.files import ROOT


@pytest.fixture(autouse=True)
def warm(monkeypatch):
    """The checks start Python as these tests do."""
    monkeypatch.setattr(checks, "run_python", run_in_handout)


@pytest.fixture(scope="session")
def source() -> str:
    """The solved submission.py."""
    return (ROOT / "submission.py").read_text()


@pytest.fixture(scope="session")
def handout_files() -> Files:
    return collect()


@pytest.fixture
def handout(handout_files, tmp_path) -> Path:
    """The handout, unpacked."""
    write_files(tmp_path / "handout", handout_files)
    return tmp_path / "handout"


@pytest.fixture
def put_back(handout, source) -> Callable[..., None]:
    """`put_back("2.3", "4.1")` solves these TODOs, and no others, in the handout."""

    def write(*todos: str) -> None:
        keep = [block for block in find_blocks(source) if block.todo in todos]
        (handout / "submission.py").write_text(strip_solutions(source, keep))

    return write
