"""The handout: solutions cut out, nothing leaked, reproducible, and what students see first."""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from instructor.handout_checks import (
    HandoutError,
    check_leaks,
    check_points,
    run_python,
    run_tests,
    write_files,
)
from instructor.make_handout import CODE, ROOT, collect, for_students, pack
from instructor.parts import read_parts
from instructor.stubs import MarkerError, by_number, find_blocks, strip_solutions
from model import missing_todos

SOURCE = (ROOT / "submission.py").read_text()
GRADESCOPE = ROOT / "instructor" / "gradescope"
EXAMPLE = '''
class Model:
    def encode(self, x):
        """Given."""
        y = 2 * x
        # A remark that is given.
        # TODO 4.3: the mode of q(h|x),
        # not a draw. Hint: none.
        # BEGIN SOLUTION
        if y > 1:
            y = 1
        return y
        # END SOLUTION

def bare(x):
    # TODO 4.4
    # BEGIN SOLUTION
    return x
    # END SOLUTION
'''


# ----------------------------------------------------------------------------------------------
# Stubs


def test_blocks_become_their_prompt_and_an_error():
    encode, bare = find_blocks(EXAMPLE)
    assert (encode.todo, encode.name) == ("4.3", "Model.encode")
    assert encode.prompt == "the mode of q(h|x), not a draw"
    assert (bare.todo, bare.name, bare.prompt) == ("4.4", "bare", "")
    expected = EXAMPLE.splitlines()
    for block in (bare, encode):
        del expected[block.begin - 1 : block.end]
    error = "raise NotImplementedError"
    prompt = "TODO 4.3: the mode of q(h|x), not a draw"
    expected.insert(encode.begin - 1, f'        {error}("{prompt}")')
    expected.append(f'    {error}("TODO 4.4: bare")')
    assert strip_solutions(EXAMPLE).splitlines() == expected
    kept = strip_solutions(EXAMPLE, [encode])
    assert "return y" in kept and "return x" not in kept and "SOLUTION" not in kept
    whole = "".join(line for line in EXAMPLE.splitlines(True) if "SOLUTION" not in line)
    assert strip_solutions(EXAMPLE, [encode, bare]) == whole


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("        y = 2 * x\n", "        # BEGIN SOLUTION\n", r"line 9: .* nested .* line 5"),
        ("        # BEGIN SOLUTION\n", "", r"line 12: END SOLUTION without a BEGIN"),
        ("return x\n    # END SOLUTION\n", "return x\n", r"line 17: BEGIN SOLUTION without an END"),
        ("        # END SOLUTION\n", "", r"line 16: .* nested .* line 9"),
        ("        # END SOLUTION", "        # end solution", r"line 13: .* is neither"),
        ("        # BEGIN SOLUTION", "        # BEGIN_SOLUTION", r"line 9: .* is neither"),
        ("        # END SOLUTION\n\ndef bare(x):\n    # TODO 4.4\n    # BEGIN SOLUTION\n", "\n"
         "def bare(x):\n", r"line 9: .* inside a function"),
        ("def bare(x):", "if True:", r"line 17: .* inside a function"),
        ("class Model:\n", "# TODO 4: all\n# BEGIN SOLUTION\nx = 1\n# END SOLUTION\nclass Model:\n",
         r"line 3: .* inside a function"),
        ("        if y > 1:\n            y = 1\n        return y\n", "        # nothing\n",
         r"line 9: there is no statement"),
        ("        return y\n        # END SOLUTION\n", "        # END SOLUTION\n"
         "        else:\n            return y\n", r"line 9: .* cuts a statement"),
        ("# TODO 4.3: the mode", "# the mode", r"line 9: there is no `# TODO"),
        ("    # TODO 4.4\n", "    # TODO 4.4\n\n", r"line 18: there is no `# TODO"),
    ],
)  # fmt: skip
def test_wrong_markers_are_named_with_their_line(old, new, message):
    assert old in EXAMPLE
    with pytest.raises(MarkerError, match=message):
        strip_solutions(EXAMPLE.replace(old, new, 1))


def test_every_todo_of_the_assignment_has_a_block():
    numbers = [block.todo for block in by_number(find_blocks(SOURCE))]
    expected = ["2.2.1", "2.2.2", "2.2.3", "2.2.4", "2.3", "3"]
    expected += [f"4.{i}" for i in range(1, 7)]
    assert [n for n in dict.fromkeys(numbers) if n[0] in "234"] == expected
    assert all(len(line) <= 100 for line in strip_solutions(SOURCE).splitlines())


def test_staff_comments_are_dropped():
    text = "one\n\n<!-- staff -->\nsecret\n<!-- /staff -->\n\ntwo <!-- staff -->x<!-- /staff -->\n"
    assert for_students(text, "README.md") == "one\n\ntwo "
    nested = text.replace("secret", "<!-- staff -->\n<!-- /staff -->")
    for wrong in ("<!-- staff --> x", "x <!-- /staff -->", nested):
        with pytest.raises(HandoutError, match=r"README\.md"):
            for_students(wrong, "README.md")


# ----------------------------------------------------------------------------------------------
# The archive


@pytest.fixture(scope="module")
def files():
    return collect()


@pytest.fixture
def handout(files, tmp_path) -> Path:
    """The handout, unpacked."""
    write_files(tmp_path / "handout", files)
    return tmp_path / "handout"


def put_back(folder: Path, *todos: str) -> None:
    """Solve these TODOs in a handout's submission.py."""
    keep = [block for block in find_blocks(SOURCE) if block.todo in todos]
    (folder / "submission.py").write_text(strip_solutions(SOURCE, keep))


def test_two_builds_are_the_same_bytes(files):
    archive = pack(files)
    assert pack(dict(reversed(collect().items()))) == archive
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        names = packed.namelist()
        assert packed.testzip() is None and names == sorted(names)
    top = {name.removeprefix("handout/").split("/")[0] for name in names}
    others = {"README.md", "LICENSE", ".gitignore", "pyproject.toml", "requirements.txt"}
    assert top == {*CODE, *others, "submission.py", "tests", "dataset"}


def test_the_hidden_part_is_not_in_it(files):
    data = {path.removeprefix("dataset/") for path in files if path.startswith("dataset/")}
    data = {name for name in data if not name.startswith("pictures/")}
    assert data == {"train.npz", "valid.npz", "manifest.json", "README.md"}
    manifest = json.loads(files["dataset/manifest.json"])
    assert set(manifest["counts"]) == {"train", "valid"}
    assert set(manifest["sha256"]) == {"train.npz", "valid.npz"}
    assert b"SOLUTION" not in files["submission.py"]
    assert b"dataset/" not in files[".gitignore"]


def test_parts_are_left_out_cleanly():
    files = collect(parts=("2", "3"))
    assert {path for path in files if "test_part" in path} == {
        "tests/test_part2.py",
        "tests/test_part3.py",
    }
    submission = files["submission.py"].decode()
    assert "Part 3" in submission and not re.search("part 4|JSA|PatchJoint", submission)
    with np.load(io.BytesIO(files["tests/expected/expected.npz"])) as values:
        assert {name.split("::")[0] for name in values} <= {"test_part2.py", "test_part3.py"}
    assert "CGAE" not in collect()["submission.py"].decode()
    assert "class PatchJoint" in collect(parts=("2", "3", "4", "5"))["submission.py"].decode()


def test_chinese_readme():
    files = collect(parts=("2", "3", "4"), lang="zh")
    english, chinese = files["README.md"].decode(), files["README.zh-CN.md"].decode()
    assert "README.zh-CN.md" not in collect()
    assert "](../" not in chinese and "<!--" not in chinese and "CGAE" not in chinese

    def blocks(text):
        return [re.sub(r"\s*#.*", "", block) for block in re.findall(r"```(.*?)```", text, re.S)]

    assert blocks(english) == blocks(chinese)
    for mark in (r"^#+ ", r"^\|", r"\$\$", r"!\[", r"^- ", r"\*\*\d\.\d\W"):
        counts = [len(re.findall(mark, text, re.MULTILINE)) for text in (english, chinese)]
        assert counts[0] == counts[1], mark
    numbers = [sorted(re.findall(r"\d+\.\d+", text)) for text in (english, chinese)]
    assert numbers[0] == numbers[1]


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


def test_a_leaked_line_is_found(files):
    check_leaks(SOURCE, files, CODE)
    line = "mu, log_var = self.encoder(x).chunk(2, dim=-1)"
    assert line in SOURCE
    for name in ("README.md", "tests/tools.py", "submission.py"):
        leaky = files | {name: files[name] + f"\n# {line}\n".encode()}
        with pytest.raises(HandoutError, match=re.escape(f"{name}: {line}")):
            check_leaks(SOURCE, leaky, CODE)


def test_filling_one_todo_earns_its_points(handout):
    put_back(handout, "2.3")
    rows = run_tests(handout, "tests/test_part2.py")
    assert sum(row["score"] for row in rows) == 15
    assert {row["number"] for row in rows if row["score"]} == {"2.3"}
    with pytest.raises(HandoutError, match=r"TODO 2\.3: .* should fail"):
        check_points(handout)


# ----------------------------------------------------------------------------------------------
# train.py on stubs


def test_train_names_what_is_missing(handout):
    done = run_python(handout, "train.py", "--task", "JSA")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    numbers = re.findall(r"TODO ([\d.]+)", done.stderr)
    assert numbers == [b.todo for b in by_number(find_blocks(SOURCE)) if b.todo[0] == "4"]
    assert "--task JSA; still to do, in this order: TODO 4.1 (JointModel.build_net)" in done.stderr


def test_train_goes_as_far_as_it_can(handout):
    put_back(handout, "3", "4.1", "4.2", "4.3", "4.4", "4.5")
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
    put_back(handout, "2.3")
    checkpoint = str(handout / "runs" / "JSA" / "last.pth")
    done = run_python(handout, "inference.py", "--checkpoint_path", checkpoint)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "it stopped at TODO 4.1" in done.stderr


def test_own_loss_needs_no_vae_loss(tmp_path, monkeypatch):
    name = "submission_with_own_loss"
    own = strip_solutions(SOURCE).replace(
        "class GenModel(nn.Module):", "class GenModel(nn.Module):\n    loss = None\n", 1
    )
    (tmp_path / f"{name}.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    missing = missing_todos(__import__(name), "Genwithlabel")
    assert [text.split(" (")[0] for text in missing] == ["TODO 3"] * 4


# ----------------------------------------------------------------------------------------------
# Gradescope and GitHub Classroom


def autograde(root: Path, *arguments: str, **changes: str) -> dict:
    """Run run_autograder on a folder laid out as /autograder; its results.json."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"AUTOGRADER_ROOT": str(root), "PATH": path} | changes
    command = ["bash", str(root / "source" / "run_autograder"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((root / "results" / "results.json").read_text())


def test_gradescope(files, tmp_path):
    for script in ("setup.sh", "run_autograder"):
        subprocess.run(["bash", "-n", str(GRADESCOPE / script)], check=True)
        assert os.access(GRADESCOPE / script, os.X_OK)
    source, upload = tmp_path / "source", tmp_path / "submission"
    write_files(source, files | {"submission.py": SOURCE.encode()})
    (source / "run_autograder").write_bytes((GRADESCOPE / "run_autograder").read_bytes())
    (source / "instructor").mkdir()
    if find_spec("psutil") is not None:  # without it the worker is a plain process
        for name in ("__init__", "pytest_sandbox", "sandbox", "sandbox_check", "seccomp"):
            file = f"instructor/{name}.py"
            (source / file).write_bytes((ROOT / file).read_bytes())
    upload.mkdir()
    assert "no submission.py" in autograde(tmp_path)["output"]
    keep = [block for block in find_blocks(SOURCE) if block.todo == "4.4"]
    (upload / "submission.py").write_text(strip_solutions(SOURCE, keep))
    assert "seed.txt" in autograde(tmp_path)["output"]
    (source / "seed.txt").write_text("12345\n")
    for name in ("conftest.py", "model.py"):  # must not be run in place of the grader's own
        (upload / name).write_text("import nonsense\n")
    results = autograde(tmp_path, "-k", "mis_chain or jsa_loss")
    assert results["score"] == sum(row["score"] for row in results["tests"]) > 0
    for row in results["tests"]:
        assert row["score"] == (row["max_score"] if row["number"] == "4.4" else 0)
        if row["number"] == "4.6":
            assert row["output"].startswith("TODO 4.6 is not implemented yet")
    (source / "tests" / "conftest.py").write_text("import nonsense\n")
    results = autograde(tmp_path)
    assert results["score"] == 0 and "could score anything" in results["output"]


def test_classroom_graders_have_the_points_of_their_todos(handout):
    text = (ROOT / "instructor" / "classroom" / "classroom.yml").read_text()
    graders = re.findall(r"id: (\w+)\n.*?points\(part='([\d.]+)'\).*?max-score: (\d+)", text, re.S)
    ids = [name for name, _, _ in graders]
    assert f"runners: {','.join(ids)}\n" in text
    assert all(f"{i.upper()}_RESULTS: ${{{{ steps.{i}.outputs.result }}}}\n" in text for i in ids)
    points: dict[str, float] = {}
    for row in run_tests(handout, "tests", "--collect-only"):
        points[row["number"]] = points.get(row["number"], 0) + row["max_score"]
    assert {todo: float(most) for _, todo, most in graders} == points
