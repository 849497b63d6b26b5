"""The handout: nothing leaked, reproducible, and what students see first."""

import argparse
import io
import itertools
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from instructor.handout.build import collect, for_students, pack
from instructor.handout.checks import (
    Files,
    HandoutError,
    check_leaks,
    check_points,
    run_tests,
    write_files,
)
from instructor.handout.stubs import by_number, find_blocks, strip_solutions
from instructor.layout import PROVIDED
from instructor.layout import files as layout_files
from instructor.tests.warm import run_in_handout as run_python
from kit.assignment import PARTS, USUAL, code_points, read_parts
from kit.files import ROOT
from kit.todos import missing_todos

COURSES = [("2",), ("2", "3"), USUAL, tuple(PARTS)]
CODE = layout_files(*PROVIDED)
FILE = re.compile(r"[\w./-]*\w/|[\w./-]+\.(py|md|txt|toml|npz|png|json|csv|pth|zip|yml)")
# What training, inference, grading and packing write; pages may name them.
WRITTEN = {
    "best.pth",
    "last.pth",
    "config.json",
    "log.csv",
    "reconstructions.png",
    "samples.png",
    "interpolation.png",
    "latents.png",
    "components.png",
    "codes.png",
    "loss_curve.png",
    "patches.png",
    "toy.png",
    "submission.zip",
    "NAME.npz",  # stands for any
}


# ----------------------------------------------------------------------------------------------
# The archive


def test_two_builds_are_the_same_bytes(handout_files):
    archive = pack(handout_files)
    assert pack(dict(reversed(collect().items()))) == archive
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        names = packed.namelist()
        assert packed.testzip() is None and names == sorted(names)
    top = {name.removeprefix("handout/").split("/")[0] for name in names}
    code = {"model.py", "trainer.py", "train.py", "inference.py", "grade.py", "data_utils.py"}
    others = {"README.md", "LICENSE", ".gitignore", "pyproject.toml", "requirements.txt"}
    assert top == {*code, *others, "submission.py", "kit", "tests", "dataset"}


def test_the_whole_engine_is_in_it(handout_files):
    assert set(CODE) < set(handout_files)
    assert {"kit/assignment.py", "kit/handin.py", "kit/tasks/__init__.py"} < set(handout_files)
    assert not [path for path in handout_files if "__pycache__" in path]


def test_nothing_of_staff_is_in_it(handout_files):
    assert not [path for path in handout_files if path.startswith("instructor")]
    naming = {path for path, content in handout_files.items() if b"instructor" in content}
    assert naming <= {"tests/conftest.py"}  # it looks for the sandbox, which staff have


def test_the_hidden_part_is_not_in_it(handout_files):
    data = {path.removeprefix("dataset/") for path in handout_files if path.startswith("dataset/")}
    data = {name for name in data if not name.startswith("pictures/")}
    assert data == {"train.npz", "valid.npz", "manifest.json", "README.md"}
    manifest = json.loads(handout_files["dataset/manifest.json"])
    assert set(manifest["counts"]) == {"train", "valid"}
    assert set(manifest["sha256"]) == {"train.npz", "valid.npz"}
    assert b"SOLUTION" not in handout_files["submission.py"]
    assert b"dataset/" not in handout_files[".gitignore"]


def test_parts_are_left_out_cleanly(handout_files):
    contents = collect(parts=("2", "3"))
    assert {path for path in contents if "test_part" in path} == {
        "tests/test_part2.py",
        "tests/test_part3.py",
    }
    submission = contents["submission.py"].decode()
    assert "Part 3" in submission and not re.search("part 4|JSA|PatchJoint", submission)
    with np.load(io.BytesIO(contents["tests/expected/expected.npz"])) as values:
        assert {name.split("::")[0] for name in values} <= {"test_part2.py", "test_part3.py"}
    assert "CGAE" not in handout_files["submission.py"].decode()
    assert "class PatchJoint" in collect(parts=tuple(PARTS))["submission.py"].decode()


def test_tasks_of_parts_that_are_left_out(tmp_path):
    write_files(tmp_path, collect(parts=("2",)))
    check_points(tmp_path)
    done = run_python(tmp_path, "train.py", "--task", "JSA")
    assert done.returncode == 2
    assert re.search(r"choose from '?VAEwolabel'?\)", done.stderr)
    assert "--num_mis_steps" not in run_python(tmp_path, "train.py", "--help").stdout


@pytest.mark.parametrize(
    ("text", "message"), [("2,9", "no part '9'"), ("3", "part 3 needs part 2"), ("", "no part ''")]
)
def test_parts_that_cannot_be(text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        read_parts(text)


def test_a_leaked_line_is_found(handout_files, source):
    check_leaks(source, handout_files, CODE)
    line = "mu, log_var = self.encoder(x).chunk(2, dim=-1)"
    assert line in source
    for name in ("README.md", "tests/tools.py", "submission.py"):
        leaky = handout_files | {name: handout_files[name] + f"\n# {line}\n".encode()}
        with pytest.raises(HandoutError, match=re.escape(f"{name}: {line}")):
            check_leaks(source, leaky, CODE)


def test_a_solution_that_lies_among_the_provided_files_is_found(handout_files, source):
    leaky = handout_files | {
        "my_solution.py": strip_solutions(source, find_blocks(source)).encode()
    }
    with pytest.raises(HandoutError, match=r"my_solution\.py: .*"):
        check_leaks(source, leaky, [*CODE, "my_solution.py"])


def test_filling_one_todo_earns_its_points(handout, put_back):
    put_back("2.3")
    rows = run_tests(handout, "tests/test_part2.py")
    assert sum(row["score"] for row in rows) == PARTS["2"].points["2.3"]
    assert {row["number"] for row in rows if row["score"]} == {"2.3"}
    with pytest.raises(HandoutError, match=r"TODO 2\.3: .* should fail"):
        check_points(handout)


# ----------------------------------------------------------------------------------------------
# The README


def test_parts_of_a_page():
    text = "<!-- part 4 -->\nfour\n<!-- /part 4 -->\n<!-- without part 4\nnone\n-->\n"
    text += "| `JSA` | x |\n| 4 | y |\n`--task JSA` <!-- points -->1<!-- /points -->\n"
    assert for_students(text, "README.md", ("2", "3", "4")) == (
        "four\n| `JSA` | x |\n| 4 | y |\n`--task JSA` 90\n"
    )
    assert for_students(text, "README.md", ("2",)) == "none\n`--task VAEwolabel` 30\n"
    nested = "<!-- part 4 -->\n<!-- part 4 -->\n<!-- /part 4 -->\n<!-- /part 4 -->\n"
    for wrong in ("<!-- part 4 --> x", "x <!-- /part 4 -->", nested, "<!-- staff -->"):
        with pytest.raises(HandoutError, match=r"README\.md"):
            for_students(wrong, "README.md")


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_a_page_names_no_part_that_is_left_out(page):
    text = (ROOT / "instructor" / "handout" / page).read_text()
    choices = [c for size in range(len(PARTS)) for c in itertools.combinations(PARTS, size + 1)]
    courses = [c for c in choices if all(PARTS[part].needs in ("", *c) for part in c)]
    assert len(courses) == 8 and set(COURSES) < set(courses)
    for parts in courses:
        for_students(text, page, parts)  # checks it
    for name in (
        "Genwithlabel",
        "part 4",
        "第 4 部分",
        "TODO 3",
        "`JSA`",
        "--sigma",
        "`GenModel(`",
    ):
        with pytest.raises(HandoutError, match=f"{page}: the handout of part 2 names "):
            for_students(f"{text}\n{name}\n", page, ("2",))
        for_students(f"{text}\n{name}\n", page, USUAL)


def absent(text: str, contents: Files) -> set[str]:
    """What a page links to or quotes as a file, a folder or a module, and the handout lacks."""
    known = {Path(path).name for path in contents} | set(contents) | WRITTEN
    known |= {f"{parent}/" for path in contents for parent in Path(path).parents}
    named = {word for word in re.findall(r"\]\(([^)\s#]+)", text) if "://" not in word}
    named |= {f"{name.replace('.', '/')}.py" for name in re.findall(r"-m (kit[\w.]*)", text)}
    quoted = re.findall(r"`([^`\n]+)`", text) + re.findall(r"```\w*\n(.*?)```", text, re.S)
    for word in " ".join(quoted).split():
        word = word.split("=")[-1].rstrip(":,")
        if word.startswith("runs/"):  # of a task, or a name of one's own
            word = Path(word).name if "." in word else "runs/"
        if re.fullmatch(
            r"[\w./-]*\w/|[\w./-]+\.(py|md|txt|toml|npz|png|json|csv|pth|zip|yml)", word
        ):
            named.add(word)
    return named - known - {"runs/"}


def test_a_file_that_is_not_there_is_found(handout_files):
    there = "`kit/` `tests/` `runs/JSA/best.pth` `train.npz` `python -m kit.handin` [x](README.md)"
    assert absent(there, handout_files) == set()
    text = "`kit/x.py` [x](x.md) `instructor/`\n```bash\npython -m kit.x --config=x.json\n```\n"
    assert absent(there + text, handout_files) == {"kit/x.py", "x.md", "instructor/", "x.json"}


@pytest.mark.parametrize("parts", COURSES, ids="".join)
def test_the_readme_names_no_file_that_is_not_there(parts):
    contents = collect(parts=parts, lang="zh")
    for page in ("README.md", "README.zh-CN.md"):
        assert absent(contents[page].decode(), contents) == set()


@pytest.mark.parametrize("parts", COURSES, ids="".join)
def test_the_readme_begins_with_the_tests(parts, tmp_path):
    """Its first command sets the environment up and runs the tests; here the second half of it."""
    contents = collect(parts=parts, lang="zh")
    command = re.search(r"```bash\n(.+)\n", contents["README.md"].decode())[1]
    setup, _, run = command.rpartition(" && .venv/bin/python ")
    assert "-m venv .venv" in setup and "-r requirements.txt" in setup
    write_files(tmp_path, contents)
    done = run_python(tmp_path, *run.split())
    assert done.returncode == 1, done.stdout + done.stderr  # tests failed, and nothing else
    points = f"{code_points(parts):g}"
    assert re.search(rf"^total +0 / {points}$", done.stdout, re.MULTILINE), done.stdout[-2000:]
    assert f"0 of {points}" in contents["README.md"].decode()


@pytest.mark.parametrize("parts", COURSES, ids="".join)
def test_chinese_readme(parts, handout_files):
    contents = collect(parts=parts, lang="zh")
    english, chinese = contents["README.md"].decode(), contents["README.zh-CN.md"].decode()
    assert "README.zh-CN.md" not in handout_files
    for text in (english, chinese):
        assert "](../" not in text and "<!--" not in text
        assert ("CGAE" in text) == ("5" in parts)

    def blocks(text):
        return [re.sub(r"\s*#.*", "", block) for block in re.findall(r"```(.*?)```", text, re.S)]

    assert blocks(english) == blocks(chinese)
    for mark in (r"^#+ ", r"^\|", r"\$\$", r"!\[", r"^- ", r"^\d\. ", r"\*\*\d\.\d\W"):
        counts = [len(re.findall(mark, text, re.MULTILINE)) for text in (english, chinese)]
        assert counts[0] == counts[1], mark
    numbers = [sorted(re.findall(r"\d+\.\d+", text)) for text in (english, chinese)]
    assert numbers[0] == numbers[1]


# ----------------------------------------------------------------------------------------------
# train.py on stubs


def test_train_names_what_is_missing(handout, source):
    done = run_python(handout, "train.py", "--task", "JSA")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    numbers = re.findall(r"TODO ([\d.]+)", done.stderr)
    assert numbers == [b.todo for b in by_number(find_blocks(source)) if b.todo[0] == "4"]
    assert "--task JSA; still to do, in this order: TODO 4.1 (JointModel.build_net)" in done.stderr


def test_train_goes_as_far_as_it_can(handout, put_back):
    put_back("3", "4.1", "4.2", "4.3", "4.4", "4.5", "4.7")
    script = """
import train
for task in ("JSA", "Genwithlabel", "VAEwolabel"):
    try:
        train.main(["--task", task, "--device", "cpu"])
    except SystemExit as end:
        print(end)
"""
    done = run_python(handout, "-c", script)
    jsa, gen, vae = done.stdout.splitlines()
    assert (handout / "runs" / "JSA" / "last.pth").is_file()  # it failed in the first batch only
    assert jsa.endswith("in this order: TODO 4.6 (jsa_loss)")
    assert gen.endswith("in this order: TODO 2.3 (vae_loss)")
    assert re.findall(r"TODO ([\d.]+)", vae) == ["2.2.1", "2.2.2", "2.2.3", "2.2.4", "2.3"]
    assert "Traceback" not in done.stderr
    put_back("2.3")
    checkpoint = str(handout / "runs" / "JSA" / "last.pth")
    done = run_python(handout, "inference.py", "--checkpoint_path", checkpoint)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "it stopped at TODO 4.1" in done.stderr


def test_own_loss_needs_no_vae_loss(tmp_path, monkeypatch, source):
    name = "submission_with_own_loss"
    own = strip_solutions(source).replace(
        "class GenModel(nn.Module):", "class GenModel(nn.Module):\n    loss = None\n", 1
    )
    (tmp_path / f"{name}.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    missing = missing_todos(__import__(name), "Genwithlabel")
    assert [text.split(" (")[0] for text in missing] == ["TODO 3"] * 4
