"""Write the workflow that grades code on GitHub Classroom.

    python -m instructor classroom --out classroom.yml                   # parts 2, 3 and 4
    python -m instructor classroom --out classroom.yml --parts 2,3       # without part 4

One command-grader for each TODO, with the points of the table in kit/assignment.py. What to do with
the file stands at its top.
"""

import sys
from pathlib import Path

from instructor.door import add_parts, make_parser
from instructor.handout.stubs import Block, find_blocks
from instructor.layout import PLATFORMS, SOLVED
from kit.assignment import PARTS
from kit.files import ROOT, atomic_write

TEMPLATE = PLATFORMS / "classroom.yml"
GRADER = """
      - id: {id}
        uses: classroom-resources/autograding-command-grader@v1
        with:
          test-name: "TODO {todo}: {names}"
          command: python -m pytest -q tests -m "points(part='{todo}')"
          timeout: 10 # minutes
          max-score: {points:.0f}
"""
RESULT = "          {upper}_RESULTS: ${{{{ steps.{id}.outputs.result }}}}\n"


class ClassroomError(Exception):
    """The workflow cannot say what the table says; the message names the TODO."""


def workflow(parts: tuple[str, ...]) -> str:
    """The text of the workflow: the template with a grader for each TODO of the parts.

    Raises:
        ClassroomError: Classroom's points are whole numbers, and a TODO's are not.
    """
    blocks = find_blocks((ROOT / SOLVED).read_text())
    graders, results, ids = "", "", []
    for part in (PARTS[number] for number in parts):
        graders += f"\n      # Part {part.number}, {part.code_points:g} points"
        for todo, points in part.points.items():
            if points != int(points):
                raise ClassroomError(f"TODO {todo} has {points} points; Classroom has whole ones")
            ids.append(f"todo{todo.replace('.', '')}")
            facts = {"id": ids[-1], "upper": ids[-1].upper(), "names": names_of(todo, blocks)}
            graders += GRADER.format(todo=todo, points=points, **facts)
            results += RESULT.format(**facts)
    text = TEMPLATE.read_text()
    for mark, lines in (("# GRADERS\n", graders), ("# RESULTS\n", results)):
        text = text.replace(mark, lines)
    return text.replace("RUNNERS", ",".join(ids))


def names_of(todo: str, blocks: list[Block]) -> str:
    """The classes and functions that a TODO is about: "4.1" -> "JointModel and ProposalModel"."""
    own = [block for block in blocks if f"{block.todo}.".startswith(f"{todo}.")]
    return " and ".join(dict.fromkeys(block.name.split(".")[0] for block in own))


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__name__, __doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/classroom.yml"),
        help="the file to write (default: build/classroom.yml)",
    )
    add_parts(parser)
    args = parser.parse_args(argv)
    try:
        text = workflow(args.parts)
    except ClassroomError as error:
        sys.exit(f"error: {error}")
    with atomic_write(args.out) as temporary:
        temporary.write_text(text)
    print(f"{args.out}: copy it to .github/workflows/ of the template repository")
