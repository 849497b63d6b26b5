"""How a wrong or another submission is made from the reference."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from kit.files import ROOT

REFERENCE = ROOT / "submission.py"
MISTAKES = Path(__file__).with_name("mistakes")
ALTERNATIVES = Path(__file__).with_name("alternatives")
HEAD = re.compile(r"# ([\w-]+) \((\w+)\): (.+)")


@dataclass(frozen=True)
class Mutant:
    """One mistake: an edit of the reference.

    Attributes:
        name: unique, for `--only`.
        part: the TODO that must lose points, as in the tests' points markers.
        where: the class or function of submission.py that is edited.
        mistake: what the student got wrong.
        old, new: lines; `old` occurs exactly once in `where`, and `new` takes its place.
    """

    name: str
    part: str
    where: str
    mistake: str
    old: tuple[str, ...]
    new: tuple[str, ...]


def read_mutants() -> list[Mutant]:
    """All mutants of mistakes/<TODO>.txt, in their order.

    One mutant is a paragraph: `# name (where): mistake`, then the old lines behind `- ` and the
    new ones behind `+ `, without the indentation that they share. A single old line may be a part
    of a line.
    """
    mutants = []
    for path in sorted(MISTAKES.glob("*.txt")):
        for paragraph in path.read_text().strip().split("\n\n"):
            head, *lines = paragraph.splitlines()
            match = HEAD.fullmatch(head)
            if match is None or not all(line[:2] in ("- ", "+ ") for line in lines):
                raise ValueError(f"{path.name}: cannot read the mutant {head!r}")
            name, where, mistake = match.groups()
            old, new = (tuple(li[2:] for li in lines if li[0] == sign) for sign in "-+")
            mutants.append(Mutant(name, path.stem, where, mistake, old, new))
    return mutants


def mutant_source(mutant: Mutant, source: str) -> str:
    """`source`, the reference, with the mutant's edit.

    Raises:
        ValueError: the old text does not occur exactly once.
    """
    lines = source.splitlines(keepends=True)
    (node,) = (n for n in ast.parse(source).body if getattr(n, "name", None) == mutant.where)
    head, text, tail = (
        "".join(lines[begin:end])
        for begin, end in (
            (0, node.lineno - 1),
            (node.lineno - 1, node.end_lineno),
            (node.end_lineno, None),
        )
    )
    # Group 1 is the indentation, group 2 what stands before the old text in its first line.
    old = re.compile(r"^( *)(.*?)" + r"\n\1".join(map(re.escape, mutant.old)), re.MULTILINE)
    count = len(old.findall(text))
    if count != 1 or text.count(mutant.old[0]) != 1:
        raise ValueError(
            f"mutant {mutant.name}: its text must occur in {mutant.where} exactly once"
        )
    return head + old.sub(lambda m: m[1] + m[2] + f"\n{m[1]}".join(mutant.new), text) + tail


def alternatives() -> dict[str, Path]:
    """Correct submissions of other kinds, by name."""
    return {path.stem: path for path in sorted(ALTERNATIVES.glob("[!_]*.py"))}


def alternative_source(path: Path, source: str) -> str:
    """`source`, the reference, and behind it the definitions that take the place of its own."""
    return f"{source}\n\n{path.read_text()}"
