"""The solution blocks of submission.py: find them, cut them out, leave single ones in.

A block is the code between `# BEGIN SOLUTION` and `# END SOLUTION` in a function's body, with its
prompt, a comment that starts with `# TODO 4.3`, right above it.
"""

import ast
import json
import re
import textwrap
from collections.abc import Collection
from dataclasses import dataclass

MARKER = re.compile(r"\b(begin|end)[\s_-]*solution\b", re.IGNORECASE)
PROMPT = re.compile(r"# TODO (\d+(?:\.\d+)*)(?:: (.*))?")
LINE_LENGTH = 100


class MarkerError(Exception):
    """The markers of a file are not what they should be; the message names the line."""


@dataclass(frozen=True)
class Block:
    """One solution block; lines count from 1."""

    todo: str  # "4.3"
    name: str  # "ProposalModel.encode"
    prompt: str  # the first sentence of the prompt, "" where there is only the number
    begin: int  # line of the marker
    end: int
    code: tuple[str, ...]  # the lines between the markers


def find_blocks(source: str) -> list[Block]:
    """The solution blocks of a file, in the order in which they stand there.

    Raises:
        MarkerError: a marker is misspelt, unpaired, nested or outside a function; a block is
            empty, cuts a statement in two, or has no prompt.
    """
    lines, tree = source.splitlines(), ast.parse(source)
    return [_block(lines, tree, begin, end) for begin, end in _pairs(lines)]


def strip_solutions(source: str, keep: Collection[Block] = ()) -> str:
    """What students get: `raise NotImplementedError("TODO 4.3: ...")` in place of each block.

    The prompts stay. Blocks in `keep` (of `find_blocks(source)`) stay too, without their markers.
    """
    lines = source.splitlines()
    for block in reversed(find_blocks(source)):  # from the end, so that line numbers stay right
        lines[block.begin - 1 : block.end] = block.code if block in keep else [_stub(lines, block)]
    stub = "\n".join(lines) + "\n"
    ast.parse(stub)
    return stub


def only_parts(source: str, parts: Collection[str]) -> str:
    """submission.py without the sections `# Part N` that are not in `parts`.

    Their lines in the docstring's list go too, and names that nothing imports for any more.
    """
    for number in set(re.findall(r"^# Part (\d)", source, re.MULTILINE)) - set(parts):
        section = rf"\n\n# -+\n# Part {number}.*?(?=\n\n# -+\n# Part |\Z)"
        source = re.sub(section, "", source, flags=re.DOTALL)
        listed = rf"^    part {number} .*\n(?:     .*\n)*"
        source = re.sub(listed, "", source, flags=re.MULTILINE)
    source = source.rstrip("\n") + "\n"
    tree = ast.parse(source)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in reversed(tree.body):  # from the end, so that line numbers stay right
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        kept = [name for name in node.names if used & set((name.asname or name.name).split("."))]
        if len(kept) < len(node.names):
            lines = source.splitlines(keepends=True)
            node.names = kept
            new = f"{_one_a_line(node)}\n" if kept else ""
            lines[node.lineno - 1 : node.end_lineno] = [new]
            source = "".join(lines)
    return re.sub(r"\n{3,}(?=import |from )", "\n\n", source)


def _one_a_line(node: ast.Import | ast.ImportFrom) -> str:
    """An import statement as ruff would write it."""
    line = ast.unparse(node)
    if len(line) <= LINE_LENGTH:
        return line
    head, names = line.split(" import ")
    return f"{head} import (\n" + "".join(f"    {name},\n" for name in names.split(", ")) + ")"


def by_number(blocks: Collection[Block]) -> list[Block]:
    """In the order in which students are asked to write them."""
    return sorted(blocks, key=lambda block: [int(number) for number in block.todo.split(".")])


def _pairs(lines: list[str]) -> list[tuple[int, int]]:
    pairs, begin = [], None
    for number, line in enumerate(lines, start=1):
        if not MARKER.search(line):
            continue
        if line.strip() == "# BEGIN SOLUTION":
            if begin is not None:
                raise MarkerError(
                    f"line {number}: this BEGIN SOLUTION is nested in the block of line {begin}"
                )
            begin = number
        elif line.strip() == "# END SOLUTION":
            if begin is None:
                raise MarkerError(f"line {number}: END SOLUTION without a BEGIN SOLUTION above it")
            pairs.append((begin, number))
            begin = None
        else:
            raise MarkerError(
                f"line {number}: {line.strip()!r} is neither '# BEGIN SOLUTION' nor "
                "'# END SOLUTION' on a line of its own"
            )
    if begin is not None:
        raise MarkerError(f"line {begin}: BEGIN SOLUTION without an END SOLUTION below it")
    return pairs


def _block(lines: list[str], tree: ast.Module, begin: int, end: int) -> Block:
    statements = [
        node for node in ast.walk(tree) if isinstance(node, ast.stmt) and begin < node.lineno < end
    ]
    if not statements:
        raise MarkerError(f"line {begin}: there is no statement in this solution block")
    # A marker is a comment, which the syntax tree does not hold: the block is inside a function
    # if all its statements are.
    owners = [
        name
        for name, function in _functions(tree)
        if function.lineno < begin and set(statements) <= set(ast.walk(function))
    ]
    if not owners:
        raise MarkerError(f"line {begin}: a solution block must be inside a function's body")
    code = tuple(lines[begin : end - 1])
    indent = _indent(lines[begin - 1])
    whole = all(node.end_lineno < end for node in statements)
    if not whole or any(line.strip() and _indent(line) < indent for line in code):
        raise MarkerError(f"line {begin}: this solution block cuts a statement in two")
    todo, prompt = _prompt(lines, begin)
    return Block(todo, owners[-1], prompt, begin, end, code)


def _functions(node: ast.AST, prefix: str = ""):
    """Every function below `node` with its qualified name, outer ones first."""
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{prefix}{child.name}"
            if not isinstance(child, ast.ClassDef):
                yield name, child
            name += "."
        yield from _functions(child, name)


def _prompt(lines: list[str], begin: int) -> tuple[str, str]:
    """Number and first sentence of the TODO comment that ends right above line `begin`."""
    text: list[str] = []
    for line in reversed(lines[: begin - 1]):
        comment = line.strip()
        if not comment.startswith("#") or MARKER.search(comment):
            break
        found = PROMPT.fullmatch(comment)
        if found:
            words = " ".join([found.group(2) or "", *text]).strip()
            return found.group(1), re.split(r"\.(?:\s|$)", words)[0]
        text.insert(0, comment.lstrip("# "))
    raise MarkerError(f"line {begin}: there is no `# TODO number: ...` right above this block")


def _stub(lines: list[str], block: Block) -> str:
    indent = " " * _indent(lines[block.begin - 1])
    head, tail = f"{indent}raise NotImplementedError(", ")"
    room = LINE_LENGTH - len(head) - len(tail) - len(f'"TODO {block.todo}: "')
    words = textwrap.shorten(block.prompt or block.name, room, placeholder=" ...")
    return head + json.dumps(f"TODO {block.todo}: {words}", ensure_ascii=False) + tail


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
