"""Which files of the kit go where: to students, into sandboxes, into the grader's version."""

from pathlib import Path

from kit.files import ROOT

SOLVED = "submission.py"
# The files at the top have fixed names: a stray one there is nobody's business.
PROVIDED = ("model.py", "trainer.py", "train.py", "inference.py", "grade.py", "data_utils.py")
PROVIDED += ("kit/**/*.py",)
AUTOGRADER = ("tests/*.py",)
EXPECTED = ("tests/expected/*.npz",)
# What the handout has beside these and the pages: pictures, of which those that a page shows.
PICTURES = ("dataset/pictures/*.png",)
OTHER = ("requirements.txt", "pyproject.toml", "LICENSE", ".gitignore", "dataset/README.md")
PAGES = "instructor/handout"  # its README.md and, in Chinese, README.zh-CN.md
# What students' code may read in the sandbox beside its own folder. No expected values.
IN_SANDBOX = (*PROVIDED, *AUTOGRADER, "instructor/__init__.py", "instructor/grading/__init__.py")
IN_SANDBOX += ("instructor/grading/quality_child.py",)
# All that `--isolated` needs of the staff's folder.
ISOLATION = ("instructor/*.py", "instructor/isolation/*.py")
ISOLATION += ("instructor/grading/__init__.py", "instructor/grading/pytest_sandbox.py")
# Where the scripts for Gradescope and the template for Classroom lie.
PLATFORMS = ROOT / "instructor" / "handout" / "platforms"
SCRIPTS = ("setup.sh", "run_autograder")  # their names are Gradescope's
# What these scripts call beside the handout: `python3 -m instructor sandbox`, pip.
ON_GRADESCOPE = (*ISOLATION, "instructor/requirements.txt")
# All that a grade depends on; instructor/tests/grading compares it with what is imported.
GRADER = (SOLVED, *PROVIDED, *AUTOGRADER, *EXPECTED, "instructor/*.py")
GRADER += ("instructor/grading/*.py", "instructor/isolation/*.py")


def files(*patterns: str, root: Path = ROOT) -> list[str]:
    """The paths that match, relative to `root`, sorted."""
    return sorted({path.relative_to(root).as_posix() for p in patterns for path in root.glob(p)})
