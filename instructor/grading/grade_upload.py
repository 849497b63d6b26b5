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

from instructor import layout
from instructor.grading.hidden import Hidden
from instructor.grading.quality import measure
from instructor.grading.result import Check, Code, Log, Result, read
from instructor.grading.uploads import Upload, UploadError, fingerprint, plain, unpack_limited
from instructor.isolation.check import require
from instructor.isolation.sandbox import WALL, Limits
from kit.assignment import USUAL, tasks_of
from kit.files import ROOT

MEMORY = 9 << 30  # address space of the autograder, which handles arrays of students' making
FOLDER = "grading"  # temporary folders are called grading-<process id>-...


@dataclass(frozen=True)
class Options:
    """What is the same for the whole class.

    Attributes:
        limits: of every sandbox.
        unsafe: grade without the sandbox, and stamp it on every row.
        parts: those of the assignment that are graded.
        tests: further arguments of pytest, to run only some of the tests.
    """

    limits: Limits = field(default_factory=Limits)
    unsafe: bool = False
    parts: tuple[str, ...] = USUAL
    tests: tuple[str, ...] = ()


@functools.cache
def grader_version() -> str:
    """A hash of the files of this repository that grades depend on."""
    digest = hashlib.sha256()
    for path in layout.files(*layout.GRADER, root=ROOT):
        content = hashlib.sha256((ROOT / path).read_bytes()).hexdigest()
        digest.update(f"{path} {content}\n".encode())
    return digest.hexdigest()


def version(upload: Upload, hidden: Hidden, options: Options) -> str:
    """A hash of all that the grade depends on: the upload, the hidden split and the grader."""
    facts = [grader_version(), asdict(options), hidden.sha256, hidden.noise_seed, upload.name]
    facts.append(fingerprint(upload.path))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def grade_upload(upload: Upload, hidden: Hidden, options: Options) -> Result:
    """Grade one upload.

    Raises:
        SandboxError: students' code cannot be run safely here.
        OSError: no space is left, say; nothing that a student could cause.
    """
    require(options.unsafe)
    remove_leftovers()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"{FOLDER}-{os.getpid()}-") as name:
        scratch = Path(name)
        scratch.chmod(0o711)  # without bubblewrap, the dropped user has to get through
        folder = scratch / "upload"
        folder.mkdir()
        notes, reason = [], ""
        try:
            notes = unpack_limited(upload.path, folder)
            if not (folder / "submission.py").is_file():
                reason = "there is no usable submission.py"
        except UploadError as error:
            reason = str(error)
        if reason:
            row = Result.failed(upload, options.parts, reason, unsafe=options.unsafe, notes=notes)
        else:
            row = grade_files(upload, folder, hidden, options)
            row.notes = notes
    row.seconds["all"] = time.monotonic() - started
    row.seconds = {step: round(seconds, 2) for step, seconds in row.seconds.items()}
    return row


def grade_files(upload: Upload, folder: Path, hidden: Hidden, options: Options) -> Result:
    """Grade the unpacked files of an upload; temporary files go beside `folder`."""
    started = time.monotonic()
    tasks = tasks_of(options.parts)
    code = run_autograder(folder, folder.parent, hidden, options)
    seconds = {"code": time.monotonic() - started}
    quality, steps = measure(folder, hidden, options.limits, tasks, options.unsafe)
    logs = {task: read_log(folder / f"log_{task}.csv") for task in tasks}
    return Result(
        upload.name,
        upload.key,
        options.unsafe,
        code,
        quality,
        logs={task: log for task, log in logs.items() if log is not None},
        seconds=seconds | steps,
    )


def remove_leftovers() -> None:
    """Remove the temporary folders of grading processes that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{FOLDER}-*-*"):
        number = re.match(rf"{FOLDER}-([0-9]{{1,7}})-", path.name)
        if number and not psutil.pid_exists(int(number[1])):
            shutil.rmtree(path, ignore_errors=True)  # ours, or of another user and left alone


# ----------------------------------------------------------------------------------------------
# The autograder


def run_autograder(folder: Path, scratch: Path, hidden: Hidden, options: Options) -> Code:
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
    checks = read(list[Check], json.loads(results.read_text())["tests"], "results.json")
    return Code(list(options.parts), checks)


# ----------------------------------------------------------------------------------------------
# The training log, which is for looking at only


def read_log(path: Path) -> Log | None:
    """Columns and rows of a log.csv; what is not a finite number becomes None."""
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
    return Log(columns, [fit(line, len(columns)) for line in lines[1:]])


def fit(line: list[str], width: int) -> list[float | None]:
    return [number(cell) for cell in [*line, *[""] * width][:width]]


def number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
