"""Check what you hand in, and pack it: writes submission.zip.

    python -m kit.handin                                # runs/<task>/best.pth of each task
    python -m kit.handin --checkpoint JSA=other/last.pth

Runs the tests and measures each model on the validation split first, so that you know what you
hand in. The zip holds submission.py and for each task <task>.pth, without what only training
needs, and log_<task>.csv.
"""

import argparse
import contextlib
import importlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import grade
from kit.assignment import LIMITS, MIB, TASKS, available_tasks
from kit.files import DATA_DIR, ROOT, DataError, atomic_write
from kit.todos import explain_error, todo_message

FOR_TRAINING = {"optimizer_state_dict", "sampler_state_dict", "random_states", "history"}


class HandInError(Exception):
    """This cannot be handed in; the message names the file and says what to do."""


def find_checkpoints(run_dir: Path, named: list[str]) -> dict[str, Path]:
    """The checkpoint of each task: what `--checkpoint TASK=FILE` says, or best.pth of its run."""
    found = {task: run_dir / task / "best.pth" for task in TASKS}
    found = {task: path for task, path in found.items() if path.is_file()}
    for entry in named:
        task, _, path = entry.partition("=")
        if task not in TASKS:
            tasks = ", ".join(TASKS)
            raise HandInError(f"--checkpoint {entry}: write TASK=FILE, with one of {tasks}")
        if not Path(path).is_file():
            raise HandInError(f"{path or 'the checkpoint'} of {task} does not exist")
        found[task] = Path(path)
    return found


def import_inference():
    try:
        return importlib.import_module("inference")
    except Exception as error:
        raise HandInError(f"submission.py cannot be imported. {explain_error(error)}") from error


def slim(inference, task: str, path: Path) -> bytes:
    """The checkpoint with weights and settings only, once it has been loaded as the grader will."""
    import torch

    try:
        _, config = inference.load_task(str(path), {}, torch.device("cpu"))
        checkpoint = inference.read_checkpoint(path)
    except NotImplementedError as error:
        message = todo_message(error, inference.submission)
        raise HandInError(f"{path}: {message}") from error
    except Exception as error:
        raise HandInError(
            f"{path} cannot be loaded ({error}). Train the task again, or move the file away to "
            "hand in without it"
        ) from error
    if config["task"] != task:
        raise HandInError(f"{path} is a checkpoint of {config['task']}, not of {task}")
    kept = {name: value for name, value in checkpoint.items() if name not in FOR_TRAINING}
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    return buffer.getvalue()


def run_tests() -> list[dict]:
    """The rows of results.json after the tests; each has its points."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        command = [sys.executable, "-m", "pytest", "tests", "-q", f"--results={results}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode not in (0, 1):  # neither all passed nor some failed
            raise HandInError(f"the tests did not run:\n{(done.stdout + done.stderr)[-2000:]}")
        return json.loads(results.read_text())["tests"]


def measure(inference, task: str, content: bytes) -> dict:
    """What `python inference.py` and `python grade.py` say of the checkpoint on valid."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{task}.pth"
        path.write_bytes(content)
        arguments = ["--checkpoint_path", str(path), "--split", "valid", "--out", folder]
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                inference.main([*arguments, "--data_dir", DATA_DIR])
        except (Exception, SystemExit) as error:  # whatever student code raises is a reason
            reason = str(error) if isinstance(error, SystemExit) else repr(error)
            return grade.ungraded(reason)
        return grade.grade_folder(task, Path(folder), Path(DATA_DIR))


def pack(args: argparse.Namespace) -> None:
    source = ROOT / "submission.py"
    if not source.is_file():
        raise HandInError(f"{source.name} is missing in {ROOT}")
    checkpoints = find_checkpoints(args.run_dir, args.checkpoint)
    inference = import_inference()
    files = {"submission.py": source.read_bytes()}
    for task, path in checkpoints.items():
        files[f"{task}.pth"] = slim(inference, task, path)
        if (log := path.with_name("log.csv")).is_file():
            files[f"log_{task}.csv"] = log.read_bytes()
    for name, content in files.items():
        if len(content) > LIMITS[name]:
            raise HandInError(
                f"{name} has {len(content) / MIB:.1f} MiB, at most {LIMITS[name] // MIB} are "
                "graded; make it smaller"
            )
    rows = run_tests()
    for number in sorted({row["number"] for row in rows}):
        own = [row for row in rows if row["number"] == number]
        score, most = (sum(row[key] for row in own) for key in ("score", "max_score"))
        print(f"TODO {number:<6}{score:>6.4g} / {most:.4g}")
    total, most = (sum(row[key] for row in rows) for key in ("score", "max_score"))
    print(f"code       {total:>6.4g} / {most:.4g}\n")
    results = {task: measure(inference, task, files[f"{task}.pth"]) for task in checkpoints}
    print(grade.format_table(results))
    for task in available_tasks(inference.submission):
        if task not in checkpoints:
            print(
                f"{task}: there is no {args.run_dir / task / 'best.pth'}, so it is not in the zip"
            )
    with atomic_write(args.out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content, zipfile.ZIP_DEFLATED)
    size = args.out.stat().st_size / MIB
    print(f"\n{args.out}: {', '.join(files)} ({size:.1f} MiB). Hand in this file.")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m kit.handin", description="Pack the upload.")
    parser.add_argument("--run_dir", type=Path, default=Path("runs"), help="default: runs")
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="TASK=FILE",
        help="another checkpoint than best.pth of the task's run; may be given several times",
    )
    parser.add_argument("--out", type=Path, default=Path("submission.zip"))
    try:
        pack(parser.parse_args(argv))
    except (HandInError, DataError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
