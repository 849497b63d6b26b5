"""What must be true of a handout: it gives no solution away, and its tests score it rightly."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from instructor.handout.stubs import find_blocks, strip_solutions
from kit.assignment import PARTS
from kit.settings import names_of, settings_class

SHORTEST_LEAK = 20  # characters; shorter lines are everybody's
# Lines of solutions that tests/ holds too, each looked at: the head of a branch, and a call that a
# failure message asks for.
SEEN_AND_ALLOWED = {
    'if likelihood == "gaussian":',
    "self.record(states, log_w, rows)",
}
BINARY = (".npz", ".png")
Files = dict[str, bytes]


class HandoutError(Exception):
    """The handout must not go out like this; the message says why."""


def write_files(folder: Path, files: Files) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def check_leaks(source: str, files: Files, code: Collection[str]) -> None:
    """Refuse a handout in which a line of a solution stands.

    Lines of 20 or more characters count (without indentation), whole or without their comment,
    unless they also stand outside the markers or in the provided code. A whole solution counts
    there, too: the provided code is whatever lies in its folders.

    Args:
        source: submission.py with its solutions.
        files: the handout.
        code: names of the provided code among them, which students read anyway.
    """
    blocks = find_blocks(source)
    given = "\n".join([strip_solutions(source), *(files[name].decode() for name in code)])
    lines = {line.strip() for block in blocks for line in block.code}
    lines |= {line.split("  #")[0] for line in lines}
    secret = {line for line in lines if line not in given} - SEEN_AND_ALLOWED
    secret |= {_without_indentation("\n".join(block.code)) for block in blocks}
    secret = {text for text in secret if len(text) >= SHORTEST_LEAK}
    leaks = []
    for path, content in files.items():
        if not path.endswith(BINARY):
            text = _without_indentation(content.decode())
            leaks += [f"{path}: {one}" for one in sorted(secret) if one in text]
    if leaks:
        raise HandoutError("lines of solutions would be handed out:\n  " + "\n  ".join(leaks))


def _without_indentation(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def check_names(page: str, text: str, parts: Collection[str]) -> None:
    """Refuse a page that names a part which is left out, or its task, TODOs, classes or flags.

    Classes count in code only, since "VAE" is a word as well, and flags that no part here has.
    """
    code = " ".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
    here = {flag for part in parts for flag in names_of(settings_class(PARTS[part].task))}
    found = []
    for number in PARTS.keys() - set(parts):
        part = PARTS[number]
        others = set(names_of(settings_class(part.task))) - here
        flags = [rf"--{flag}(?![\w-])" for flag in others]
        names = [rf"\b{part.task}\b", rf"(?i:\bpart ?|第 ?|\bTODO ){number}\b", *flags]
        found += [match[0] for name in names for match in re.finditer(name, text, re.ASCII)]
        found += [name for name in part.classes if re.search(rf"\b{name}\b", code)]
    if found:
        given = f"the handout of part {', '.join(sorted(parts))}"
        raise HandoutError(f"{page}: {given} names {', '.join(sorted(set(found)))}")


def check_import(folder: Path) -> None:
    """Refuse a handout whose stub file cannot be imported."""
    imported = run_python(folder, "-c", "import submission")
    if imported.returncode != 0:
        raise HandoutError(f"submission.py cannot be imported:\n{imported.stderr}")


def check_points(folder: Path, done: str = "") -> tuple[float, float]:
    """Run a handout's tests: what is done passes, what is not says so, and nothing else happens.

    Args:
        folder: the handout, unpacked.
        done: first digits of the parts that are solved in its submission.py.

    Returns:
        Score and largest possible score.
    """
    rows = run_tests(folder)
    for row in rows:
        first = row["output"].split("\n")[0]
        todo = re.fullmatch(r"TODO ([\d.]+) is not implemented yet", first)
        if row["number"][0] in done:
            fine = row["status"] == "passed"
            expected = "it should pass: with the reference put back, every point must be there"
        else:
            fine = todo and f"{todo[1]}.".startswith(f"{row['number']}.") and row["score"] == 0
            expected = f"it should fail with 'TODO {row['number']} is not implemented yet'"
        if not fine:
            raise HandoutError(
                f"with part {done or 'none'} solved, {row['name']} ({row['status']}): {expected}; "
                f"it says: {row['output'] or 'nothing'}"
            )
    return sum(row["score"] for row in rows), sum(row["max_score"] for row in rows)


def run_tests(folder: Path, *tests: str) -> list[dict]:
    """Run a handout's tests (all, or the named files); the rows of results.json."""
    with tempfile.TemporaryDirectory() as temporary:
        results = Path(temporary) / "results.json"
        options = ["-q", "-p", "no:cacheprovider", "--results", str(results)]
        done = run_python(folder, "-m", "pytest", *options, *(tests or ["tests"]))
        if done.returncode not in (0, 1):  # 1: some test failed
            raise HandoutError(f"the tests did not run:\n{(done.stdout + done.stderr)[-3000:]}")
        return json.loads(results.read_text())["tests"]


def run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python in a handout, as a student would, but on one thread and without leaving traces."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
