"""Build what students get: stubs, tests, data without the hidden part.

    python -m instructor.make_handout --out build/                   # parts 2, 3 and 4
    python -m instructor.make_handout --out build/ --parts 2,3,4,5   # with the challenge
    python -m instructor.make_handout --out build/ --lang zh         # a Chinese README beside it

leaves build/handout/ and build/handout.zip, once the archive has passed the checks of
handout_checks.py. Takes about 40 s on one core.
"""

import argparse
import hashlib
import io
import json
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from data_utils import atomic_write, prepare
from instructor.handout_checks import (
    Files,
    HandoutError,
    check_import,
    check_leaks,
    check_points,
    write_files,
)
from instructor.parts import PARTS, USUAL, read_parts
from instructor.stubs import MarkerError, find_blocks, only_parts, strip_solutions

ROOT = Path(__file__).resolve().parents[1]
CODE = ["model.py", "trainer.py", "train.py", "inference.py", "grade.py", "data_utils.py"]
OTHER = ["README.md", "requirements.txt", "pyproject.toml", "LICENSE", ".gitignore"]
PATTERNS = ["tests/*.py", "tests/expected/*.npz", "dataset/README.md", "dataset/pictures/*.png"]
OPEN_SPLITS = ["train", "valid"]
STAFF = re.compile(r"<!-- staff -->.*?<!-- /staff -->\n?", re.DOTALL)
PART = re.compile(r"<!-- part (\d) -->\n?(.*?)<!-- /part \1 -->\n?", re.DOTALL)
WITHOUT = re.compile(r"<!-- without part (\d)\n(.*?)-->\n?", re.DOTALL)
CHINESE = "README.zh-CN.md"
EXPECTED = "tests/expected/expected.npz"


def collect(root: Path = ROOT, parts: tuple[str, ...] = USUAL, lang: str = "en") -> Files:
    """All files of the handout, contents by path, for the `parts` of the course.

    `lang` "zh" puts the Chinese README beside the English one.

    Raises:
        HandoutError: a file is missing, or its markers are not what they should be.
    """
    paths = [*CODE, *OTHER]
    for pattern in PATTERNS:
        paths += [path.relative_to(root).as_posix() for path in root.glob(pattern)]
    others = {f"tests/test_part{part}.py" for part in PARTS if part not in parts}
    paths = [path for path in paths if path not in others]
    try:
        files = {path: (root / path).read_bytes() for path in paths}
        if lang == "zh":
            text = (root / "instructor" / CHINESE).read_text()
            files[CHINESE] = text.replace("](../", "](").encode()
        source = only_parts((root / "submission.py").read_text(), parts)
        files["submission.py"] = strip_solutions(source).encode()
    except FileNotFoundError as error:
        raise HandoutError(f"{error.filename} is missing; it belongs in the handout") from error
    except MarkerError as error:
        raise HandoutError(f"submission.py, {error}") from error
    for path in files:
        if path.endswith(".md"):
            files[path] = for_students(files[path].decode(), path, parts).encode()
    pictures = set(re.findall(r"dataset/pictures/\w+\.png", files["README.md"].decode()))
    files = {p: c for p, c in files.items() if not p.endswith(".png") or p in pictures}
    files[EXPECTED] = expected_of(files[EXPECTED], parts)
    # Here the split files are made on the spot and ignored; students' repositories keep them.
    ignored = files[".gitignore"].decode().splitlines(keepends=True)
    files[".gitignore"] = "".join(line for line in ignored if "dataset/" not in line).encode()
    return dict(sorted((files | open_data()).items()))


def for_students(text: str, name: str, parts: tuple[str, ...] = USUAL) -> str:
    """Drop what is for staff (`<!-- staff -->` ... `<!-- /staff -->`) and what is of other parts.

    `<!-- part 5 -->` ... `<!-- /part 5 -->` stays where the course has part 5, without the
    comments; the text of a comment `<!-- without part 5 ... -->` appears where it has not. Rows of
    tables that begin with a part's number or task go with the part, and commands name a task that
    is left. `<!-- points -->90<!-- /points -->` becomes the points of all parts.
    """
    rest = PART.sub(lambda found: found[2] if found[1] in parts else "", STAFF.sub("", text))
    rest = WITHOUT.sub(lambda found: found[2] if found[1] not in parts else "", rest)
    for number, part in PARTS.items():
        if number not in parts:
            rest = re.sub(rf"^\| ({number}|`{part.task}`.*?) \|.*\n", "", rest, flags=re.MULTILINE)
            for head, tail in (("--task ", ""), ("runs/", ""), ("--checkpoint ", "=")):
                other = PARTS[parts[0]].task
                rest = rest.replace(f"{head}{part.task}{tail}", f"{head}{other}{tail}")
    points = sum(PARTS[part].points for part in parts)
    rest = re.sub(r"<!-- points -->\d+<!-- /points -->", f"{points:g}", rest)
    if found := re.search(r"<!-- /?(staff|part \d|points) -->", rest):
        raise HandoutError(f"{name}: the comment {found[0]} is nested or has no partner")
    return re.sub(r"\n{3,}", "\n\n", rest)


def expected_of(archive: bytes, parts: tuple[str, ...]) -> bytes:
    """The recorded values that the tests of these parts need."""
    with np.load(io.BytesIO(archive), allow_pickle=False) as values:
        files = tuple(f"test_part{part}.py" for part in parts)
        wanted = {name: values[name] for name in values.files if name.startswith(files)}
    buffer = io.BytesIO()
    np.savez(buffer, **wanted)  # not compressed, as below
    return buffer.getvalue()


def open_data() -> Files:
    """train.npz, valid.npz and a manifest that says nothing of the hidden part."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = prepare("sample", folder)
        files = {f"{name}.npz": (Path(folder) / f"{name}.npz").read_bytes() for name in OPEN_SPLITS}
    manifest["counts"] = {name: manifest["counts"][name] for name in OPEN_SPLITS}
    manifest["sha256"] = {name: manifest["sha256"][name] for name in files}
    files["manifest.json"] = (json.dumps(manifest, indent=2) + "\n").encode()
    return {f"dataset/{name}": content for name, content in files.items()}


def pack(files: Files) -> bytes:
    """A zip archive that depends on paths and contents only; everything is in one folder."""
    buffer = io.BytesIO()
    # Stored, not compressed: so the bytes do not depend on the version of zlib. The data inside
    # are compressed already.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, content in sorted(files.items()):
            info = zipfile.ZipInfo(f"handout/{path}", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, for the permissions to count
            info.external_attr = 0o100644 << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def verify(archive: bytes, source: str) -> None:
    """Check an archive against the solved `source` of submission.py, on an unpacked copy.

    Raises:
        HandoutError: it gives a solution away, or the tests do not score it as they should.
    """
    with tempfile.TemporaryDirectory() as temporary:
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            packed.extractall(temporary)
        folder = Path(temporary) / "handout"
        found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        check_leaks(source, {name: path.read_bytes() for name, path in found.items()}, CODE)
        print("no line of a solution is in the archive", flush=True)
        check_import(folder)
        blocks = find_blocks(source)
        parts = sorted({block.todo[0] for block in blocks})
        for done in ("", *parts, "".join(parts)):
            keep = [block for block in blocks if block.todo[0] in done]
            (folder / "submission.py").write_text(strip_solutions(source, keep))
            score, out_of = check_points(folder, done)
            what = f"only part {done} solved" if done else "nothing solved"
            what = "everything solved" if len(keep) == len(blocks) else what
            print(f"{what}: {score:g} of {out_of:g} points", flush=True)


def build(out: Path, parts: tuple[str, ...] = USUAL, lang: str = "en") -> str:
    """Make and check `out`/handout and `out`/handout.zip; returns the archive's SHA-256."""
    files = collect(parts=parts, lang=lang)
    archive = pack(files)
    verify(archive, only_parts((ROOT / "submission.py").read_text(), parts))
    folder = out / "handout"
    shutil.rmtree(folder, ignore_errors=True)
    write_files(folder, files)
    with atomic_write(out / "handout.zip") as temporary:
        temporary.write_bytes(archive)
    digest = hashlib.sha256(archive).hexdigest()
    print(f"{out / 'handout.zip'}: {len(files)} files, {len(archive):,} bytes, SHA-256 {digest}")
    return digest


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Build and check what students get.")
    parser.add_argument("--out", type=Path, default=Path("build"), help="default: build")
    parser.add_argument(
        "--parts", type=read_parts, default=USUAL, help="with code, in it (default: 2,3,4)"
    )
    parser.add_argument(
        "--lang", choices=["en", "zh"], default="en", help="zh: with a Chinese README as well"
    )
    args = parser.parse_args(argv)
    try:
        build(args.out, args.parts, args.lang)
    except HandoutError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
