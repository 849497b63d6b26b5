"""Grade a whole class: autograder and quality on the hidden split, grades.csv, report.

    python -m instructor grade UPLOADS --hidden FILE --out GRADES
    python -m instructor grade UPLOADS --hidden FILE --out GRADES --workers 8
    python -m instructor grade UPLOADS --hidden FILE --out GRADES --scheduler tcp://HOST:8786

UPLOADS holds a zip file or a folder for each student. Each one's result is written to
GRADES/students/ as it is ready; the same command again does what is missing or has changed, and
then writes grades.csv, feedback/ and report.html from all of them.
"""

import argparse
import contextlib
import fcntl
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from dask.distributed import Client, LocalCluster, as_completed
from tqdm import tqdm

from instructor.door import add_parts, make_parser, positive
from instructor.grading.feedback import write_feedback
from instructor.grading.grade_upload import Options, grade_upload, grader_version, version
from instructor.grading.hidden import Hidden, load_hidden
from instructor.grading.report import write_grades, write_report
from instructor.grading.result import Result
from instructor.grading.uploads import Upload, UploadError, list_uploads, plain
from instructor.isolation.check import require
from instructor.isolation.sandbox import Limits, SandboxError
from kit.files import ROOT, DataError, atomic_write


class WorkerSetupError(Exception):
    """The given Dask scheduler cannot be used; the message says what to do."""


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    try:
        failed = grade_class(args)
    except (DataError, UploadError, SandboxError, WorkerSetupError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. What was graded is kept; the same command goes on from here.")
    if failed:
        sys.exit(f"{failed} of the uploads could not be graded; the same command tries them again.")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("uploads", type=Path, help="a folder with one zip or folder per student")
    parser.add_argument("--hidden", type=Path, required=True, help="the hidden split")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--workers", type=positive(int), help="processes on this machine (default: cores)"
    )
    parser.add_argument("--scheduler", help="a running Dask scheduler, tcp://HOST:PORT")
    add_parts(parser)
    parser.add_argument("--title", default="Grades", help="headline of report.html")
    parser.add_argument(
        "--seconds",
        type=positive(float),
        default=Limits.seconds,
        help="CPU time for one check or one step of a model (default: %(default)s); ten times as "
        "much by the clock",
    )
    parser.add_argument(
        "--unsafe",
        action="store_true",
        help="without the sandbox: students' code may read and change what you can",
    )
    return parser.parse_args(argv)


def grade_class(args: argparse.Namespace) -> int:
    """Grade what is missing and write the reports; how many uploads could not be graded."""
    hidden = load_hidden(args.hidden)
    uploads = list_uploads(args.uploads.resolve())
    if not uploads:
        raise UploadError(f"{args.uploads} holds no uploads")
    limits = Limits(seconds=args.seconds, budget=10 * args.seconds)
    options = Options(limits, args.unsafe, args.parts)
    if not args.scheduler:
        require(args.unsafe)
    (args.out / "students").mkdir(parents=True, exist_ok=True)
    with locked(args.out):
        rows, failed = grade_missing(args, uploads, hidden, options)
        write_all(args, rows, hidden)
    return failed


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One run at a time may write into a folder of results."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"another run is writing into {folder}") from error
        yield


def grade_missing(
    args: argparse.Namespace, uploads: list[Upload], hidden: Hidden, options: Options
) -> tuple[list[Result], int]:
    rows, todo = [], {}
    for upload in uploads:
        stamp = version(upload, hidden, options)
        row = read_row(args.out / "students" / f"{upload.key}.json", stamp)
        if row is None:
            todo[upload] = stamp
        else:
            rows.append(row)
    print(f"{len(uploads)} uploads, {len(rows)} of them graded before.", flush=True)
    failed = 0
    if not todo:
        return rows, failed
    with cluster(args, len(todo)) as client:
        shared = client.scatter(hidden, broadcast=True)
        futures = {
            client.submit(
                grade_upload, upload, shared, options, key=f"{upload.key}-{stamp}"
            ): upload
            for upload, stamp in todo.items()
        }
        bar = tqdm(as_completed(futures), total=len(todo), desc="grading", unit="upload")
        for future in bar:
            upload = futures[future]
            error = future.exception()
            if error is None:
                row = future.result()
                stored = json.dumps({"version": todo[upload], "row": row.to_json()})
                with atomic_write(args.out / "students" / f"{upload.key}.json") as temporary:
                    temporary.write_text(stored)
            elif isinstance(error, SandboxError):
                raise error
            else:
                failed += 1
                reason = plain(f"not graded, by an error of the grader: {error!r}", 500)
                row = Result.failed(upload, options.parts, reason, unsafe=options.unsafe)
                tqdm.write(f"{upload.name}: {reason}", file=sys.stderr)
            rows.append(row)
            future.release()
    return rows, failed


def read_row(path: Path, stamp: str) -> Result | None:
    """A student's result of an earlier run, unless the upload or the grader has changed since."""
    try:
        match json.loads(path.read_text()):
            case {"version": made_by, "row": row} if made_by == stamp:
                return Result.from_json(row)
    except (FileNotFoundError, ValueError):
        pass  # there is none, or a damaged one: the upload is graded again
    return None


@contextlib.contextmanager
def cluster(args: argparse.Namespace, num_tasks: int) -> Iterator[Client]:
    """A client of the given scheduler, or of worker processes started here."""
    if args.scheduler:
        with connected(args.scheduler) as client:
            check_workers(client)
            yield client
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    local = LocalCluster(
        n_workers=min(args.workers or os.cpu_count(), num_tasks),
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address="127.0.0.1:0",  # any free port
        silence_logs=logging.ERROR,
    )
    with local, Client(local) as client:
        yield client


def connected(address: str) -> Client:
    """A client of a running scheduler."""
    try:
        return Client(address, timeout=30)
    except (ValueError, OSError) as error:
        raise WorkerSetupError(f"--scheduler {address} cannot be reached ({error})") from error


def check_workers(client: Client) -> None:
    """Raise WorkerSetupError unless the scheduler's workers can grade like this process."""
    how = "start each in a checkout of this repository: python -m distributed.cli.dask_worker "
    how += "--nthreads 1 ADDRESS"
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        raise WorkerSetupError(f"the scheduler has no workers; {how}")
    if any(worker["nthreads"] != 1 for worker in workers.values()):
        raise WorkerSetupError(f"a worker has more than one thread; {how}")
    try:
        versions = client.run(worker_version)
    except ModuleNotFoundError as error:
        raise WorkerSetupError(f"a worker does not find the grader ({error}); {how}") from error
    if set(versions.values()) != {grader_version()}:
        raise WorkerSetupError("a worker has another version of this repository")


def worker_version() -> str:
    from instructor.grading.grade_upload import grader_version

    return grader_version()


def write_all(args: argparse.Namespace, rows: list[Result], hidden: Hidden) -> None:
    write_grades(rows, args.out / "grades.csv")
    for row in rows:
        write_feedback(row, args.out / "feedback")
    public = hidden.source in ("sample", "download")
    facts = {
        "source": hidden.source,
        "num_images": len(hidden.labels),
        "sha256": hidden.sha256,
        "warning": "The images are public; only the secret transforms protect them."
        if public
        else "",
    }
    write_report(rows, args.out / "report.html", title=args.title, hidden=facts, unsafe=args.unsafe)
    print(f"grades.csv, report.html, feedback/ and students/ are in {args.out}/")
