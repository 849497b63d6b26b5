"""Grade attacks, and see that nothing else is touched."""

import contextlib
import dataclasses
import io
import json
import tempfile
import time
from pathlib import Path

import psutil

import train
from instructor.banks.attacks.attack import Attack, problems, read_attacks
from instructor.grading.grade_upload import Options, grade_upload
from instructor.grading.hidden import Hidden, make_hidden
from instructor.grading.result import Result
from instructor.grading.uploads import list_uploads
from instructor.isolation.sandbox import FIRST_UID, Limits
from kit.assignment import USUAL, tasks_of
from kit.files import ROOT

LIMITS = Limits(seconds=10, budget=60, memory=2 << 30)
QUICK = ("-k", "mis_chain or jsa_loss or importance")  # the sample's part of the autograder
# What CI runs: one attack of most kinds. Together they take about a minute.
SAMPLE = (
    "equals_everything",
    "replies_of_nan",
    "forged_replies",
    "daemon",
    "code_of_another_type",
    "links_and_pipes",
)
SURVIVOR_MARKS = ("'/kit'", "98765")


def make_honest(folder: Path, tasks: tuple[str, ...]) -> Path:
    """An upload of the reference, trained for two epochs on the bundled sample."""
    upload = folder / "honest"
    upload.mkdir()
    (upload / "submission.py").write_bytes((ROOT / "submission.py").read_bytes())
    for task in tasks:
        run = folder / "runs" / task
        command = f"--task {task} --epochs 2 --batch_size 200 --save_dir {run} --device cpu"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            train.main(command.split())
        (upload / f"{task}.pth").write_bytes((run / "best.pth").read_bytes())
        (upload / f"log_{task}.csv").write_bytes((run / "log.csv").read_bytes())
    return upload


@dataclasses.dataclass(frozen=True)
class Bank:
    """What every attack of one run is held against."""

    honest: Path
    hidden: Hidden
    options: Options
    usual: Result

    def run(self, attack: Attack) -> tuple[list[str], float, float]:
        """Grade an attack, then the honest upload; what went wrong, points, seconds."""
        started, before = time.monotonic(), snapshot(self.honest)
        seconds = attack.seconds or LIMITS.seconds
        limits = dataclasses.replace(
            LIMITS, seconds=seconds, budget=attack.seconds or LIMITS.budget
        )
        with tempfile.TemporaryDirectory(prefix="attack-") as folder:
            path = attack.build(Path(folder), self.honest)
            (upload,) = (u for u in list_uploads(Path(folder)) if u.path == path)
            options = dataclasses.replace(self.options, limits=limits)
            row = grade_upload(upload, self.hidden, options)
        found = problems(attack, row, self.usual)
        if left := survivors():
            found.append(f"still running: {left}")
        if changed := before ^ snapshot(self.honest):
            found.append(f"files changed: {sorted(changed)[:5]}")
        if grade_honest(self.honest, self.hidden, self.options) != self.usual:
            found.append("an honest submission graded after it gets something else")
        return found, row.total, time.monotonic() - started


def grade_honest(honest: Path, hidden: Hidden, options: Options) -> Result:
    """The row of the honest upload, without the seconds, which differ from time to time."""
    (upload,) = (u for u in list_uploads(honest.parent) if u.path == honest)
    return dataclasses.replace(grade_upload(upload, hidden, options), seconds={})


def snapshot(honest: Path) -> set[tuple]:
    """All files that an attack might want to change, with time and size."""
    paths = [
        path for path in ROOT.rglob("*") if ".git" not in path.parts and "runs" not in path.parts
    ]
    paths += [*honest.parent.glob("**/*")]
    for folder in (Path("/"), Path(tempfile.gettempdir()), Path("/dev/shm"), Path.home()):
        paths += folder.glob("hostile-*")
    return {(str(p), p.lstat().st_mtime_ns, p.lstat().st_size) for p in paths if p.is_file()}


def survivors() -> list[str]:
    """Processes of a sandbox that no grader owns any more."""
    found = []
    for process in psutil.process_iter(["cmdline", "uids", "ppid"]):
        command = " ".join(process.info["cmdline"] or ())
        uids = process.info["uids"]
        own_user = uids is not None and uids.real >= FIRST_UID
        with contextlib.suppress(psutil.NoSuchProcess):
            parents = [parent for parent in process.parents() if parent.pid > 1]
            # A sandbox of a grader that is at work has that grader above its own processes.
            orphan = all("/kit" in " ".join(parent.cmdline()) for parent in parents)
            if orphan and (own_user or any(mark in command for mark in SURVIVOR_MARKS)):
                found.append(f"{process.pid} {command[:80]}")
    return found


def run_by_name(bank: Bank, name: str) -> tuple[list[str], float, float]:
    (attack,) = (attack for attack in read_attacks() if attack.name == name)
    return bank.run(attack)


def prepare(folder: Path, quick: bool) -> Bank:
    honest = make_honest(folder, tasks_of(USUAL))
    hidden = make_hidden("sample", "the bank of attacks", limit=50)
    options = Options(LIMITS, tests=QUICK if quick else ())
    usual = grade_honest(honest, hidden, options)
    if usual.reason or any(one.reason for one in usual.quality.values()):
        row = json.dumps(usual.to_json())
        raise RuntimeError(f"the honest upload is not graded: {row[:2000]}")
    return Bank(honest, hidden, options, usual)
