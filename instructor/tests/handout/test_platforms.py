"""Gradescope's archive and Classroom's workflow: made from the table, and run as they would be."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from instructor.handout import classroom, gradescope
from instructor.handout.checks import run_tests, write_files
from instructor.handout.stubs import find_blocks, strip_solutions
from kit.assignment import PARTS, USUAL

SCRIPTS = [gradescope.PLATFORMS / name for name in gradescope.SCRIPTS]


def autograde(root: Path, *arguments: str, **changes: str) -> dict:
    """Run run_autograder on a folder laid out as /autograder; its results.json."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"AUTOGRADER_ROOT": str(root), "PATH": path} | changes
    command = ["bash", str(root / "source" / "run_autograder"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((root / "results" / "results.json").read_text())


@pytest.mark.staff  # with staff's requirements it is graded in the sandbox
@pytest.mark.timeout(300)
def test_gradescope(tmp_path, source):
    for script in SCRIPTS:
        subprocess.run(["bash", "-n", str(script)], check=True)
        assert os.access(script, os.X_OK)
    folder, upload = tmp_path / "source", tmp_path / "submission"
    write_files(folder, gradescope.autograder(USUAL, 12345))
    assert (folder / "seed.txt").read_text() == "12345\n"
    if find_spec("psutil") is None:  # the worker is a plain process then
        shutil.rmtree(folder / "instructor")
    upload.mkdir()
    assert "no submission.py" in autograde(tmp_path)["output"]
    keep = [block for block in find_blocks(source) if block.todo == "4.4"]
    (upload / "submission.py").write_text(strip_solutions(source, keep))
    (folder / "seed.txt").rename(tmp_path / "seed.txt")
    assert "seed.txt" in autograde(tmp_path)["output"]
    (tmp_path / "seed.txt").rename(folder / "seed.txt")
    for name in ("conftest.py", "model.py"):  # must not be run in place of the grader's own
        (upload / name).write_text("import nonsense\n")
    results = autograde(tmp_path, "-k", "mis_chain or jsa_loss")
    assert results["score"] == sum(row["score"] for row in results["tests"]) > 0
    for row in results["tests"]:
        assert row["score"] == (row["max_score"] if row["number"] == "4.4" else 0)
        if row["number"] == "4.6":
            assert row["output"].startswith("TODO 4.6 is not implemented yet")
    (folder / "tests" / "conftest.py").write_text("import nonsense\n")
    results = autograde(tmp_path)
    assert results["score"] == 0 and "could score anything" in results["output"]


def archive(tmp_path: Path, *arguments: str) -> tuple[bytes, zipfile.ZipFile]:
    gradescope.main(["--out", str(tmp_path), *arguments])
    path = tmp_path / "gradescope.zip"
    assert path.stat().st_mode & 0o777 == 0o600
    return path.read_bytes(), zipfile.ZipFile(io.BytesIO(path.read_bytes()))


def test_gradescope_archive(tmp_path, source, handout_files):
    content, packed = archive(tmp_path, "--seed", "7")
    assert archive(tmp_path, "--seed", "7")[0] == content
    assert packed.read("seed.txt") == b"7\n"
    assert packed.read("submission.py").decode() == source
    names = set(packed.namelist())
    assert {name for name in handout_files if name.startswith(("tests/", "kit/"))} < names
    assert {"setup.sh", "run_autograder", "instructor/isolation/sandbox.py"} < names
    assert not [n for n in names if n.startswith(("instructor/tests/", "instructor/banks/"))]
    for name in names:
        runs = packed.getinfo(name).external_attr >> 16 & 0o111
        assert bool(runs) == (name in gradescope.SCRIPTS), name
    tests = {
        name for name in archive(tmp_path, "--parts", "2")[1].namelist() if "test_part" in name
    }
    assert tests == {"tests/test_part2.py"}


def test_gradescope_seeds_are_secret(tmp_path):
    seeds = {archive(tmp_path)[1].read("seed.txt") for _ in range(3)}
    assert len(seeds) == 3  # 31 random bits: two of three are equal once in 7e8 runs
    assert all(re.fullmatch(rb"\d+\n", seed) for seed in seeds)  # what run_autograder asks for
    with pytest.raises(SystemExit):
        gradescope.main(["--seed", "-1", "--out", str(tmp_path)])


@pytest.mark.parametrize("parts", [("2",), USUAL, tuple(PARTS)], ids="".join)
def test_classroom(parts, tmp_path):
    classroom.main(["--parts", ",".join(parts), "--out", str(tmp_path / "classroom.yml")])
    text = (tmp_path / "classroom.yml").read_text()
    graders = re.findall(r"id: (\w+)\n.*?points\(part='([\d.]+)'\).*?max-score: (\d+)", text, re.S)
    ids = [name for name, _, _ in graders]
    assert len(ids) == len(set(ids)) == text.count("autograding-command-grader@")
    assert f"runners: {','.join(ids)}\n" in text
    assert all(f"{i.upper()}_RESULTS: ${{{{ steps.{i}.outputs.result }}}}\n" in text for i in ids)
    table = {todo: points for part in parts for todo, points in PARTS[part].points.items()}
    assert {todo: float(points) for _, todo, points in graders} == table
    assert '"TODO 2.2: VAE"' in text and not re.search(r"GRADERS|RESULTS$|RUNNERS", text)


def test_classroom_graders_have_the_points_of_their_tests(handout):
    points: dict[str, float] = {}
    for row in run_tests(handout, "tests", "--collect-only"):
        points[row["number"]] = points.get(row["number"], 0) + row["max_score"]
    graders = re.findall(r"points\(part='([\d.]+)'\).*?max-score: (\d+)", classroom.workflow(USUAL),
                         re.S)  # fmt: skip
    assert {todo: float(most) for todo, most in graders} == points


def test_classroom_has_whole_points_only(monkeypatch):
    monkeypatch.setitem(PARTS["3"].points, "3", 20.5)
    with pytest.raises(classroom.ClassroomError, match=r"TODO 3 has 20\.5"):
        classroom.workflow(("2", "3"))
