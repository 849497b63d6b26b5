"""Copy the files that count out of one student's upload, without trusting a byte of it.

Only the files named in LIMITS are copied, under these names; links are never followed, and a size
is what was really read, not what a header says. `uploads.unpack_limited` runs `child` in a process
of its own, with limits on memory: this module imports no NumPy, which would take most of it.
"""

import contextlib
import json
import math
import os
import re
import resource
import stat
import struct
import zipfile
import zlib
from functools import partial
from pathlib import Path

from kit.assignment import LIMITS, MIB

CODE = "submission.py"
MAX_ARCHIVE, MAX_ENTRIES, MAX_NOTES = 256 * MIB, 10_000, 20
MAX_RATIO = 200  # of a member over 1 MiB; weights hardly shrink, zeros a thousandfold
MEMORY, CPU_SECONDS = 1 << 30, 120  # limits of `child`
KINDS = {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder"}
KINDS |= {stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe"}
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError)
ZIP_ERRORS += (OverflowError, IndexError, RuntimeError, MemoryError)


class UploadError(Exception):
    """The upload (in `_` functions: the file) is unusable; the message says why."""


def plain(text: str, limit: int) -> str:
    """Any text on one printable line of at most `limit` characters.

    Control and escape codes, line breaks, marks that turn the writing direction and bytes that
    are not text become U+FFFD.
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else "\ufffd" for c in cut)


def unpack(path: Path, target: Path) -> list[str]:
    """Copy the files that count into the empty folder `target`, with mode 0644.

    Returns:
        Notes for staff and student, one line each: what was ignored, and why.

    Raises:
        UploadError: nothing of the upload can be used; `target` stays empty.
        OSError: `target` cannot be written, which is not the student's fault.
    """
    require_empty(target)
    try:
        with opened(path, ("a file", "a folder")) as top:
            if stat.S_ISDIR(os.fstat(top).st_mode):
                notes = _copy(_find_in_folder(top), target)
            else:
                with _archive(top) as archive:
                    notes = _copy(_find_in_archive(archive), target)
    except UploadError as reason:
        raise UploadError(f"the upload {reason}") from reason
    if not (target / CODE).exists() and not any(note.startswith(f"{CODE} ") for note in notes):
        notes.insert(0, f"{CODE} is missing")
    more = len(notes) - MAX_NOTES
    return notes if more <= 0 else [*notes[:MAX_NOTES], f"{more} more files were ignored"]


def child(path: str, target: str) -> None:
    """What `uploads.unpack_limited` runs: limits, then `unpack`, then one line of JSON."""
    limits = {
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_FSIZE: max(LIMITS.values()) + MIB,
        resource.RLIMIT_CORE: 0,
    }
    for what, amount in limits.items():
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (amount if hard < 0 else min(amount, hard), hard))
    try:
        reply = {"notes": unpack(Path(path), Path(target))}
    except UploadError as error:
        reply = {"error": str(error)}
    except OSError as error:
        reply = {"failure": str(error)}
    print(json.dumps(reply))


def require_empty(target: Path) -> None:
    if any(target.iterdir()):
        raise ValueError(f"{target} is not empty")


# ----------------------------------------------------------------------------------------------
# The reasons below complete a sentence: "the upload ...", "JSA.pth ...".


def _require_kind(mode: int, kinds: tuple[str, ...]) -> None:
    kind = KINDS.get(stat.S_IFMT(mode), "a device or socket")
    if kind not in kinds:
        raise UploadError(f"is {kind}")


@contextlib.contextmanager
def opened(name: str | Path, kinds: tuple[str, ...], inside: int | None = None):
    """A descriptor of a file or folder; follows no link and waits for no pipe's writer."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        _require_kind(os.lstat(name, dir_fd=inside).st_mode, kinds)
        descriptor = os.open(name, flags, dir_fd=inside)
    except OSError as error:
        raise UploadError(f"cannot be opened ({error.strerror})") from error
    try:
        _require_kind(os.fstat(descriptor).st_mode, kinds)  # it may have been exchanged
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _archive(descriptor: int):
    """The zip archive, with its directory read."""
    with open(descriptor, "rb", closefd=False) as file:
        if os.fstat(descriptor).st_size > MAX_ARCHIVE:
            raise UploadError(f"is larger than {MAX_ARCHIVE // MIB} MiB")
        begins_as_zip = False
        try:
            begins_as_zip = file.read(2) == b"PK"
            archive = zipfile.ZipFile(file)
        except MemoryError as error:
            raise UploadError("lists more files than fit into memory") from error
        except ZIP_ERRORS as error:
            raise UploadError("is damaged" if begins_as_zip else "is not a zip file") from error
        if len(archive.infolist()) > MAX_ENTRIES:
            raise UploadError(f"has more than {MAX_ENTRIES:,} entries")
        yield archive


# Both functions return {place: {name: function that opens the file}}; a place is "" or "folder/".
# An opened file is a stream and the number of bytes it takes in the archive.


def _find_in_archive(archive: zipfile.ZipFile) -> dict[str, dict[str, partial]]:
    places: dict[str, dict[str, list]] = {}
    for info in archive.infolist():
        path = info.orig_filename.removeprefix("./").rstrip("/")
        name = re.split(r"[/\\]", path)[-1]
        place = path.removesuffix(name)
        if name in LIMITS and not place.startswith("__MACOSX/"):
            places.setdefault(place, {}).setdefault(name, []).append(info)
    return {
        place: {name: partial(_member, archive, infos) for name, infos in files.items()}
        for place, files in places.items()
    }


@contextlib.contextmanager
def _member(archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo]):
    if len(infos) > 1:
        raise UploadError("is in the archive twice")
    info = infos[0]
    kind = stat.S_IFMT(info.external_attr >> 16) or stat.S_IFREG  # not every program writes it
    _require_kind(stat.S_IFDIR if info.orig_filename.endswith("/") else kind, ("a file",))
    if info.flag_bits & 1:
        raise UploadError("is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UploadError(f"is compressed by an unusual method ({info.compress_type})")
    try:
        stream = archive.open(info)
    except ZIP_ERRORS as error:
        raise UploadError("is damaged") from error
    with stream:
        yield stream, info.compress_size


def _find_in_folder(top: int) -> dict[str, dict[str, partial]]:
    entries = sorted(os.listdir(top))  # names below a descriptor, which pathlib cannot list
    if len(entries) > MAX_ENTRIES:
        raise UploadError(f"has more than {MAX_ENTRIES:,} entries")
    places: dict[str, dict[str, partial]] = {}
    for folder in [".", *entries]:
        with (
            contextlib.suppress(UploadError, OSError),
            opened(folder, ("a folder",), top) as inside,
        ):
            names = LIMITS.keys() & {entry.name for entry in os.scandir(inside)}
            place = "" if folder == "." else f"{folder}/"
            places[place] = {name: partial(_file, top, folder, name) for name in sorted(names)}
    return places


@contextlib.contextmanager
def _file(top: int, folder: str, name: str):
    with (
        opened(folder, ("a folder",), top) as inside,
        opened(name, ("a file",), inside) as descriptor,
        open(descriptor, "rb", closefd=False) as stream,
    ):
        yield stream, math.inf


def _copy(places: dict[str, dict[str, partial]], target: Path) -> list[str]:
    """Copy the files of the one place that counts; returns the notes."""
    single = re.compile(r"([^./\\][^/\\]*/)?")  # the top, or one folder that is not hidden
    homes = [place for place in places if places[place] and single.fullmatch(place)]
    homes = [place for place in homes if CODE in places[place]] or homes
    if len(homes) > 1 and "" not in homes:
        names = ", ".join(plain(home, 40) for home in sorted(homes)[:3])
        raise UploadError(f"has the files in more than one folder ({names})")
    home = "" if "" in homes else "".join(homes)
    notes = []
    for place in sorted(places, key=lambda place: (place != home, place)):  # home first
        for name, open_file in places[place].items():
            try:
                if place != home:
                    raise UploadError("is neither at the top nor in the one folder")
                with open_file() as (stream, packed):
                    _save(stream, packed, LIMITS[name], target / name)
            except UploadError as reason:
                shown = name if place == home else plain(place + name, 80)
                notes.append(f"{shown} {reason}; ignored")
    return notes


def _save(stream, packed: float, limit: int, file: Path) -> None:
    """Write a stream to the new `file`, whole or not at all."""
    part = file.with_name(f".tmp-{file.name}")
    total = 0
    try:
        with part.open("xb") as out:
            while True:
                try:
                    chunk = stream.read(1 << 16)
                except ZIP_ERRORS as error:
                    raise UploadError("is damaged or cannot be read") from error
                total += len(chunk)
                if total > limit:
                    raise UploadError(f"is larger than {limit // MIB} MiB")
                if total > max(MIB, MAX_RATIO * packed):
                    raise UploadError("looks like an archive bomb")
                if not chunk:
                    break
                out.write(chunk)
            os.fchmod(out.fileno(), 0o644)
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)
