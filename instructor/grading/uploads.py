"""The uploads of a class: who handed in what, unpacked within limits.

An upload is a zip file or a folder with `submission.py`, and for each task tried `<task>.pth` and
perhaps `log_<task>.csv`, at the top or inside one folder. Nothing in it is trusted; `unpacking.py`
says how.
"""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from instructor.grading.unpacking import (
    MAX_ARCHIVE,
    UploadError,
    opened,
    plain,
    require_empty,
    unpack,
)
from kit.assignment import MIB
from kit.files import ROOT

WALL_SECONDS = 600  # for unpacking
CHILD = "import sys; sys.path.insert(0, sys.argv[1]); "
CHILD += "from instructor.grading import unpacking; unpacking.child(*sys.argv[2:])"


@dataclass(frozen=True)
class Upload:
    """One entry of the folder with a class's uploads."""

    path: Path
    name: str  # for people: printable, 1 to 80 characters; two uploads may share it
    key: str  # for file names: [a-z0-9-]+, unique in the class


def list_uploads(folder: Path) -> list[Upload]:
    """All entries of `folder`, sorted, but hidden ones.

    What is not an upload (a link, a PDF) is listed too, so that no student vanishes silently;
    it fails in `unpack`, with the reason. Raises UploadError if `folder` cannot be listed.
    """
    try:
        entries = sorted(os.listdir(folder), key=os.fsencode)  # noqa: PTH208 (names, not paths)
    except OSError as error:
        raise UploadError(f"{folder} cannot be listed ({error.strerror})") from error
    uploads: dict[str, Upload] = {}
    for entry in entries:
        if entry.startswith("."):
            continue
        name = plain(entry[:-4] if entry.lower().endswith(".zip") else entry, 80).strip()
        letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        slug = re.sub("[^a-z0-9]+", "-", letters)[:40].strip("-") or "upload"
        digest = hashlib.sha256(os.fsencode(entry)).hexdigest()
        key = f"{slug}-{digest[:8]}"
        if key in uploads:  # 32 bits can be matched on purpose
            key = f"{slug}-{digest}"
        uploads[key] = Upload(Path(folder) / entry, name or "unnamed", key)
    return list(uploads.values())


def unpack_limited(path: Path, target: Path) -> list[str]:
    """`unpack` in a child process with limits: the directory of a hostile archive fills gigabytes.

    Arguments, result and exceptions are those of `unpack`.
    """
    require_empty(target)
    arguments = [os.fspath(argument) for argument in (ROOT, path, target)]
    command = [sys.executable, "-I", "-B", "-c", CHILD, *arguments]
    pipes = {"stdin": subprocess.DEVNULL, "capture_output": True}
    try:
        child = subprocess.run(command, **pipes, timeout=WALL_SECONDS)
        reply = json.loads(child.stdout) if child.returncode == 0 else {}
    except (subprocess.TimeoutExpired, ValueError):
        reply = {}
    if "notes" in reply:
        return reply["notes"]
    for leftover in target.iterdir():  # of a child that was killed
        leftover.unlink()
    if "failure" in reply:
        raise OSError(reply["failure"])
    raise UploadError(reply.get("error", "the archive could not be read within the limits"))


def fingerprint(path: Path) -> str:
    """SHA-256 of an upload, to tell whether it has changed; never raises.

    A zip file counts as a whole, a folder with what `unpack` copies and notes. Of anything else
    the reason why it cannot be used counts, and where a link points.
    """
    digest = hashlib.sha256()
    try:
        with opened(path, ("a file",)) as file, open(file, "rb", closefd=False) as stream:
            digest.update(b"file")
            for _ in range(MAX_ARCHIVE // MIB + 1):  # a larger one is refused anyway
                digest.update(stream.read(MIB))
            return digest.hexdigest()
    except (UploadError, OSError) as error:
        digest.update(f"{error}".encode(errors="replace"))
    with tempfile.TemporaryDirectory() as temporary, contextlib.suppress(UploadError, OSError):
        if path.is_symlink():
            digest.update(os.fsencode(path.readlink()))
        digest.update(json.dumps(unpack(path, Path(temporary))).encode())
        for file in sorted(Path(temporary).iterdir()):
            digest.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    return digest.hexdigest()
