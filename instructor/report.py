"""What a class grading leaves for people: grades.csv, feedback for students, report.html.

    write_grades(rows, "out/grades.csv")
    write_feedback(row, Path("out/feedback"))            # for each row
    write_report(rows, "out/report.html", title=..., hidden=..., unsafe=False)

A row is one student's result as grade_class.py makes it. All text in it counts as hostile: names,
reasons, the messages of failed checks, the columns of a log.
"""

import base64
import csv
import hashlib
import io
import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from data_utils import atomic_write
from grade import TASKS
from instructor import charts
from instructor.outliers import gaps, outliers, results_of
from instructor.parts import PARTS

TEMPLATES = Path(__file__).with_name("templates")
METRICS = ("raw", "mse", "ssim", "fid", "code_length", "bits")
MAX_OUTPUT = 2000  # characters of one failed check shown in the report
TOP = 20  # places of a leaderboard
UNSAFE = "Graded with --unsafe: the submission ran without the sandbox."


def reasons_of(row: dict) -> list[str]:
    """Why points are missing that nobody could give: the upload's, the code's, each task's."""
    reasons = [row["reason"]] if row["reason"] else []
    if row["code"]["reason"]:
        reasons.append(f"code: {row['code']['reason']}")
    for task in TASKS:
        if task in row["quality"] and row["quality"][task]["reason"]:
            reasons.append(f"{task}: {row['quality'][task]['reason']}")
    return reasons


def parts_in(rows: list[dict]) -> list[str]:
    """The parts that this class was graded on."""
    return [part for part in PARTS if any(part in row["code"]["parts"] for row in rows)]


def tasks_in(rows: list[dict]) -> list[str]:
    """The tasks that this class was graded on."""
    return [task for task in TASKS if any(task in row["quality"] for row in rows)]


def by_name(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: (row["name"], row["key"]))


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


def grade_cells(row: dict, parts: list[str], tasks: list[str]) -> dict[str, str | int]:
    """One line of grades.csv by column; what was not graded stays empty."""
    cells: dict[str, str | int] = {
        "name": safe_cell(row["name"]),
        "key": safe_cell(row["key"]),
        "total": f"{row['total']:.2f}",
        "max_total": f"{row['max_total']:.2f}",
        "code": f"{row['code']['score']:.2f}",
    }
    for part in parts:
        points = row["code"]["parts"].get(part)
        cells[f"part{part}"] = f"{points[0]:.2f}" if points else ""
    for task in tasks:
        result = row["quality"].get(task)
        cells[f"{task}_points"] = f"{result['points']:.2f}" if result else ""
        for metric in METRICS:
            value = result.get(metric) if result else None
            cells[f"{task}_{metric}"] = "" if value is None else f"{round(value, 6):.12g}"
    cells["unsafe"] = "yes" if row["unsafe"] else ""
    cells["reason"] = safe_cell("; ".join(reasons_of(row)))
    return cells


def write_grades(rows: list[dict], path: str | Path) -> None:
    """Write grades.csv: one line a student, by name; equal rows give equal bytes."""
    buffer = io.StringIO(newline="")
    parts, tasks = parts_in(rows), tasks_in(rows)
    lines = [grade_cells(row, parts, tasks) for row in by_name(rows)]
    writer = csv.DictWriter(buffer, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getvalue().encode("utf-8", "replace"))


# ----------------------------------------------------------------------------------------------
# Feedback: what a student may see. No flags, no plain metrics, nothing of other students.


def describe_quality(result: dict) -> str:
    """One task's figures in words, or why there are none."""
    if result["reason"]:
        return f"not graded: {result['reason']}"
    return (
        f"MSE {result['mse']:.4f}, SSIM {result['ssim']:.4f}, FID {result['fid']:.2f}\n"
        f"{result['code_length']} entries a code, {result['bits']:.0f} bits an image, "
        f"bonus {result['bonus']:.3f}\n"
        f"raw score {result['raw']:.2f}, Grade {result['grade']:.2f} of 10"
    )


def gradescope_results(row: dict) -> dict:
    """The row as Gradescope's results.json."""
    tests = [dict(test) for test in row["code"]["tests"]]
    board = [{"name": "total", "value": round(row["total"], 2)}]
    for task, result in row["quality"].items():
        tests.append(
            {
                "name": f"Quality: {task}",
                "number": "Q",
                "score": round(result["points"], 2),
                "max_score": result["max_points"],
                "status": "failed" if result["reason"] else "passed",
                "output": describe_quality(result),
                "visibility": "visible",
            }
        )
        # Everyone has every column of the leaderboard; what was not graded is 0.
        board.append({"name": f"raw {task}", "value": round(result.get("raw", 0.0), 4)})
    return {
        "score": round(row["total"], 2),
        "output": "\n".join(remarks_of(row)),
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "tests": tests,
        "leaderboard": board,
    }


def remarks_of(row: dict) -> list[str]:
    """What concerns the whole upload."""
    remarks = [UNSAFE] if row["unsafe"] else []
    remarks += [row["reason"]] if row["reason"] else []
    remarks += [f"code: {row['code']['reason']}"] if row["code"]["reason"] else []
    return remarks + row["notes"]


def feedback_text(row: dict) -> str:
    """The row for a student to read, as plain text."""
    lines = [f"Feedback for {row['name']}", f"{row['total']:.2f} of {row['max_total']:.4g} points"]
    lines += ["", *remarks_of(row)] if remarks_of(row) else []
    lines += ["", "POINTS"]
    for part, (score, out_of) in sorted(row["code"]["parts"].items()):
        name = f"code, part {part} ({PARTS[part].name})"
        lines.append(f"  {name:<24}{score:>7.2f} / {out_of:.4g}")
    for task, result in row["quality"].items():
        name = f"quality, {task}"
        lines.append(f"  {name:<24}{result['points']:>7.2f} / {result['max_points']:.4g}")
    lines += ["", "QUALITY ON THE HIDDEN IMAGES"]
    for task, result in row["quality"].items():
        lines += [f"  {task}", *(f"    {line}" for line in describe_quality(result).splitlines())]
    tests = row["code"]["tests"]
    failed = [test for test in tests if test["status"] != "passed"]
    lines += ["", f"FAILED CHECKS: {len(failed)} of {len(tests)}"] if tests else []
    for test in failed:
        lines += ["", f"  {test['name']} ({test['score']:g} of {test['max_score']:g} points)"]
        lines += [f"    {line}" for line in test["output"].splitlines()]
    text = "\n".join(lines) + "\n"
    # Without control characters: a terminal obeys some of them.
    return "".join(c for c in text if c == "\n" or unicodedata.category(c) != "Cc")


def write_feedback(row: dict, folder: str | Path) -> None:
    """Write `folder`/<key>/results.json (Gradescope's format) and feedback.txt."""
    target = Path(folder) / row["key"]
    results = json.dumps(gradescope_results(row), indent=1, ensure_ascii=False) + "\n"
    for name, content in (("results.json", results), ("feedback.txt", feedback_text(row))):
        with atomic_write(target / name) as temporary:
            temporary.write_bytes(content.encode("utf-8", "replace"))


# ----------------------------------------------------------------------------------------------
# report.html


@dataclass(eq=False)
class Student:
    """A row and what the report says about it."""

    row: dict
    reasons: list[str]
    flags: list[str]

    @property
    def failed(self) -> list[dict]:
        return [test for test in self.row["code"]["tests"] if test["status"] != "passed"]

    @property
    def results(self) -> dict[str, dict]:
        """The figures of the tasks that could be graded."""
        return {task: r for task, r in self.row["quality"].items() if not r["reason"]}


@dataclass
class TaskSummary:
    """One task over the class."""

    name: str
    students: list[Student]  # those with a result, the highest raw score first
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
    graded = results_of([student.row for student in students], task)
    ranked = [student for student in students if student.row["key"] in graded]
    ranked.sort(key=lambda student: -graded[student.row["key"]]["raw"])
    raws = [result["raw"] for result in graded.values()]
    mean_gaps = np.mean([gaps(r) for r in graded.values()], axis=0).tolist() if graded else None
    upper = max(10.0, 5 * np.ceil(max(raws, default=0) / 5))
    return TaskSummary(
        task, ranked, mean_gaps, charts.histogram(raws, upper, f"{task}: raw scores")
    )


def write_report(
    rows: list[dict], path: str | Path, *, title: str, hidden: dict, unsafe: bool
) -> None:
    """Write report.html, one file that needs nothing else and lets no script in but its own.

    Args:
        rows: one a student.
        title: heading of the page.
        hidden: what was graded on: `source`, `num_images`, `sha256` and `warning` ("" for none).
        unsafe: the sandbox was off; the page then says so in large letters.
    """
    remarks = outliers(rows)
    students = [Student(row, reasons_of(row), flags_of(row, remarks)) for row in by_name(rows)]
    totals = [row["total"] for row in rows]
    max_total = max((row["max_total"] for row in rows), default=1.0)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(number=number, shorten=shorten)
    style, script = ((TEMPLATES / name).read_text("utf-8") for name in ("report.css", "report.js"))
    page = environment.get_template("report.html.j2").render(
        title=title,
        hidden=hidden,
        unsafe=unsafe or any(row["unsafe"] for row in rows),
        unsafe_text=UNSAFE,
        students=students,
        tasks=[summarize_task(students, task) for task in tasks_in(rows)],
        quartiles=np.quantile(totals, [0, 0.25, 0.5, 0.75, 1]).tolist() if totals else None,
        mean=float(np.mean(totals)) if totals else None,
        max_total=max_total,
        total_chart=charts.histogram(totals, max_total, "Total points", wide=True),
        parts={part: PARTS[part].name for part in parts_in(rows)},
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


def flags_of(row: dict, remarks: dict[str, list[str]]) -> list[str]:
    """Remarks for staff: on each task, then from the comparison with the class."""
    own = [f"{task}: {flag}" for task, r in row["quality"].items() for flag in r.get("flags", [])]
    return own + remarks.get(row["key"], [])
