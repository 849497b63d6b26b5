"""Every command that a page prints is understood, the quick ones run, and both languages agree."""

import argparse
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from instructor import door
from instructor.layout import PROVIDED, SOLVED, files
from kit.assignment import PARTS, TASKS
from kit.command_line import parse
from kit.files import ROOT

PAGES = ["README.md", "dataset/README.md", *files("instructor/**/*.md")]
ASSIGNMENT = ["instructor/handout/README.md", "instructor/handout/README.zh-CN.md"]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")
INLINE = re.compile(r"`((?:OMP_NUM_THREADS=1 |srun )?(?:python|torchrun|pytest) [^`]+)`")
FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$\n]+\$", re.DOTALL)
OTHERS = {"pip", "venv", "distributed.cli.dask_scheduler", "distributed.cli.dask_worker"}
PLACEHOLDERS = {
    "...": "x",
    "--task T": "--task JSA",
    "instructor COMMAND": "instructor grade",
    "nll RUN x": "nll RUN",
    "mobility RUN x": "mobility RUN",
    "--code CODE --code_draws N": "--code best --code_draws 5",
}


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


# ----------------------------------------------------------------------------------------------
# Commands


def commands() -> list[tuple[str, str]]:
    """(page, command) of every Python command in the pages, comments and line breaks removed."""
    found = []
    for page in PAGES:
        text = text_of(page)
        blocks = [block for kind, block in FENCED.findall(text) if kind == "bash"]
        lines = [
            line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()
        ] + [match.replace("\n", " ") for match in INLINE.findall(FENCED.sub("", text))]
        for line in lines:
            for part in re.sub(r"\s+#.*", "", line).split("&&"):
                words = re.sub(r"OMP_NUM_THREADS=1|srun ", "", part).strip()
                words = re.sub(r"^(\.venv/bin/)?python3?(?= )", "python", words)
                words = re.sub(r"^pytest", "python -m pytest", words)
                words = re.sub(r"^torchrun --nproc_per_node=2", "python", words)
                if words.startswith("python "):
                    found.append((page, words))
    return sorted(set(found))


class UnderstoodError(BaseException):
    """The arguments were understood."""


@pytest.fixture
def in_a_run_folder(tmp_path, monkeypatch) -> None:
    """A working folder with the settings that some commands read, where nothing else is."""
    config = tmp_path / "runs" / "VAEwolabel" / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"task": "VAEwolabel", "latent_dim": 10, "train_sha256": "0"}))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def understand(monkeypatch) -> None:
    """Programs end where they have understood their arguments."""
    parse_args = argparse.ArgumentParser.parse_args

    def only(parser, args=None, namespace=None):
        parse_args(parser, args, namespace)
        raise UnderstoodError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only)


def program_of(words: list[str]) -> tuple[Callable, list[str]]:
    """The function behind `python WORDS` and what it is called with."""
    if words[:2] == ["-m", "instructor"]:
        return door.main, words[2:]
    if words[0] == "train.py":
        return lambda arguments: parse(arguments, tuple(TASKS)), words[1:]
    name, rest = (words[1], words[2:]) if words[0] == "-m" else (words[0][:-3], words[1:])
    return importlib.import_module(name).main, rest


@pytest.mark.staff
@pytest.mark.parametrize(("page", "command"), commands())
@pytest.mark.usefixtures("in_a_run_folder", "understand")
def test_the_arguments_exist(page, command):
    for placeholder, value in PLACEHOLDERS.items():
        command = command.replace(placeholder, value)
    _, *words = shlex.split(command)
    if words[0] == "-m" and words[1] in OTHERS:
        return
    if words[:2] == ["-m", "pytest"]:
        tests = "".join(text_of(path) for path in files("tests/test_part*.py"))
        for part in re.findall(r"points\(part='([\d.]+)'\)", command):
            assert f', part="{part}")' in tests
        return
    if words[:2] == ["-m", "instructor"] and len(words) > 2:
        try:
            importlib.import_module(door.COMMANDS[words[2]])
        except ModuleNotFoundError as missing:  # CI runs this file again with staff's requirements
            if find_spec("psutil") is None and missing.name in ("dask", "jinja2", "psutil"):
                pytest.skip("needs instructor/requirements.txt")
            raise
    try:
        program, arguments = program_of(words)
        if "--help" in words:
            with pytest.raises(SystemExit) as end:
                program(arguments)
            assert end.value.code == 0
        elif words[0] == "train.py" or not arguments:  # the door alone lists the commands
            program(arguments)
        else:
            with pytest.raises(UnderstoodError):
                program(arguments)
    except UnderstoodError:  # a program that takes no arguments
        assert not arguments


def test_a_page_names_every_command_of_staff():
    pages = "".join(text_of(page) for page in PAGES)
    for command in door.COMMANDS:
        assert f"`python -m instructor {command}" in pages, command


@pytest.mark.usefixtures("in_a_run_folder")
@pytest.mark.parametrize("command", ["train.py --task JSA --no_such", "-m kit.handin --no_such"])
def test_an_argument_that_does_not_exist_is_found(command, capsys):
    program, arguments = program_of(command.split())
    with pytest.raises(SystemExit) as end:
        program(arguments)
    assert end.value.code == 2 and "--no_such" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------
# Quick commands, as printed


def run(folder: Path, command: str) -> tuple[int, str]:
    """Run a command in a folder: its status, and what it says."""
    line = re.sub(r"^pytest", "python -m pytest", command)
    line = re.sub(r"^python", shlex.quote(sys.executable), line)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        line, shell=True, cwd=folder, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def assert_printed(command: str, *pages: str) -> None:
    for page in pages:
        assert command in text_of(page), f"{page}: {command}"


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        ("python train.py --help", 0, "VAEwolabel"),
        ("python train.py --task VAEwolabel --help", 0, "--var"),
        ("python train.py --task VAEwolabel", 1, "TODO 2.2.1 (VAE.__init__), TODO 2.2.2"),
        ("pytest -m \"points(part='4.4')\"", 1, "TODO 4.4               0 / 10"),
        ("pytest -k part2", 1, "part 2, VAE            0 / 30"),
    ],
)
def test_in_a_handout_as_it_is_given_out(handout, command, status, says):
    assert_printed(command, *ASSIGNMENT)
    code, output = run(handout, command)
    assert code == status and says in output, output


def test_the_first_failure_says_what_to_do(handout):
    """The lines that the page shows are those that one sees, in this order."""
    assert_printed("python -m pytest -x", *ASSIGNMENT)
    code, output = run(handout, "python -m pytest -x")
    shown = [block for kind, block in FENCED.findall(text_of(ASSIGNMENT[0])) if not kind]
    assert code == 1 and len(shown) == 1
    places = [output.find(f"\n{line}\n") for line in shown[0].splitlines()]
    assert -1 not in places and places == sorted(places), output


@pytest.mark.parametrize(
    ("command", "shorter", "says"),
    [
        ("pytest -m \"points(part='4.4')\"", "", "TODO 4.4              10 / 10"),
        ("python train.py --task JSA --dataset gaussian2d", " --epochs 2", "toy.png"),
    ],
)
def test_in_a_solved_handout(handout, source, command, shorter, says):
    assert_printed(command, *ASSIGNMENT)
    (handout / "submission.py").write_text(source)
    code, output = run(handout, command + shorter)
    assert code == 0 and says in output, output


def test_for_staff(tmp_path):
    """In a copy of what they need, for the files that the commands write."""
    for path in files(*PROVIDED, SOLVED, "instructor/*.py", "instructor/handout/**/*"):
        if (ROOT / path).is_file():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    (tmp_path / "dataset").mkdir()
    sample = "dataset/mnist_sample.npz"
    (tmp_path / sample).write_bytes((ROOT / sample).read_bytes())
    for command, page in (
        ("python data_utils.py", "dataset/README.md"),
        ("python -m instructor classroom --parts 2,3,4", "instructor/README.md"),
    ):
        assert_printed(command, page)
        code, output = run(tmp_path, command)
        assert code == 0, output
    assert (tmp_path / "dataset" / "valid.npz").is_file()
    assert "points(part='4.6')" in (tmp_path / "build" / "classroom.yml").read_text()


# ----------------------------------------------------------------------------------------------
# Text


def test_no_placeholder_is_left():
    for page in PAGES:
        for line in text_of(page).splitlines():
            assert not re.fullmatch(r"[A-Z]{4,}", line.strip()), f"{page}: {line}"
            assert not re.search(r"\bNUM(_\w+)?\b", line), f"{page}: {line}"


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_exist(page):
    text = text_of(page)
    for target in re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', text):
        path, _, anchor = "".join(target).partition("#")
        if path.startswith("https:"):
            continue
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.is_file(), f"{page}: {path}"
        assert not anchor or anchor in anchors(file.read_text()), f"{page}: {path}#{anchor}"


def test_every_picture_is_shown():
    pages = "".join(text_of(page) for page in PAGES)
    for path in files("dataset/pictures/*.png", "instructor/research/pictures/*.png"):
        assert f"pictures/{Path(path).name}" in pages, path


@pytest.mark.parametrize("page", ASSIGNMENT)
def test_tables_state_the_points_of_the_assignment(page):
    text = text_of(page)
    for number, part in PARTS.items():
        found = re.search(rf"^\| {number} \| [^|]+ \| \| (\d+) \| ([^|]+) \|$", text, re.MULTILINE)
        assert float(found[1]) == part.code_points
        quality = f"{part.quality:g}"
        assert found[2] == quality if part.quality else not re.search(r"\d", found[2])
        points = dict.fromkeys(part.points, 0.0)
        rows = re.findall(rf"^\| ({number}[\d.]*)[^|]* \|.*\| (\d+) \| .* \| `pytest", text, re.M)
        for todo, value in rows:
            (key,) = (key for key in points if f"{todo}.".startswith(f"{key}."))
            points[key] += float(value)
        assert points == part.points


def test_front_page_states_the_points_of_the_assignment():
    text = text_of("README.md")
    for task, part in TASKS.items():
        quality = f"{part.quality:g}" if part.quality else "ranking only"
        assert re.search(rf"^\| `{task}` .* \| {part.code_points:g}, {quality} \|$", text, re.M)


# ----------------------------------------------------------------------------------------------
# Two languages


def sections(text: str) -> list[tuple[int, str]]:
    """(level, text) of each heading with what stands below it; code blocks lose their comments."""
    text = FENCED.sub(lambda block: re.sub(r"\s+#.*", "", block[0]), text)
    parts = re.split(r"^(#+) ", text, flags=re.MULTILINE)[1:]
    return [(len(level), body) for level, body in zip(parts[::2], parts[1::2], strict=True)]


def without_words(formula: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\\text\{[^}]*\}", "", formula))


def facts(section: str) -> dict[str, list[str]]:
    """What must not depend on the language."""
    prose = FENCED.sub("", section)
    formulas = FORMULA.findall(prose)
    prose = FORMULA.sub("", prose)
    return {
        "blocks": [block for _, block in FENCED.findall(section)],
        "comments": re.findall(r"<!-- .*? -->", prose),
        "formulas": sorted({without_words(formula) for formula in formulas}),
        "code": sorted({re.sub(r"\s+", " ", code) for code in CODE.findall(prose)}),
        "numbers": sorted(re.findall(r"\d[\d,]*\.\d+", CODE.sub("", prose))),
        "pictures and pages": [
            link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if not link.startswith("#")
        ],
        "cells": [
            str(row.count("|")) for row in re.findall(r"^\|.*", CODE.sub("", prose), re.MULTILINE)
        ],
        "points": re.findall(r"^\*\*(\d\.\d)\D+(\d+)\D", prose, re.MULTILINE),
        "items": re.findall(r"^(?:- |\d\. )", prose, re.MULTILINE),
    }


def test_both_languages_say_the_same():
    english, chinese = (sections(text_of(page)) for page in ASSIGNMENT)
    assert [level for level, _ in english] == [level for level, _ in chinese]
    for (_, left), (_, right) in zip(english, chinese, strict=True):
        name = left.splitlines()[0]
        other = facts(right)
        for kind, values in facts(left).items():
            assert values == other[kind], f"{name}: {kind}"
