"""Grade one upload: unpack, autograder, quality. Runs in any process of a Dask cluster."""

import csv
import functools
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from instructor.make_hidden import Hidden
from instructor.parts import USUAL, code_points, max_total, tasks_of
from instructor.quality import failure, measure
from instructor.sandbox import WALL, Limits
from instructor.sandbox_check import require
from instructor.uploads import Upload, UploadError, fingerprint, plain, unpack_limited
from tests.worker import ROOT

MEMORY = 9 << 30  # address space of the autograder, which handles arrays of students' making
FOLDER = "grading"  # temporary folders are called grading-<process id>-...
OWN = "grade_upload parts pytest_sandbox quality quality_child sandbox seccomp uploads"
GRADER = ["*.py", "tests/**/*.py", "tests/expected/*"]
GRADER += [f"instructor/{name}.py" for name in OWN.split()]


@dataclass(frozen=True)
class Options:
    """What is the same for the whole class.

    Attributes:
        limits: of every sandbox.
        unsafe: grade without the sandbox, and stamp it on every row.
        parts: of the assignment, keys of PARTS.
        tests: further arguments of pytest, to run a part of the autograder.
    """

    limits: Limits = field(default_factory=Limits)
    unsafe: bool = False
    parts: tuple[str, ...] = USUAL
    tests: tuple[str, ...] = ()


@functools.cache
def grader_version() -> str:
    """A hash of the files of this repository that grades depend on."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in GRADER for path in ROOT.glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def version(upload: Upload, hidden: Hidden, options: Options) -> str:
    """A hash of all that the grade depends on: the upload, the hidden split and the grader."""
    facts = [grader_version(), asdict(options), hidden.sha256, hidden.noise_seed, upload.name]
    facts.append(fingerprint(upload.path))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def grade_upload(upload: Upload, hidden: Hidden, options: Options) -> dict:
    """Grade one upload.

    Returns:
        A row as `report.py` describes it: points, reasons, figures and pictures.

    Raises:
        SandboxError: students' code cannot be run safely here.
        OSError: no space is left, say; nothing that a student could cause.
    """
    require(options.unsafe)
    remove_leftovers()
    started = time.monotonic()
    row = {"name": upload.name, "key": upload.key, "unsafe": options.unsafe, "reason": ""}
    row |= {"notes": [], "logs": {}, "seconds": {}}
    tasks = tasks_of(options.parts)
    with tempfile.TemporaryDirectory(prefix=f"{FOLDER}-{os.getpid()}-") as name:
        scratch = Path(name)
        scratch.chmod(0o711)  # without bubblewrap, the dropped user has to get through
        folder = scratch / "upload"
        folder.mkdir()
        try:
            row["notes"] = unpack_limited(upload.path, folder)
            complete = (folder / "submission.py").is_file()
            row["reason"] = "" if complete else "there is no usable submission.py"
        except UploadError as error:
            row["reason"] = str(error)
        if row["reason"]:
            row["code"] = code_row([], row["reason"], options.parts)
            row["quality"] = {task: failure(task, row["reason"]) for task in tasks}
        else:
            row["code"] = run_autograder(folder, scratch, hidden, options)
            row["seconds"]["code"] = time.monotonic() - started
            row["quality"], seconds = measure(folder, hidden, options.limits, options.unsafe, tasks)
            row["seconds"] |= seconds
            row["logs"] = {
                task: log
                for task in tasks
                if (log := read_log(folder / f"log_{task}.csv")) is not None
            }
    row["seconds"]["all"] = time.monotonic() - started
    row["seconds"] = {name: round(value, 2) for name, value in row["seconds"].items()}
    quality = sum(result["points"] for result in row["quality"].values())
    total = round(row["code"]["score"] + quality, 2)
    return row | {"total": total, "max_total": max_total(options.parts)}


def remove_leftovers() -> None:
    """Remove the temporary folders of grading processes that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{FOLDER}-*-*"):
        number = re.match(rf"{FOLDER}-([0-9]{{1,7}})-", path.name)
        if number and not psutil.pid_exists(int(number[1])):
            shutil.rmtree(path, ignore_errors=True)  # ours, or of another user and left alone


# ----------------------------------------------------------------------------------------------
# The autograder


def run_autograder(folder: Path, scratch: Path, hidden: Hidden, options: Options) -> dict:
    """Run tests/ on `folder`/submission.py with inputs that depend on the hidden split's seed."""
    results = scratch / "results.json"
    files = [f"tests/test_part{part}.py" for part in options.parts]
    command = [sys.executable, "-B", "-m", "pytest", *files, "-q", "-p", "no:cacheprovider"]
    command += ["--isolated", f"--submission={folder}", f"--seed={hidden.seed('autograder')}"]
    command += [f"--results={results}", *(["--unsafe"] if options.unsafe else []), *options.tests]
    command += [f"--worker-seconds={options.limits.seconds}"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    environment |= {"OMP_NUM_THREADS": "1", "TMPDIR": str(scratch)}
    # Should this process be killed, pytest goes with it, and the sandbox with pytest.
    outer = ["setpriv", "--pdeathsig", "KILL", "prlimit", f"--as={MEMORY}"]
    process = subprocess.Popen(
        outer + command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    late = False
    try:
        said, _ = process.communicate(timeout=WALL * options.limits.budget + 1200)
    except subprocess.TimeoutExpired:  # what it wrote until then counts
        process.kill()
        said, _ = process.communicate()
        late = True
    if process.returncode not in (0, 1) and not late:  # neither all passed nor some failed
        shown = said.decode(errors="replace")[-2000:]
        raise RuntimeError(f"the autograder ended with {process.returncode}: {shown}")
    return code_row(json.loads(results.read_text())["tests"], "", options.parts)


def code_row(tests: list[dict], reason: str, of_parts: tuple[str, ...] = USUAL) -> dict:
    parts = {part: [0.0, 0.0] for part in of_parts}
    for test in tests:
        parts[test["number"][0]][0] += test["score"]
        parts[test["number"][0]][1] += test["max_score"]
    score = round(sum(points for points, _ in parts.values()), 2)
    return {
        "score": score,
        "max_score": code_points(of_parts),
        "reason": reason,
        "parts": {part: [round(x, 2) for x in pair] for part, pair in parts.items()},
        "tests": tests,
    }


# ----------------------------------------------------------------------------------------------
# The training log, which is for looking at only


def read_log(path: Path) -> dict | None:
    """Columns and rows of a log.csv; what is no finite number becomes None."""
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            lines = [line[:40] for line, _ in zip(csv.reader(file), range(5001), strict=False)]
    except csv.Error:
        return None
    if len(lines) < 2:
        return None
    columns = [plain(name, 40) for name in lines[0]]
    return {"columns": columns, "rows": [fit(line, len(columns)) for line in lines[1:]]}


def fit(line: list[str], width: int) -> list[float | None]:
    return [number(cell) for cell in [*line, *[""] * width][:width]]


def number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
