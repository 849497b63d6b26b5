"""The table of the assignment: one row for each part that has code. It imports no torch.

Tests, grader, uploads, TODO messages, flags and the handout's builder read it. A new task is a row
here, a settings class in kit/settings.py and a task class in kit/tasks/.
"""

import argparse
from dataclasses import dataclass


@dataclass(frozen=True)
class CodeKind:
    """What one entry of a code is.

    Attributes:
        dtype: of a code that is stored or sent on, by its name in NumPy and torch.
        in_model: of the same code inside a model.
        values: how many an entry can have, as bits of storage for a float; None: as many as the
            model has categories.
    """

    dtype: str
    in_model: str
    values: int | None


CODE_KINDS = {
    "float": CodeKind("float32", "float32", 2**32),
    "bernoulli": CodeKind("uint8", "float32", 2),
    "categorical": CodeKind("int16", "int64", None),
}


@dataclass(frozen=True)
class Part:
    """One part of the assignment and its task.

    Attributes:
        number: of the part; the first digit of its TODOs.
        title: what points and pages call it.
        task: its name for --task.
        settings: its settings class, as "module:class"; that class names the task class.
        classes: what submission.py must have for the task; the first is the model itself.
        todos: prefixes of the TODOs that the task needs, in the order of work.
        points: of the autograder, by TODO.
        quality: points for quality; 0 for a ranking only.
        code_kinds: what the entries of a code may be, of CODE_KINDS.
        max_categories: the most values of one categorical entry that the grader takes.
        labelled: whether the model is told the digit; samples are then judged digit by digit.
        samples_count: whether samples count in the raw score.
        needs: the part whose code this one uses.
        challenge: whether a course has it only where it is asked for.
    """

    number: str
    title: str
    task: str
    settings: str
    classes: tuple[str, ...]
    todos: tuple[str, ...]
    points: dict[str, float]
    quality: float
    code_kinds: tuple[str, ...]
    max_categories: int = 0
    labelled: bool = False
    samples_count: bool = True
    needs: str = ""
    challenge: bool = False

    @property
    def code_points(self) -> float:
        return float(sum(self.points.values()))


ROWS = (
    Part(
        number="2",
        title="VAE",
        task="VAEwolabel",
        settings="kit.settings:VAESettings",
        classes=("VAE",),
        todos=("2",),
        points={"2.2": 15, "2.3": 15},
        quality=10,
        code_kinds=("float",),
        samples_count=False,
    ),
    Part(
        number="3",
        title="GenModel",
        task="Genwithlabel",
        settings="kit.settings:GenSettings",
        classes=("GenModel",),
        todos=("2.3", "3"),
        points={"3": 20},
        quality=30,
        code_kinds=("float",),
        labelled=True,
        needs="2",
    ),
    Part(
        number="4",
        title="JSA",
        task="JSA",
        settings="kit.settings:JSASettings",
        classes=("JointModel", "ProposalModel", "MISampler"),
        todos=("4",),
        points={"4.1": 2, "4.2": 6, "4.3": 6, "4.4": 10, "4.5": 6, "4.6": 4, "4.7": 6},
        quality=30,
        code_kinds=("bernoulli", "categorical"),
        max_categories=256,
    ),
    Part(
        number="5",
        title="CGAE",
        task="CGAE",
        settings="kit.settings:PatchSettings",
        classes=("PatchJoint", "PatchProposal"),
        todos=("5",),
        points={"5.1": 4, "5.2": 6, "5.3": 5, "5.4": 5},
        quality=0,
        code_kinds=("categorical",),
        max_categories=2**15 - 1,  # an entry of a stored code has 16 bits
        needs="4",
        challenge=True,
    ),
)
MIB = 1 << 20
# The files of an upload, with their largest size in bytes.
LIMITS = {"submission.py": MIB}
LIMITS |= {f"{part.task}.pth": 64 * MIB for part in ROWS}
LIMITS |= {f"log_{part.task}.csv": MIB for part in ROWS}
PARTS = {part.number: part for part in ROWS}
TASKS = {part.task: part for part in ROWS}
USUAL = tuple(part.number for part in ROWS if not part.challenge)


def read_parts(text: str) -> tuple[str, ...]:
    """An argparse type: "2,3,4" -> ("2", "3", "4")."""
    parts = tuple(sorted(set(text.replace(" ", "").split(","))))
    for part in parts:
        if part not in PARTS:
            have = ", ".join(PARTS)
            raise argparse.ArgumentTypeError(f"no part {part!r} has code, only {have} have")
        if (needs := PARTS[part].needs) and needs not in parts:
            raise argparse.ArgumentTypeError(f"part {part} needs part {needs}")
    return parts


def tasks_of(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(PARTS[part].task for part in parts)


def code_points(parts: tuple[str, ...]) -> float:
    return float(sum(PARTS[part].code_points for part in parts))


def max_total(parts: tuple[str, ...]) -> float:
    """Points for code and quality together."""
    return code_points(parts) + sum(PARTS[part].quality for part in parts)


def available_tasks(submission) -> tuple[str, ...]:
    """The tasks for which `submission` has a place: a course may leave parts out."""
    return tuple(part.task for part in ROWS if hasattr(submission, part.classes[0]))
