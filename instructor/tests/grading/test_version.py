"""The grader's version: it covers every file that a grade depends on, and changes with each."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("psutil", reason="needs instructor/requirements.txt")

from instructor import layout
from instructor.grading import grade_upload
from kit.files import ROOT

pytestmark = pytest.mark.staff

# Imports all that takes part in grading, in either sandbox and outside, and says which files of
# the repository were opened or imported.
PROGRAM = """
import json, os, pkgutil, sys
from pathlib import Path
opened = set()
sys.addaudithook(lambda event, a: event == "open" and opened.add(a[0]))
sys.path.insert(0, os.getcwd())
sys.dont_write_bytecode = True
from instructor.grading import grade_upload, quality, quality_child
import inference, numpy
from kit import assignment, settings
for task in assignment.TASKS:
    pkgutil.resolve_name(settings.settings_class(task).task_class)
quality.read_digits(numpy.zeros((2, 28, 28), numpy.uint8))
import pytest
files = [f"tests/test_part{part}.py" for part in assignment.PARTS]
options = ["--isolated", "--unsafe", "--seed=1", "--collect-only", "-q", "-p", "no:cacheprovider"]
assert pytest.main([*files, *options]) == 0
modules = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
paths = [Path(os.fsdecode(name)) for name in [*modules, *opened] if isinstance(name, (str, bytes))]
root = Path.cwd()
found = {p.relative_to(root).as_posix() for p in map(Path.absolute, paths)
         if p.is_relative_to(root) and p.is_file()}
print(json.dumps(sorted(found)))
"""


@pytest.fixture(scope="module")
def used() -> set[str]:
    """The files of the repository that grading reads, but those of the virtual environment."""
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    inside = Path(sys.prefix).name if Path(sys.prefix).is_relative_to(ROOT) else " "
    names = json.loads(done.stdout.splitlines()[-1])
    return {name for name in names if not name.startswith(f"{inside}/")}


def test_it_covers_all_that_grading_reads(used):
    listed = set(layout.files(*layout.GRADER))
    assert used - {"pyproject.toml"} <= listed  # that one says how pytest runs, not what it checks
    # The list of what was read is not short by some error of this test.
    files = ("submission.py", "tests/probes.py", "tests/test_part5.py", "kit/tasks/jsa.py")
    rooms = ("grading/hidden.py", "grading/quality_child.py", "isolation/seccomp.py")
    assert {*files, *(f"instructor/{name}" for name in rooms)} <= used
    assert "tests/expected/classifier.npz" in used


def test_every_change_makes_another_version(tmp_path, monkeypatch):
    for name in layout.files(*layout.GRADER):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    version = grade_upload.grader_version.__wrapped__  # without its cache
    before = version()
    monkeypatch.setattr(grade_upload, "ROOT", tmp_path)
    assert version() == before
    seen = {before}
    for name in ("instructor/grading/hidden.py", "kit/assignment.py", "tests/expected/new.npz"):
        with (tmp_path / name).open("a") as file:
            file.write("\n")
        seen.add(version())
    (tmp_path / "kit/assignment.py").rename(tmp_path / "kit/table.py")
    assert len({*seen, version()}) == 5
    last = version()
    (tmp_path / "README.md").write_text("No grade depends on it.")
    assert version() == last
