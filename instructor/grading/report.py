"""What a class grading leaves for staff: grades.csv and report.html.

    write_grades(rows, "out/grades.csv")
    write_report(rows, "out/report.html", title=..., hidden=..., unsafe=False)

A row is the `Result` of one upload. All text in it counts as hostile: names, reasons, the messages
of failed checks, the columns of a log.
"""

import base64
import csv
import hashlib
import io
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from instructor.grading import charts
from instructor.grading.feedback import UNSAFE
from instructor.grading.outliers import gaps, measured_in, outliers
from instructor.grading.result import Check, Metrics, Result
from kit.assignment import PARTS, TASKS
from kit.files import atomic_write

TEMPLATES = Path(__file__).with_name("templates")
METRICS = ("raw", "mse", "ssim", "fid", "code_length", "bits")  # of each task in grades.csv
MAX_OUTPUT = 2000  # characters of one failed check shown in the report
TOP = 20  # places of a leaderboard


def reasons_of(row: Result) -> list[str]:
    """Why points are missing that nobody could give: the upload's, the code's, each task's."""
    reasons = [row.reason] if row.reason else []
    if row.code.reason:
        reasons.append(f"code: {row.code.reason}")
    return reasons + [
        f"{task}: {quality.reason}" for task, quality in row.quality.items() if quality.reason
    ]


def parts_in(rows: list[Result]) -> list[str]:
    """The parts that this class was graded on."""
    return [part for part in PARTS if any(part in row.code.parts for row in rows)]


def tasks_in(rows: list[Result]) -> list[str]:
    """The tasks that this class was graded on."""
    return [task for task in TASKS if any(task in row.quality for row in rows)]


def by_name(rows: list[Result]) -> list[Result]:
    return sorted(rows, key=lambda row: (row.name, row.key))


# ----------------------------------------------------------------------------------------------
# grades.csv


def safe_cell(content: str) -> str:
    """One line of text that no spreadsheet takes for a formula.

    A leading apostrophe says "text" to spreadsheets. What decides is the first visible character,
    in its plain form: a full-width equals sign counts as one.
    """
    line = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in content).strip()
    plain = unicodedata.normalize("NFKC", line)
    return "'" + line if plain.startswith(("=", "+", "-", "@", "\N{MINUS SIGN}")) else line


def grade_cells(row: Result, parts: list[str], tasks: list[str]) -> dict[str, str]:
    """One line of grades.csv by column; what was not graded stays empty."""
    cells = {
        "name": safe_cell(row.name),
        "key": safe_cell(row.key),
        "total": f"{row.total:.2f}",
        "max_total": f"{row.max_total:.2f}",
        "code": f"{row.code.score:.2f}",
    }
    by_part = row.code.by_part
    for part in parts:
        cells[f"part{part}"] = f"{by_part[part].score:.2f}" if part in by_part else ""
    for task in tasks:
        quality = row.quality.get(task)
        metrics = quality.metrics if quality else None
        cells[f"{task}_points"] = f"{quality.points:.2f}" if quality else ""
        for name in METRICS:
            value = f"{round(getattr(metrics, name), 6):.12g}" if metrics else ""
            cells[f"{task}_{name}"] = value
    cells["unsafe"] = "yes" if row.unsafe else ""
    cells["reason"] = safe_cell("; ".join(reasons_of(row)))
    return cells


def write_grades(rows: list[Result], path: str | Path) -> None:
    """Write grades.csv: one line per student, by name; equal rows give equal bytes."""
    buffer = io.StringIO(newline="")
    parts, tasks = parts_in(rows), tasks_in(rows)
    lines = [grade_cells(row, parts, tasks) for row in by_name(rows)]
    writer = csv.DictWriter(buffer, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getvalue().encode("utf-8", "replace"))


# ----------------------------------------------------------------------------------------------
# report.html


@dataclass(eq=False)
class Student:
    """A row and what the report says about it."""

    row: Result
    reasons: list[str]
    flags: list[str]

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.row.code.checks if not check.passed]

    @property
    def measured(self) -> dict[str, Metrics]:
        """The metrics of the tasks that could be graded."""
        return {task: q.metrics for task, q in self.row.quality.items() if q.metrics}


@dataclass
class TaskSummary:
    """One task over the class."""

    name: str
    students: list[Student]  # those with metrics, the highest raw score first
    mean_gaps: list[float] | None  # SSIM, MSE
    raw_chart: Markup


def shorten(content: str) -> str:
    rest = len(content) - MAX_OUTPUT
    return content if rest <= 0 else f"{content[:MAX_OUTPUT]}\n... and {rest:,} more characters"


def number(value: float | None, digits: int = 2) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.{digits}f}"


def content_hash(content: str) -> str:
    """How a Content-Security-Policy names the one inline script or style sheet it lets in."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def summarize_task(students: list[Student], task: str) -> TaskSummary:
    measured = measured_in([student.row for student in students], task)
    ranked = [student for student in students if student.row.key in measured]
    ranked.sort(key=lambda student: -measured[student.row.key].raw)
    raws = [metrics.raw for metrics in measured.values()]
    mean_gaps = np.mean([gaps(m) for m in measured.values()], axis=0).tolist() if raws else None
    upper = max(10.0, 5 * np.ceil(max(raws, default=0) / 5))
    return TaskSummary(
        task, ranked, mean_gaps, charts.histogram(raws, upper, f"{task}: raw scores")
    )


def write_report(
    rows: list[Result], path: str | Path, *, title: str, hidden: dict, unsafe: bool
) -> None:
    """Write report.html, one file that needs nothing else and lets no script in but its own.

    Args:
        rows: one per student.
        title: heading of the page.
        hidden: what was graded on: `source`, `num_images`, `sha256` and `warning` ("" for none).
        unsafe: the sandbox was off; the page then says so in large letters.
    """
    remarks = outliers(rows)
    students = [Student(row, reasons_of(row), flags_of(row, remarks)) for row in by_name(rows)]
    totals = [row.total for row in rows]
    max_total = max((row.max_total for row in rows), default=1.0)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(number=number, shorten=shorten)
    style, script = ((TEMPLATES / name).read_text("utf-8") for name in ("report.css", "report.js"))
    page = environment.get_template("report.html.j2").render(
        title=title,
        hidden=hidden,
        unsafe=unsafe or any(row.unsafe for row in rows),
        unsafe_text=UNSAFE,
        students=students,
        tasks=[summarize_task(students, task) for task in tasks_in(rows)],
        quartiles=np.quantile(totals, [0, 0.25, 0.5, 0.75, 1]).tolist() if totals else None,
        mean=float(np.mean(totals)) if totals else None,
        max_total=max_total,
        total_chart=charts.histogram(totals, max_total, "Total points", wide=True),
        parts={part: PARTS[part].title for part in parts_in(rows)},
        top=TOP,
        gaps=gaps,
        charts=charts,
        style=Markup(style),
        script=Markup(script),
        style_hash=content_hash(style),
        script_hash=content_hash(script),
    )
    with atomic_write(path) as temporary:
        temporary.write_bytes(page.encode("utf-8", "replace"))


def flags_of(row: Result, remarks: dict[str, list[str]]) -> list[str]:
    """Remarks for staff: on each task, then from the comparison with the class."""
    own = [f"{task}: {flag}" for task, quality in row.quality.items() for flag in quality.flags]
    return own + remarks.get(row.key, [])
