"""What a student may see of a result: results.json for Gradescope, and feedback.txt.

No flags, no metrics of the plain images, nothing of other students.
"""

import dataclasses
import json
import unicodedata
from pathlib import Path

from instructor.grading.result import Quality, Result
from kit.assignment import PARTS
from kit.files import atomic_write

UNSAFE = "Graded with --unsafe: the submission ran without the sandbox."


def describe_quality(quality: Quality) -> str:
    """One task's metrics in words, or why there are none."""
    if quality.metrics is None:
        return f"not graded: {quality.reason}"
    metrics = quality.metrics
    return (
        f"MSE {metrics.mse:.4f}, SSIM {metrics.ssim:.4f}, FID {metrics.fid:.2f}\n"
        f"{metrics.code_length} entries per code, {metrics.bits:.0f} bits per image, "
        f"bonus {metrics.bonus:.3f}\n"
        f"raw score {metrics.raw:.2f}, Grade {metrics.grade:.2f} of 10"
    )


def remarks_of(row: Result) -> list[str]:
    """What concerns the whole upload."""
    remarks = [UNSAFE] if row.unsafe else []
    remarks += [row.reason] if row.reason else []
    remarks += [f"code: {row.code.reason}"] if row.code.reason else []
    return remarks + row.notes


def gradescope_results(row: Result) -> dict:
    """The result as Gradescope's results.json."""
    tests = [dataclasses.asdict(check) for check in row.code.checks]
    board = [{"name": "total", "value": row.total}]
    for task, quality in row.quality.items():
        tests.append(
            {
                "name": f"Quality: {task}",
                "number": "Q",
                "score": round(quality.points, 2),
                "max_score": quality.max_points,
                "status": "failed" if quality.reason else "passed",
                "output": describe_quality(quality),
                "visibility": "visible",
            }
        )
        # Everyone has every column of the leaderboard; what was not graded is 0.
        raw = quality.metrics.raw if quality.metrics else 0.0
        board.append({"name": f"raw {task}", "value": round(raw, 4)})
    return {
        "score": row.total,
        "output": "\n".join(remarks_of(row)),
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "tests": tests,
        "leaderboard": board,
    }


def feedback_text(row: Result) -> str:
    """The result for a student to read, as plain text."""
    lines = [f"Feedback for {row.name}", f"{row.total:.2f} of {row.max_total:.4g} points"]
    lines += ["", *remarks_of(row)] if remarks_of(row) else []
    lines += ["", "POINTS"]
    for part, points in row.code.by_part.items():
        name = f"code, part {part} ({PARTS[part].title})"
        lines.append(f"  {name:<24}{points.score:>7.2f} / {points.max_score:.4g}")
    for task, quality in row.quality.items():
        name = f"quality, {task}"
        lines.append(f"  {name:<24}{quality.points:>7.2f} / {quality.max_points:.4g}")
    lines += ["", "QUALITY ON THE HIDDEN IMAGES"]
    for task, quality in row.quality.items():
        lines += [f"  {task}", *(f"    {line}" for line in describe_quality(quality).splitlines())]
    failed = [check for check in row.code.checks if not check.passed]
    if row.code.checks:
        lines += ["", f"FAILED CHECKS: {len(failed)} of {len(row.code.checks)}"]
    for check in failed:
        lines += ["", f"  {check.name} ({check.score:g} of {check.max_score:g} points)"]
        lines += [f"    {line}" for line in check.output.splitlines()]
    text = "\n".join(lines) + "\n"
    # Without control characters: a terminal obeys some of them.
    return "".join(c for c in text if c == "\n" or unicodedata.category(c) != "Cc")


def write_feedback(row: Result, folder: str | Path) -> None:
    """Write `folder`/<key>/results.json (Gradescope's format) and feedback.txt."""
    target = Path(folder) / row.key
    results = json.dumps(gradescope_results(row), indent=1, ensure_ascii=False) + "\n"
    for name, content in (("results.json", results), ("feedback.txt", feedback_text(row))):
        with atomic_write(target / name) as temporary:
            temporary.write_bytes(content.encode("utf-8", "replace"))
