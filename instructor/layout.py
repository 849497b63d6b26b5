"""Which files of the kit go where: to students, into sandboxes, into the grader's version."""

from pathlib import Path

from kit.files import ROOT

PROVIDED = ("*.py", "kit/**/*.py")  # without SOLVED
SOLVED = "submission.py"
AUTOGRADER = ("tests/*.py",)
EXPECTED = ("tests/expected/*.npz",)
# What students' code may read in the sandbox beside its own folder. No expected values.
IN_SANDBOX = (*PROVIDED, *AUTOGRADER, "instructor/__init__.py", "instructor/grading/__init__.py")
IN_SANDBOX += ("instructor/grading/quality_child.py",)
# All that `--isolated` needs of the staff's folder.
ISOLATION = ("instructor/__init__.py", "instructor/layout.py", "instructor/isolation/*.py")
ISOLATION += ("instructor/grading/__init__.py", "instructor/grading/pytest_sandbox.py")
# All that a grade depends on; instructor/tests/grading compares it with what is imported.
GRADER = (SOLVED, *PROVIDED, *AUTOGRADER, *EXPECTED, "instructor/*.py")
GRADER += ("instructor/grading/*.py", "instructor/isolation/*.py")


def files(*patterns: str, root: Path = ROOT) -> list[str]:
    """The paths that match, relative to `root`, sorted; SOLVED only where it is asked for."""
    found = {path.relative_to(root).as_posix() for p in patterns for path in root.glob(p)}
    return sorted(path for path in found if path != SOLVED or SOLVED in patterns)
