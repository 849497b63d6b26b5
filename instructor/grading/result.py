"""What grading one upload gives: one typed form, from the grader to grades.csv and the report.

Who reads a result `row` (report, feedback, outliers, banks) finds

    row.name, .key, .unsafe, .total, .max_total, .reason, .notes, .seconds["code"]
    row.code.score, .max_score, .reason, .by_part["4"].score
    row.code.checks[0].name, .score, .max_score, .output, .passed
    row.quality["JSA"].points, .max_points, .reason, .flags
    row.quality["JSA"].metrics.raw, .mse, .ssim, ...       # metrics is None where reason is not ""
    row.logs["JSA"].columns, .rows

`Quality.failed` is a task that earns nothing and `Result.failed` an upload of which nothing could
be graded; whatever the cause, no other code makes such a result. Scores and totals follow from the
checks and points and are not stored.
"""

import dataclasses
import sys
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from instructor.grading.uploads import Upload
from kit.assignment import PARTS, TASKS, code_points, max_total


class ResultError(ValueError):
    """This is not the form of a result; the message says where and why."""


@dataclass
class Points:
    score: float
    max_score: float


@dataclass
class Check:
    """One check of the autograder, named as in Gradescope's results.json.

    Attributes:
        number: the TODO that it is about.
        status: "passed" or "failed".
        output: what a failed check says to the student.
        visibility: Gradescope's; "visible".
    """

    name: str
    number: str
    score: float
    max_score: float
    status: str
    output: str
    visibility: str

    @property
    def passed(self) -> bool:
        return self.status == "passed"


@dataclass
class Code:
    """What the autograder gave.

    Attributes:
        parts: those of the assignment that were graded, in order.
        checks: all of them, passed or failed.
        reason: why there are none, or "".
    """

    parts: list[str]
    checks: list[Check] = field(default_factory=list)
    reason: str = ""

    def __post_init__(self):
        if unknown := set(self.parts) - set(PARTS):
            raise ResultError(f"there is no part {min(unknown)}")
        if others := {check.number[:1] for check in self.checks} - set(self.parts):
            raise ResultError(f"a check is of part {min(others)!r}, which is not graded")

    @property
    def by_part(self) -> dict[str, Points]:
        """The points of each part, out of those of the table: also where nothing was checked."""
        sums = dict.fromkeys(self.parts, 0.0)
        for check in self.checks:
            sums[check.number[0]] += check.score
        return {
            part: Points(round(score, 2), PARTS[part].code_points) for part, score in sums.items()
        }

    @property
    def score(self) -> float:
        return round(sum((check.score for check in self.checks), 0.0), 2)

    @property
    def max_score(self) -> float:
        return code_points(tuple(self.parts))


@dataclass
class Pictures:
    """PNG files in base64: ten hidden images above their reconstructions, and samples by class."""

    reconstructions: str
    samples: str


@dataclass
class Metrics:
    """What one model reached on the hidden split.

    Attributes:
        raw, grade, mse, ssim, fid, code_length, bonus: see grade.py.
        bits: of one code.
        plain_mse, plain_ssim: the same on the images without the secret transforms.
        recognised: share of samples that a classifier reads as the digit asked for; None where no
            digit is asked for.
        classes: share of samples read as each of the ten digits.
        confidence: mean over the samples of the classifier's largest probability.
    """

    raw: float
    grade: float
    mse: float
    ssim: float
    fid: float
    code_length: int
    bonus: float
    bits: float
    plain_mse: float
    plain_ssim: float
    recognised: float | None
    classes: list[float]
    confidence: float
    pictures: Pictures


@dataclass
class Quality:
    """One task's quality: metrics, or the reason why there are none.

    Attributes:
        flags: remarks that only staff see.
    """

    points: float
    max_points: float
    metrics: Metrics | None = None
    reason: str = ""
    flags: list[str] = field(default_factory=list)

    def __post_init__(self):
        if (self.metrics is None) != bool(self.reason):
            raise ResultError("quality has either metrics or a reason")

    @classmethod
    def failed(cls, task: str, reason: str, detail: str = "") -> Self:
        """A task that earns nothing; `detail` becomes a flag."""
        flags = [f"it says: {detail}"] if detail else []
        return cls(0.0, float(TASKS[task].quality), reason=reason, flags=flags)


@dataclass
class Log:
    """A training log: names by a student, a row per epoch, None where there is no number."""

    columns: list[str]
    rows: list[list[float | None]]


@dataclass
class Result:
    """What grading one upload gives.

    Attributes:
        name, key: of the `Upload`.
        unsafe: graded without the sandbox.
        code: points of the autograder.
        quality: by task.
        reason: why the whole upload could not be graded, or "".
        notes: what was ignored in it, for staff and student.
        logs: by task, for looking at only.
        seconds: by step of grading.
    """

    name: str
    key: str
    unsafe: bool
    code: Code
    quality: dict[str, Quality]
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    logs: dict[str, Log] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if unknown := {*self.quality, *self.logs} - set(TASKS):
            raise ResultError(f"there is no task {min(unknown)}")

    @property
    def total(self) -> float:
        quality = sum(one.points for one in self.quality.values())
        return round(self.code.score + quality, 2)

    @property
    def max_total(self) -> float:
        return max_total(tuple(self.code.parts))

    @classmethod
    def failed(
        cls,
        upload: Upload,
        parts: tuple[str, ...],
        reason: str,
        *,
        unsafe: bool = False,
        notes: list[str] | None = None,
    ) -> Self:
        """An upload of which nothing could be graded."""
        code = Code(list(parts), reason=reason)
        tasks = (PARTS[part].task for part in parts)
        quality = {task: Quality.failed(task, reason) for task in tasks}
        return cls(upload.name, upload.key, unsafe, code, quality, reason, notes or [])

    def to_json(self) -> dict:
        """All fields, as `json.dumps` takes them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The inverse of `to_json`.

        Raises:
            ResultError: it is anything else; the message says where.
        """
        return read(cls, value, "result")


def read(kind: Any, value: Any, place: str) -> Any:
    """A parsed JSON value as `kind`, a dataclass of this module or the type of one of its fields.

    Args:
        place: names the value in errors.

    Raises:
        ResultError: the value is of another form.
    """
    arguments = get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        if type(value) is not dict or value.keys() != hints.keys():
            raise ResultError(f"{place} must have {', '.join(hints)} and nothing else")
        return kind(**{name: read(hints[name], value[name], f"{place}.{name}") for name in hints})
    if isinstance(kind, UnionType):  # "... | None"
        return None if value is None else read(arguments[0], value, place)
    if (outer := get_origin(kind)) is not None and type(value) is not outer:
        raise ResultError(f"{place} must be of type {outer.__name__}")
    if outer is list:
        return [read(arguments[0], item, f"{place}[{i}]") for i, item in enumerate(value)]
    if outer is dict:
        return {key: read(arguments[1], item, f"{place}.{key}") for key, item in value.items()}
    if kind is float:
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            raise ResultError(f"{place} must be a finite number")
        return float(value)
    if type(value) is not kind:
        raise ResultError(f"{place} must be of type {kind.__name__}")
    return value
