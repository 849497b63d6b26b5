"""Rehearse class grading: 60 made-up uploads, graded twice, the hard way.

    python -m instructor rehearsal --out build/rehearsal        # about 20 minutes on 2 cores

The class holds honest submissions of several kinds, stubs, mutants and attacks. It is graded once
by a grader that is killed five times at random moments and started again, and once by a Dask
scheduler with two worker processes started by hand. Both must leave the same grades.csv, byte for
byte. Ends with what an honest submission costs.
"""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from instructor.banks.attacks.attack import read_attacks
from instructor.banks.attacks.bank import make_honest
from instructor.banks.mutants.mutant import (
    alternative_source,
    alternatives,
    mutant_source,
    read_mutants,
)
from instructor.door import make_parser
from instructor.grading.result import Result
from instructor.handout.stubs import find_blocks, strip_solutions
from kit.assignment import USUAL, tasks_of
from kit.files import ROOT

KILLS = 5
TASKS = tasks_of(USUAL)
# Attacks that run into a time limit would make the rehearsal long; the bank of attacks has them.
ATTACKS = [
    "equals_everything",
    "forged_replies",
    "replies_of_infinity",
    "daemon",
    "network",
    "poisoned_files",
    "at_exit",
    "code_of_another_type",
    "code_of_odd_numbers",
    "pickled_array",
    "identity_in_the_digits",
    "escaping_members",
    "shadowing_files",
    "links_and_pipes",
    "damaged",
    "odd_name",
    "pickled_checkpoint",
    "escape_codes",
]


def make_class(folder: Path) -> Path:
    """60 uploads in `folder`/uploads."""
    honest = make_honest(folder, TASKS)
    uploads = folder / "uploads"
    uploads.mkdir()
    reference = (honest / "submission.py").read_text()

    def hand_in(name: str, source: str, tasks=TASKS) -> None:
        (uploads / name).mkdir()
        (uploads / name / "submission.py").write_text(source)
        for task in tasks:
            for file in (f"{task}.pth", f"log_{task}.csv"):
                (uploads / name / file).write_bytes((honest / file).read_bytes())

    others = [(name, alternative_source(p, reference)) for name, p in alternatives().items()]
    for number in range(12):
        hand_in(f"honest-{number:02}", reference, TASKS[: 1 + number % 3])
    for name, source in others[:8]:
        hand_in(f"other-{name}", source)
    blocks = sorted(find_blocks(reference), key=lambda block: block.begin)
    for number in range(10):
        hand_in(f"stub-{number:02}", strip_solutions(reference, blocks[: 3 * number]), ())
    for mutant in read_mutants()[::18][:12]:
        hand_in(f"mutant-{mutant.name}", mutant_source(mutant, reference))
    for attack in read_attacks():
        if attack.name in ATTACKS:
            place = uploads / ".making"
            place.mkdir()
            made = attack.build(place, honest)
            ending = made.suffix if made.suffix == ".zip" and attack.name != "odd_name" else ""
            name = made.name if attack.name == "odd_name" else f"attack-{attack.name}{ending}"
            made.rename(uploads / name)
            place.rmdir()
    return uploads


def command(folder: Path, out: str, *more: str) -> list[str]:
    files = [str(folder / "uploads"), "--hidden", str(folder / "hidden.npz")]
    grader = [sys.executable, "-m", "instructor", "grade", *files, "--seconds", "20"]
    return [*grader, "--out", str(folder / out), *more]


def grade_with_kills(folder: Path, rng: random.Random) -> None:
    """Run the grader, kill it five times, run it to the end; nothing of it may stay behind."""
    students = folder / "killed" / "students"

    def done() -> int:
        return len(list(students.glob("*.json")))

    for kill in range(KILLS):
        enough = done() + rng.randint(2, 10)
        process = subprocess.Popen(command(folder, "killed"), cwd=ROOT, start_new_session=True)
        while process.poll() is None and done() < enough:
            time.sleep(0.2)
        time.sleep(rng.uniform(0, 10))
        process.kill()
        process.wait()
        print(f"\nkill {kill + 1}: {done()} graded", flush=True)
    subprocess.run(command(folder, "killed"), cwd=ROOT, check=True)


@contextlib.contextmanager
def dask_by_hand() -> Iterator[str]:
    """A Dask scheduler and two workers, as one would start them on three machines."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    python = [sys.executable, "-m"]
    scheduler = ["distributed.cli.dask_scheduler", "--port", address.rsplit(":", 1)[1]]
    worker = ["distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    quiet = {"stderr": subprocess.DEVNULL, "cwd": ROOT, "env": environment}
    processes = [subprocess.Popen([*python, *scheduler, "--no-dashboard"], **quiet)]
    time.sleep(3)
    for _ in range(2):
        processes.append(subprocess.Popen([*python, *worker, "--memory-limit", "0"], **quiet))
    time.sleep(5)
    try:
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def costs(folder: Path) -> None:
    """Seconds by step, over the honest uploads with all three tasks."""
    stored = [json.loads(path.read_text()) for path in (folder / "students").glob("*.json")]
    rows = [Result.from_json(one["row"]) for one in stored]
    full = [
        row.seconds
        for row in rows
        if row.name.startswith("honest-") and not any(q.reason for q in row.quality.values())
    ]
    for step in ("code", "encode", "decode", "metrics", "all"):
        values = [seconds[step] for seconds in full]
        print(f"  {step:<9}{np.mean(values):>6.1f} s  ({min(values):.1f} to {max(values):.1f})")


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("--out", type=Path, required=True, help="an empty or new folder")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    args = parser.parse_args(argv)
    folder = args.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    uploads = make_class(folder)
    print(f"{len(list(uploads.iterdir()))} uploads", flush=True)
    make = ["instructor", "hidden", "--source", "sample", "--seed", "a dress rehearsal"]
    make += ["--out", str(folder / "hidden.npz"), "--overwrite"]
    subprocess.run([sys.executable, "-m", *make], cwd=ROOT, check=True)
    started = time.monotonic()
    grade_with_kills(folder, random.Random(args.seed))
    print(f"killed {KILLS} times: {time.monotonic() - started:.0f} s", flush=True)
    started = time.monotonic()
    with dask_by_hand() as address:
        subprocess.run(command(folder, "dask", "--scheduler", address), cwd=ROOT, check=True)
    print(f"two workers of a Dask scheduler: {time.monotonic() - started:.0f} s", flush=True)
    grades = [(folder / name / "grades.csv").read_bytes() for name in ("killed", "dask")]
    print("honest uploads of three tasks, two at a time:")
    costs(folder / "dask")
    if grades[0] != grades[1]:
        sys.exit("grades.csv differs")
    print("grades.csv is the same, byte for byte")
