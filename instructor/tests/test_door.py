"""The staff's one door: `python -m instructor` leads to every command, and each explains itself."""

import ast
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from instructor.door import COMMANDS, summary
from instructor.door import main as door
from kit.files import ROOT

FOLDER = ROOT / "instructor"
# As a course needs them.
ORDER = "handout hidden sandbox points gradescope classroom grade mutants attacks rehearsal "
ORDER += "classifier benchmark curves nll mobility samples noise collapse"
# Programs that other modules start, with arguments that no person types.
CHILDREN = {"instructor.grading.quality_child", "instructor.research.benchmark.processes"}


def test_it_lists_the_commands():
    listed = run()
    assert listed.returncode == 0 and not listed.stderr
    head, _, text = listed.stdout.partition("\n\n")
    assert head == "usage: python -m instructor COMMAND [--help]"
    rows = re.findall(r"^  (\w+) +(\S.*)$", text, re.MULTILINE)
    assert [name for name, _ in rows] == list(COMMANDS) == ORDER.split()
    for name, line in rows:
        assert line[0].isupper() and line.endswith("."), f"{name}: {line}"
    assert len({line for _, line in rows}) == len(rows)
    for flag in ("--help", "-h"):
        assert run(flag).stdout == listed.stdout


def test_an_unknown_command():
    done = run("grades")
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("error: there is no command 'grades'; choose from handout, ")


def test_the_help_of_a_command_as_typed():
    done = run("classroom", "--help")
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith("usage: python -m instructor classroom ")
    assert run("classroom", "--no-such-flag").returncode == 2


@pytest.mark.staff
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    try:
        importlib.import_module(COMMANDS[name])
    except ModuleNotFoundError as error:
        if error.name not in ("dask", "distributed", "jinja2", "psutil"):
            raise
        pytest.skip(f"{error.name}: needs instructor/requirements.txt")
    with pytest.raises(SystemExit) as end:
        door([name, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert text.startswith(f"usage: python -m instructor {name} ")
    assert " ".join(summary(COMMANDS[name]).split()) in " ".join(text.split())
    flags = re.findall(r"^  (-h, )?(--?\w[\w-]*)", text, re.MULTILINE)
    assert ("-h, ", "--help") in flags
    module = (FOLDER.parent / COMMANDS[name].replace(".", "/")).with_suffix(".py")
    for flag in re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", module.read_text()):
        assert flag in text


@functools.cache
def mains() -> dict[str, ast.FunctionDef]:
    """Every function `main` under instructor, by module; not those of tests and attacks."""
    found = {}
    for path in sorted(FOLDER.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if ".tests." in module or ".submissions." in module:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name == "main":
                found[module] = node
    return found


def test_every_command_is_behind_the_door():
    behind = {module for module in mains() if module != "instructor.door"} - CHILDREN
    assert behind == set(COMMANDS.values())


def test_commands_are_started_in_one_way():
    for module in COMMANDS.values():
        arguments = mains()[module].args
        assert [argument.arg for argument in arguments.args] == ["argv"], module
        assert len(arguments.defaults) == 1, module
        path = Path(*module.split(".")).with_suffix(".py")
        assert "__name__ ==" not in (ROOT / path).read_text(), f"{module}: starts itself, too"
    assert [path for path in FOLDER.rglob("__main__.py")] == [FOLDER / "__main__.py"]


def test_what_needs_staff_is_marked():
    """Else CI's `-m staff` would leave it out, and the run without staff's packages skip it."""
    for path in (FOLDER / "tests").rglob("test_*.py"):
        text = path.read_text()
        if re.search(r"importorskip\(|find_spec\(", text) and path != Path(__file__):
            assert "mark.staff" in text, path.relative_to(ROOT)


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "instructor", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
