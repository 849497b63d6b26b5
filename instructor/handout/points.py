"""Fill the handout's TODOs from the reference one by one and show how the points rise.

    python -m instructor points

Each time it runs the tests of that part; about 3 minutes on one core.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from instructor.door import make_parser
from instructor.handout.build import collect
from instructor.handout.checks import HandoutError, run_tests, write_files
from instructor.handout.stubs import Block, by_number, find_blocks, only_parts, strip_solutions
from instructor.layout import SOLVED
from kit.assignment import PARTS
from kit.files import ROOT


def points_one_by_one(
    parts: tuple[str, ...] = tuple(PARTS),
) -> Iterator[tuple[Block | None, dict[str, float]]]:
    """The stub file and then each block put back: (block, points by part)."""
    source = only_parts((ROOT / SOLVED).read_text(), parts)
    blocks = by_number(find_blocks(source))
    rows: dict[str, dict] = {}  # the last result of each test
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "handout"
        write_files(folder, collect(parts=parts))
        for count in range(len(blocks) + 1):
            (folder / SOLVED).write_text(strip_solutions(source, blocks[:count]))
            block = blocks[count - 1] if count else None
            tests = [f"tests/test_part{block.todo[0]}.py"] if block else []
            rows |= {row["name"]: row for row in run_tests(folder, *tests)}
            points = dict.fromkeys(parts, 0.0)
            for row in rows.values():
                points[row["number"][0]] += row["score"]
            yield block, points


def main(argv: list[str] | None = None) -> None:
    make_parser(__name__, __doc__).parse_args(argv)
    names = [*(f"part {part}" for part in PARTS), "total"]
    print(f"{'filled so far':<48}" + "".join(f"{name:>8}" for name in names))
    before = 0.0
    try:
        for block, points in points_one_by_one():
            name = f"TODO {block.todo} {block.name}" if block else "nothing"
            total = sum(points.values())
            columns = "".join(f"{value:>8g}" for value in [*points.values(), total])
            print(f"{name:<48}{columns}", flush=True)
            if total < before:
                sys.exit(f"error: filling {name} cost points")
            before = total
    except HandoutError as error:
        sys.exit(f"error: {error}")
