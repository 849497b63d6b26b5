"""What an attack is, how its upload is made, and how a row is held against its verdict."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from instructor.banks.attacks import archives
from instructor.grading.result import Result
from instructor.handout.stubs import strip_solutions
from kit.files import ROOT

HERE = Path(__file__).parent
FIELD = re.compile(r"^(base|code|quality|reason|absent|flag|seconds): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Attack:
    """One hostile upload and the verdict that it must get.

    Attributes:
        name: unique, for `--only`.
        what: one line that says what it tries.
        build: (empty folder, honest upload) -> the upload.
        code, quality: points it must get: a number, "usual" (those of the honest upload), "below
            usual", or "" for any.
        reasons: each must stand in a reason or in the message of a failed check.
        absent: must not stand there.
        flag: must stand among the flags that staff see.
        seconds: CPU time for one request, where it is shorter than the bank's.
    """

    name: str
    what: str
    build: Callable[[Path, Path], Path]
    code: str
    quality: str
    reasons: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    flag: str = ""
    seconds: float = 0.0


def read_attacks() -> list[Attack]:
    """All attacks: those of submissions/, then those of archives.py."""
    paths = sorted((HERE / "submissions").glob("*.py"))
    found = [(path.stem, doc_of(path), code_builder(path)) for path in paths]
    found += [(build.__name__, inspect.getdoc(build), build) for build in archives.ARCHIVES]
    return [attack(name, doc, build) for name, doc, build in found]


def attack(name: str, doc: str, build) -> Attack:
    fields = FIELD.findall(doc)
    one = dict(fields)
    return Attack(
        name,
        doc.splitlines()[0],
        build,
        one.get("code", ""),
        one.get("quality", ""),
        tuple(text for key, text in fields if key == "reason"),
        tuple(text for key, text in fields if key == "absent"),
        one.get("flag", ""),
        float(one.get("seconds", 0)),
    )


def doc_of(path: Path) -> str:
    return path.read_text().split('"""')[1]


def code_builder(path: Path) -> Callable[[Path, Path], Path]:
    """The honest upload with the attack behind the code of its submission.py, or of the stubs."""

    def build(folder: Path, honest: Path) -> Path:
        upload = archives.copy_of(folder, honest)
        source = (ROOT / "submission.py").read_text()
        if "base: stub" in doc_of(path):
            source = strip_solutions(source)
        parts = [source, path.read_text()]
        if "def _step(" in parts[1]:
            parts.append((HERE / "take_over.py").read_text())
        (upload / "submission.py").write_text("\n\n".join(parts))
        return upload

    return build


def problems(attack: Attack, row: Result, usual: Result) -> list[str]:
    """How the row of an attack differs from its verdict."""
    found = []
    for name in ("code", "quality"):
        want, have, normal = getattr(attack, name), points(row, name), points(usual, name)
        if want == "below usual":
            fits = have < normal
        elif want == "usual":
            fits = have == normal
        else:
            fits = want == "" or have == float(want)
        if not fits:
            found.append(f"{name} {have}, not {want} (usual: {normal})")
    text = "\n".join(reasons(row))
    found += [
        f"no reason says {want!r}: {text[:800]}" for want in attack.reasons if want not in text
    ]
    found += [f"a reason says {word!r}" for word in attack.absent if word in text]
    flags = [flag for one in row.quality.values() for flag in one.flags]
    if attack.flag not in "\n".join(flags):
        found.append(f"no flag says {attack.flag!r}: {flags}")
    return found


def points(row: Result, name: str) -> float:
    if name == "code":
        return row.code.score
    return round(sum(one.points for one in row.quality.values()), 2)


def reasons(row: Result) -> list[str]:
    return [
        row.reason,
        *row.notes,
        *(one.reason for one in row.quality.values()),
        *(check.output for check in row.code.checks),
    ]
