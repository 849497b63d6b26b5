"""result.py: JSON out and in again, what is refused, and how a failure looks."""

import json
from pathlib import Path

import pytest

from instructor.grading.result import Check, Code, Quality, Result, ResultError
from instructor.grading.uploads import Upload
from instructor.tests.grading.rows import hostile_class, make_row
from kit.assignment import USUAL, max_total

UPLOAD = Upload(Path("ada.zip"), "ada", "ada-1")


def check(number: str, score: float, max_score: float) -> Check:
    return Check(f"TODO {number}", number, score, max_score, "failed", "why", "visible")


def test_json_there_and_back():
    for row in hostile_class():
        assert Result.from_json(json.loads(json.dumps(row.to_json()))) == row


def test_points_add_up():
    checks = [check("2.2", 1.5, 3.0), check("4.4", 0.0, 2.0), check("4.6", 2.0, 2.0)]
    code = Code(list(USUAL), checks)
    assert code.score == 3.5 and code.max_score == 90
    found = {part: (points.score, points.max_score) for part, points in code.by_part.items()}
    assert found == {"2": (1.5, 30.0), "3": (0.0, 20.0), "4": (2.0, 40.0)}
    assert max_total(USUAL) == 160 and max_total(("2",)) == 40
    row = make_row("ada", "ada-1")
    assert row.total == round(80 + sum(quality.points for quality in row.quality.values()), 2)
    assert row.max_total == 160


def test_one_reason_stands_everywhere():
    row = Result.failed(UPLOAD, ("2", "4"), "it is a link", unsafe=True, notes=["a note"])
    assert (row.name, row.key, row.unsafe, row.notes) == ("ada", "ada-1", True, ["a note"])
    assert row.reason == row.code.reason == "it is a link"
    assert {task: quality.reason for task, quality in row.quality.items()} == {
        "VAEwolabel": "it is a link",
        "JSA": "it is a link",
    }
    assert row.total == 0 and row.max_total == max_total(("2", "4")) == 110
    assert Result.from_json(row.to_json()) == row


def test_a_detail_is_for_staff():
    quality = Quality.failed("JSA", "your code stopped", "pixel 12 is 200")
    assert (quality.points, quality.max_points, quality.metrics) == (0, 30, None)
    assert quality.reason == "your code stopped" and "pixel 12" in quality.flags[0]
    assert Quality.failed("CGAE", "late").max_points == 0
    assert Quality.failed("CGAE", "late").flags == []


def changed(place: list, value) -> dict:
    """The JSON of a good result with one entry replaced; `value` None removes it."""
    whole = inner = make_row("ada", "ada-1").to_json()
    for key in place[:-1]:
        inner = inner[key]
    if value is None:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return whole


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (["total"], 12.0, "result must have name, key"),
        (["code"], None, "result must have name, key"),
        (["code", "checks", 0, "score"], None, r"result.code.checks\[0\] must have"),
        (["code", "checks", 0, "score"], "15", r"result.code.checks\[0\].score must be a finite"),
        (["code", "checks", 0, "score"], True, "finite number"),
        (["code", "checks", 0, "number"], "5.1", "a check is of part '5', which is not graded"),
        (["code", "parts"], ["2", "3", "4", "9"], "there is no part 9"),
        (["code", "parts"], "234", "result.code.parts must be of type list"),
        (["unsafe"], 0, "result.unsafe must be of type bool"),
        (["quality"], [], "result.quality must be of type dict"),
        (["logs", "MNIST"], {"columns": [], "rows": []}, "there is no task MNIST"),
        (["quality", "JSA", "metrics", "mse"], float("nan"), "finite number"),
        (["quality", "JSA", "metrics", "mse"], float("inf"), "finite number"),
        (["quality", "JSA", "metrics", "mse"], 10**400, "finite number"),
        (["quality", "JSA", "metrics", "code_length"], 20.5, "code_length must be of type int"),
        (["quality", "JSA", "reason"], "late", "either metrics or a reason"),
        (["logs", "JSA", "rows", 0, 0], "1", "finite number"),
        (["notes"], [1], r"result.notes\[0\] must be of type str"),
    ],
)
def test_another_form_is_refused(place, value, words):
    with pytest.raises(ResultError, match=words):
        Result.from_json(changed(place, value))


@pytest.mark.parametrize("value", [None, [], "x", 1, {}])
def test_no_result_at_all(value):
    with pytest.raises(ResultError, match="result must have"):
        Result.from_json(value)
