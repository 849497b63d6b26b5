"""The grade command: what is graded again and what is kept, wrong calls, errors of the grader."""

import fcntl
import json
import zipfile

import pytest

pytest.importorskip("distributed", reason="needs instructor/requirements.txt")
pytest.importorskip("jinja2", reason="needs instructor/requirements.txt")

import distributed

from instructor.grading import grade_class, grade_upload
from instructor.grading.hidden import make_hidden, save_hidden
from instructor.grading.result import Log
from instructor.isolation.sandbox import SandboxError

pytestmark = pytest.mark.staff


@pytest.fixture(scope="module")
def scheduler():
    """The address of a Dask scheduler with one worker, in this process."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def call(tmp_path, scheduler, monkeypatch):
    """A function: grade `tmp_path`/uploads; the number of uploads whose grader failed."""
    monkeypatch.setattr(grade_upload, "require", lambda unsafe: None)
    (tmp_path / "uploads").mkdir()
    save_hidden(make_hidden("sample", "a test's secret", limit=20), tmp_path / "hidden.npz")

    def run(*more: str) -> int:
        argv = [
            tmp_path / "uploads",
            "--hidden",
            tmp_path / "hidden.npz",
            "--out",
            tmp_path / "out",
        ]
        argv += ["--scheduler", scheduler, *more]
        return grade_class.grade_class(grade_class.parse([str(word) for word in argv]))

    return run


def hand_in(folder, name: str, content: bytes = b"no zip") -> None:
    (folder / "uploads" / name).write_bytes(content)


def modified(folder) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "out/students").iterdir()}


def test_second_run_does_only_what_is_missing_or_changed(tmp_path, call, capsys):
    hand_in(tmp_path, "ada.zip")
    hand_in(tmp_path, "ben.zip")
    assert call() == 0
    first, grades = modified(tmp_path), (tmp_path / "out/grades.csv").read_bytes()
    hand_in(tmp_path, "cleo.zip")
    hand_in(tmp_path, "ben.zip", b"still no zip")
    assert call() == 0
    assert "3 uploads, 1 of them graded before" in capsys.readouterr().out
    again = modified(tmp_path)
    assert len(again) == 3 and sum(again.get(name) == time for name, time in first.items()) == 1
    (tmp_path / "uploads/cleo.zip").unlink()
    hand_in(tmp_path, "ben.zip")
    assert call() == 0
    assert (tmp_path / "out/grades.csv").read_bytes() == grades


def test_a_damaged_result_is_made_anew(tmp_path, call):
    hand_in(tmp_path, "ada.zip")
    call()
    (path,) = (tmp_path / "out/students").iterdir()
    before = json.loads(path.read_text())
    other_form = before | {"row": before["row"] | {"total": 160.0}}
    for damaged in (json.dumps(before)[:100], json.dumps(other_form), "[]", "{}"):
        path.write_text(damaged)
        assert call() == 0
        again = json.loads(path.read_text())
        assert again["version"] == before["version"]
        assert again["row"] | {"seconds": 0} == before["row"] | {"seconds": 0}


def test_every_upload_has_a_row_with_its_reason(tmp_path, call):
    hand_in(tmp_path, "ada.zip")
    hand_in(tmp_path, "=1+1.pdf")
    with zipfile.ZipFile(tmp_path / "uploads/empty.zip", "w"):
        pass
    assert call() == 0
    table = (tmp_path / "out/grades.csv").read_text().splitlines()
    assert len(table) == 4
    assert table[1].startswith("'=1+1.pdf,")
    assert "there is no usable submission.py" in table[3]
    assert len(list((tmp_path / "out/feedback").iterdir())) == 3
    assert "=1+1.pdf" in (tmp_path / "out/report.html").read_text()


def test_an_error_of_the_grader_is_told_and_tried_again(tmp_path, call, monkeypatch):
    hand_in(tmp_path, "ada.zip")
    unpack = grade_upload.unpack_limited

    def broken(path, target):
        raise OSError("no space left")

    monkeypatch.setattr(grade_upload, "unpack_limited", broken)
    assert call() == 1
    assert "by an error of the grader" in (tmp_path / "out/grades.csv").read_text()
    assert not list((tmp_path / "out/students").iterdir())
    monkeypatch.setattr(grade_upload, "unpack_limited", unpack)
    assert call() == 0
    assert "by an error of the grader" not in (tmp_path / "out/grades.csv").read_text()


def test_two_runs_do_not_write_into_one_folder(tmp_path, call):
    hand_in(tmp_path, "ada.zip")
    (tmp_path / "out").mkdir()
    with (tmp_path / "out/.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another run"):
            call()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda f: (f / "hidden.npz").unlink(), "hidden.npz"),
        (lambda f: (f / "uploads").rmdir(), "cannot be listed"),
        (lambda f: None, "holds no uploads"),
    ],
)
def test_wrong_calls_are_one_line(tmp_path, call, change, word):
    change(tmp_path)
    argv = [tmp_path / "uploads", "--hidden", tmp_path / "hidden.npz", "--out", tmp_path / "out"]
    with pytest.raises(SystemExit) as caught:
        grade_class.main([str(word) for word in argv])
    assert str(caught.value).startswith("error: ") and word in str(caught.value)


def test_without_a_sandbox_nothing_is_run(tmp_path, call, monkeypatch):
    hand_in(tmp_path, "ada.zip")

    def refuse(unsafe):
        if not unsafe:
            raise SandboxError("the sandbox does not work here")

    monkeypatch.setattr(grade_upload, "require", refuse)
    with pytest.raises(SandboxError):
        call()
    assert call("--unsafe") == 0
    assert ",yes," in (tmp_path / "out/grades.csv").read_text().lower()


def test_workers_with_more_threads_are_refused(tmp_path, call):
    hand_in(tmp_path, "ada.zip")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        pytest.raises(grade_class.WorkerSetupError, match="more than one thread"),
    ):
        call("--scheduler", cluster.scheduler_address)


def test_logs_are_read_as_numbers_only(tmp_path):
    path = tmp_path / "log_JSA.csv"
    path.write_text("epoch,<b>,x\n1,2,nan\n2,1e999,=A1\n3\n" + "4,5,6,7\n")
    log = grade_upload.read_log(path)
    rows = [[1, 2, None], [2, None, None], [3, None, None], [4, 5, 6]]
    assert log == Log(["epoch", "<b>", "x"], rows)
    path.write_bytes(b"x" * 200_000)
    assert grade_upload.read_log(path) is None
    assert grade_upload.read_log(tmp_path / "none") is None
