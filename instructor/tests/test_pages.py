"""Every command that a page prints is one that works, and the quick ones are run."""

import argparse
import re
import runpy
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import train

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "instructor").glob("*.md"))]
INLINE = re.compile(r"`((?:OMP_NUM_THREADS=1 )?(?:python|torchrun|pytest) [^`]+)`")
FENCED = re.compile(r"```bash\n(.*?)```", re.DOTALL)
STAFF_ONLY = {"distributed.cli.dask_scheduler", "distributed.cli.dask_worker", "pip", "venv"}
QUICK = {  # run as printed, in a copy of the kit without runs
    "README.md": [
        "python train.py --help",
        "python data_utils.py",
        "pytest -m \"points(part='4.4')\"",
    ],
}


def commands() -> list[tuple[str, str]]:
    """(page, command) of every Python command in the pages, comments and line breaks removed."""
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = [line for block in FENCED.findall(text) for line in
                 re.sub(r"\\\n\s*", "", block).splitlines()]  # fmt: skip
        lines += [match.replace("\n", " ") for match in INLINE.findall(text)]
        for line in lines:
            for part in re.sub(r"\s+#.*", "", line).split("&&"):
                words = part.replace("OMP_NUM_THREADS=1", "").strip()
                words = re.sub(r"^(\.venv/bin/|python -m )?pytest", "python -m pytest", words)
                words = re.sub(r"^(\.venv/bin/)?python3?(?= )", "python", words)
                words = re.sub(r"^torchrun --nproc_per_node=2", "python", words)
                if words.startswith("python "):
                    found.append((page.name, words))
    return sorted(set(found))


class ParsedError(BaseException):
    """The arguments were understood."""


@pytest.mark.parametrize(("page", "command"), commands())
def test_the_arguments_exist(page, command, monkeypatch, capsys):
    if any(f"-m {module}" in command for module in STAFF_ONLY):
        return
    for placeholder, value in (("...", "x"), ("--task T ", "--task JSA "), ("RUN x", "RUN")):
        command = command.replace(placeholder, value)
    command = re.sub(r"--task T$", "--task JSA", command)
    command = command.replace("--code CODE --code_draws N", "--code best --code_draws 5")
    _, *words = shlex.split(command)
    if words[:2] == ["-m", "pytest"]:
        tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_part*.py"))
        for part in re.findall(r"points\(part='([\d.]+)'\)", command):
            assert f', part="{part}")' in tests
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser, args=None, namespace=None):
        found = parse(parser, args, namespace)
        if words[0] == "train.py":
            train.make_config(parser, vars(found))
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.chdir(ROOT)
    run, name = runpy.run_path, words[0]
    if name == "-m":
        run, name, words = runpy.run_module, words[1], words[1:]
    monkeypatch.setattr(sys, "argv", words)
    if "--help" in words:
        with pytest.raises(SystemExit) as end:
            run(name, run_name="__main__")
        assert end.value.code == 0
        return
    try:
        with pytest.raises(ParsedError):
            run(name, run_name="__main__")
    except ModuleNotFoundError as missing:  # CI runs these files again with staff's requirements
        if find_spec("psutil") is None and missing.name in ("dask", "jinja2", "psutil"):
            pytest.skip("needs instructor/requirements.txt")
        raise


def test_quick_commands_run_as_printed(tmp_path):
    text = (ROOT / "README.md").read_text()
    for name in subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True,
                               check=True).stdout.split():  # fmt: skip
        if not name.startswith("instructor/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for command in QUICK["README.md"]:
        assert command in text, command
        line = re.sub(r"^(python|pytest)", rf"{sys.executable} -m \1", command)
        line = line.replace(" -m python ", " ")
        done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "dataset" / "valid.npz").is_file()


def test_no_placeholder_is_left():
    for page in PAGES:
        for line in page.read_text().splitlines():
            assert not re.fullmatch(r"[A-Z]{4,}", line.strip()), f"{page.name}: {line}"


def test_links_and_pictures_exist():
    for page in PAGES:
        text = page.read_text()
        anchors = {re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).strip().replace(" ", "-")
                   for line in re.findall(r"^#+ .*", text, re.MULTILINE)}  # fmt: skip
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith("#"):
                assert target[1:] in anchors, f"{page.name}: {target}"
            elif not target.startswith("http"):
                assert (page.parent / target).is_file(), f"{page.name}: {target}"
