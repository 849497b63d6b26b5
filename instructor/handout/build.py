"""Build what students get: stubs, tests and data, checked before it goes out.

    python -m instructor handout --out build/                   # parts 2, 3 and 4
    python -m instructor handout --out build/ --parts 2,3,4,5   # with the challenge
    python -m instructor handout --out build/ --lang zh         # a Chinese README beside it

leaves build/handout/ and build/handout.zip, once the archive has passed the checks of checks.py.
Takes about 40 s on one core.
"""

import hashlib
import io
import json
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np

from data_utils import prepare
from instructor.door import add_parts, make_parser
from instructor.handout.checks import (
    Files,
    HandoutError,
    check_import,
    check_leaks,
    check_names,
    check_points,
    write_files,
)
from instructor.handout.stubs import MarkerError, find_blocks, only_parts, strip_solutions
from instructor.layout import (
    AUTOGRADER,
    EXPECTED,
    OTHER,
    PAGES,
    PICTURES,
    PROVIDED,
    SOLVED,
    files,
)
from kit.assignment import PARTS, USUAL, code_points
from kit.files import ROOT, atomic_write

ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
OPEN_SPLITS = ("train", "valid")
ALONE = re.compile(r"^(<!-- /?part \d -->)\n", re.MULTILINE)  # goes with the line it stands on
PART = re.compile(r"<!-- part (\d) -->(.*?)<!-- /part \1 -->", re.DOTALL)
WITHOUT = re.compile(r"<!-- without part (\d)\n(.*?)-->\n?", re.DOTALL)
VALUES = "tests/expected/expected.npz"


def collect(root: Path = ROOT, parts: tuple[str, ...] = USUAL, lang: str = "en") -> Files:
    """All files of the handout, contents by path, for the `parts` of the course.

    `lang` "zh" puts the Chinese README beside the English one.

    Raises:
        HandoutError: a file is missing, or its markers are not what they should be.
    """
    others = {f"tests/test_part{part}.py" for part in PARTS if part not in parts}
    paths = {*files(*PROVIDED, *AUTOGRADER, *EXPECTED, *PICTURES, root=root), *OTHER} - others
    pages = (ENGLISH, CHINESE) if lang == "zh" else (ENGLISH,)
    try:
        found = {path: (root / path).read_bytes() for path in paths}
        for name in pages:
            text = (root / PAGES / name).read_text().replace("](../../", "](")
            found[name] = for_students(text, name, parts).encode()
        source = only_parts((root / SOLVED).read_text(), parts)
        found[SOLVED] = strip_solutions(source).encode()
    except FileNotFoundError as error:
        raise HandoutError(f"{error.filename} is missing; it belongs in the handout") from error
    except MarkerError as error:
        raise HandoutError(f"{SOLVED}, {error}") from error
    shown = "".join(found[name].decode() for name in pages)
    found = {path: c for path, c in found.items() if not path.endswith(".png") or path in shown}
    found[VALUES] = expected_of(found[VALUES], parts)
    # Here the split files are made on the spot and ignored; students' repositories keep them.
    found[".gitignore"] = without_lines(found[".gitignore"], "dataset/")
    found["pyproject.toml"] = without_lines(found["pyproject.toml"], "instructor/")
    return dict(sorted((found | open_data()).items()))


def for_students(text: str, name: str, parts: tuple[str, ...] = USUAL) -> str:
    """Drop from a page what is of parts that the course does not have, and check that it is gone.

    `<!-- part 5 -->` ... `<!-- /part 5 -->` stays where the course has part 5, without the
    comments; the text of a comment `<!-- without part 5 ... -->` appears where it has not. Rows of
    tables that begin with a part's number or task go with the part, and commands name a part or
    task that is left. `<!-- points -->90<!-- /points -->` becomes the points of all parts.
    """
    rest = ALONE.sub(r"\1", text)
    rest = PART.sub(lambda found: found[2] if found[1] in parts else "", rest)
    rest = WITHOUT.sub(lambda found: found[2] if found[1] not in parts else "", rest)
    other = PARTS[parts[0]]
    for number, part in PARTS.items():
        if number not in parts:
            rest = re.sub(rf"^\| ({number}|`{part.task}`.*?) \|.*\n", "", rest, flags=re.MULTILINE)
            rest = re.sub(rf"(--task |--checkpoint |/){part.task}\b", rf"\g<1>{other.task}", rest)
            rest = re.sub(rf"-k part{number}\b", f"-k part{other.number}", rest)
    points = f"{code_points(parts):g}"
    rest = re.sub(r"<!-- points -->\d+<!-- /points -->", points, rest)
    if found := re.search(r"<!-- .*", rest):
        raise HandoutError(
            f"{name}: the comment {found[0]!r} is unknown or nested, or it has no partner"
        )
    rest = re.sub(r"\n{3,}", "\n\n", rest)
    check_names(name, rest, parts)
    return rest


def without_lines(content: bytes, word: str) -> bytes:
    """A settings file without the lines that hold `word`."""
    lines = content.decode().splitlines(keepends=True)
    return "".join(line for line in lines if word not in line).encode()


def expected_of(archive: bytes, parts: tuple[str, ...]) -> bytes:
    """The recorded values that the tests of these parts need."""
    with np.load(io.BytesIO(archive), allow_pickle=False) as values:
        tests = tuple(f"test_part{part}.py" for part in parts)
        wanted = {name: values[name] for name in values.files if name.startswith(tests)}
    buffer = io.BytesIO()
    np.savez(buffer, **wanted)  # not compressed, as below
    return buffer.getvalue()


def open_data() -> Files:
    """train.npz, valid.npz and a manifest that says nothing of the hidden part."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = prepare("sample", folder)
        data = {f"{name}.npz": (Path(folder) / f"{name}.npz").read_bytes() for name in OPEN_SPLITS}
    manifest["counts"] = {name: manifest["counts"][name] for name in OPEN_SPLITS}
    manifest["sha256"] = {name: manifest["sha256"][name] for name in data}
    data["manifest.json"] = (json.dumps(manifest, indent=2) + "\n").encode()
    return {f"dataset/{name}": content for name, content in data.items()}


def pack(contents: Files, folder: str = "handout/", programs: Collection[str] = ()) -> bytes:
    """A zip archive that depends on paths and contents only.

    Args:
        contents: by path.
        folder: what every path in the archive begins with.
        programs: the paths that can be executed.
    """
    buffer = io.BytesIO()
    # Stored, not compressed: so the bytes do not depend on the version of zlib. The data inside
    # are compressed already.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, content in sorted(contents.items()):
            info = zipfile.ZipInfo(f"{folder}{path}", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, for the permissions to count
            info.external_attr = (0o100755 if path in programs else 0o100644) << 16
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
        contents = {name: path.read_bytes() for name, path in found.items()}
        check_leaks(source, contents, files(*PROVIDED, root=folder))
        print("no line of a solution is in the archive", flush=True)
        check_import(folder)
        blocks = find_blocks(source)
        parts = sorted({block.todo[0] for block in blocks})
        for done in ("", *parts, "".join(parts)):
            keep = [block for block in blocks if block.todo[0] in done]
            (folder / SOLVED).write_text(strip_solutions(source, keep))
            score, out_of = check_points(folder, done)
            what = f"only part {done} solved" if done else "nothing solved"
            what = "everything solved" if len(keep) == len(blocks) else what
            print(f"{what}: {score:g} of {out_of:g} points", flush=True)


def build(out: Path, parts: tuple[str, ...] = USUAL, lang: str = "en") -> str:
    """Make and check `out`/handout and `out`/handout.zip; returns the archive's SHA-256."""
    contents = collect(parts=parts, lang=lang)
    archive = pack(contents)
    verify(archive, only_parts((ROOT / SOLVED).read_text(), parts))
    folder = out / "handout"
    shutil.rmtree(folder, ignore_errors=True)
    write_files(folder, contents)
    with atomic_write(out / "handout.zip") as temporary:
        temporary.write_bytes(archive)
    digest = hashlib.sha256(archive).hexdigest()
    print(f"{out / 'handout.zip'}: {len(contents)} files, {len(archive):,} bytes, SHA-256 {digest}")
    return digest


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("--out", type=Path, default=Path("build"), help="default: build")
    add_parts(parser)
    parser.add_argument(
        "--lang", choices=["en", "zh"], default="en", help="zh: with a Chinese README as well"
    )
    args = parser.parse_args(argv)
    try:
        build(args.out, args.parts, args.lang)
    except HandoutError as error:
        sys.exit(f"error: {error}")
