"""The commands for staff, and what their help pages have in common."""

import argparse
import ast
import importlib
import math
import sys

from kit.assignment import USUAL, read_parts
from kit.files import ROOT, DataError

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
    "samples": "instructor.research.samples",
    "noise": "instructor.research.gradient_noise",
    "collapse": "instructor.research.collapse",
}


def main(argv: list[str]) -> None:
    """List the commands, or run the one that `argv` names."""
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print("usage: python -m instructor COMMAND [--help]\n\ncommands, as a course needs them:")
        for command, module in COMMANDS.items():
            print(f"  {command:<12}{summary(module)}")
    elif name in COMMANDS:
        try:
            importlib.import_module(COMMANDS[name]).main(argv[1:])
        except (DataError, OSError) as error:
            sys.exit(f"error: {error}")
        except ModuleNotFoundError as error:
            if (ROOT / error.name.split(".")[0]).exists():
                raise  # a mistake of ours
            sys.exit(f"error: {error.name} is not installed; see instructor/README.md")
    else:
        sys.exit(f"error: there is no command {name!r}; choose from {', '.join(COMMANDS)}")


def summary(module: str) -> str:
    """The first line of a module's docstring, without importing it."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]


def add_parts(parser: argparse.ArgumentParser) -> None:
    """The flag for the parts of the assignment that a course has."""
    usual = ",".join(USUAL)
    text = f"of the assignment that the course has (default: {usual})"
    parser.add_argument("--parts", type=read_parts, default=USUAL, help=text)


def positive(kind: type):
    """An argparse type: an int or a float that is greater than 0 and finite."""

    def read(text: str):
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"must be greater than 0, not {text}")
        return value

    read.__name__ = f"positive {kind.__name__}"  # argparse names it where `kind` refuses the text
    return read


def make_parser(module: str, document: str) -> argparse.ArgumentParser:
    """The parser of a command; its help begins and ends with the module's docstring.

    Args:
        module: the command's `__name__`.
        document: its `__doc__`.
    """
    (name,) = (name for name, path in COMMANDS.items() if path == module)
    first, _, rest = document.partition("\n")
    return argparse.ArgumentParser(
        prog=f"python -m instructor {name}",
        description=first,
        epilog=rest.strip("\n"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
