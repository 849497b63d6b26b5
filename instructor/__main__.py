"""The staff's one door: `python -m instructor` lists the commands, `COMMAND --help` explains one."""

import ast
import importlib
import sys
from pathlib import Path

# In the order in which a course needs them.
COMMANDS = {
    "handout": "instructor.handout.build",
    "hidden": "instructor.grading.hidden",
    "sandbox": "instructor.isolation.check",
    "points": "instructor.handout.points",
    "gradescope": "instructor.handout.gradescope",
    "classroom": "instructor.handout.classroom",
    "grade": "instructor.grading.grade_class",
    "mutants": "instructor.banks.mutants.command",
    "attacks": "instructor.banks.attacks.command",
    "rehearsal": "instructor.banks.rehearsal",
    "classifier": "instructor.grading.classifier",
    "benchmark": "instructor.research.benchmark.command",
    "curves": "instructor.research.benchmark.curves",
    "nll": "instructor.research.nll_curves",
    "mobility": "instructor.research.mobility",
    "noise": "instructor.research.gradient_noise",
    "collapse": "instructor.research.collapse",
}


def summary(module: str) -> str:
    """The first line of a module's docstring, without importing it."""
    path = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    return ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]


def main(argv: list[str]) -> None:
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print("usage: python -m instructor COMMAND [--help]\n\ncommands, as a course needs them:")
        for command, module in COMMANDS.items():
            print(f"  {command:<12}{summary(module)}")
        return
    if name not in COMMANDS:
        sys.exit(f"error: there is no command {name!r}; choose from {', '.join(COMMANDS)}")
    sys.argv = [f"python -m instructor {name}", *argv[1:]]  # argparse prints it as the usage
    importlib.import_module(COMMANDS[name]).main(argv[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
