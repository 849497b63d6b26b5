"""grades.csv, feedback and report.html: right, and harmless whatever students wrote."""

import base64
import csv
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from data_utils import save_grid
from grade import QUALITY_POINTS

pytest.importorskip("jinja2", reason="jinja2 is not installed (instructor/requirements.txt)")

from instructor.charts import curves
from instructor.outliers import outliers
from instructor.parts import USUAL, tasks_of
from instructor.report import safe_cell, write_feedback, write_grades, write_report

HIDDEN = {"source": "hidden.npz", "num_images": 1000, "sha256": "0123456789abcdef" * 4}
HIDDEN["warning"] = ""
HOSTILE = [
    "<script>window.hacked=1</script>",
    '"><img src=x onerror=window.hacked=1>',
    "</style><style>@import 'https://example.org/x.css';</style>",
    "</pre></title></script><script>window.hacked=1</script>",
    "{{7*7}}{% raw %}",
    "$\\frac{$ <svg onload=window.hacked=1>",
    "' onmouseover='window.hacked=1' style='color:red",
    "javascript:window.hacked=1",
    "\u202egnp.exe \ud800 \x00 \x1b[31m",
]

TASKS = tasks_of(USUAL)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory, sample) -> dict[str, str]:
    """Two grids of digits as base64 PNG."""
    path, grids = tmp_path_factory.mktemp("pictures") / "grid.png", {}
    for name, first in (("reconstructions", 0), ("samples", 20)):
        save_grid(path, [sample[0][first : first + 8], sample[0][first + 8 : first + 16]])
        grids[name] = base64.b64encode(path.read_bytes()).decode()
    return grids


def make_result(task: str, rng: np.random.Generator, pictures: dict[str, str]) -> dict:
    raw = float(rng.normal(18, 2)) if task != "VAEwolabel" else float(rng.normal(9, 1))
    mse, ssim = float(rng.normal(0.014, 0.002)), float(rng.normal(0.85, 0.02))
    return {
        "points": min(raw, QUALITY_POINTS[task]),
        "max_points": float(QUALITY_POINTS[task]),
        "raw": raw,
        "grade": min(raw, 10.0),
        "mse": mse,
        "ssim": ssim,
        "fid": float(rng.normal(8, 1)),
        "code_length": 200 if task == "JSA" else 20,
        "bits": 200.0 if task == "JSA" else 640.0,
        "bonus": 0.945 if task == "JSA" else 1.174,
        "reason": "",
        "plain_mse": mse - 0.001,
        "plain_ssim": ssim + float(rng.normal(0.01, 0.002)),
        "recognised": float(rng.normal(0.9, 0.02)) if task == "Genwithlabel" else None,
        "classes": rng.dirichlet(np.full(10, 30)).tolist(),
        "confidence": float(rng.normal(0.87, 0.02)),
        "flags": [],
        "pictures": pictures,
    }


def make_log(rng: np.random.Generator, epochs: int = 30) -> dict:
    loss = 100 + 400 * np.exp(-np.arange(epochs) / 6) + rng.normal(size=epochs)
    rows = [[i + 1, x, x + 5, 0.5 - 0.1 * math.exp(-i)] for i, x in enumerate(loss.tolist())]
    return {"columns": ["epoch", "loss", "val_loss", "acceptance"], "rows": rows}


def make_row(
    name: str, key: str, pictures: dict[str, str], seed: int = 0, failing: int = 2
) -> dict:
    """A plausible student; `failing` checks of part 4 go wrong."""
    rng = np.random.default_rng(seed)
    tests = [
        {
            "name": f"TODO {part}.{i}: test_{i}",
            "number": f"{part}.{i}",
            "score": points if part < 4 or i > failing else 0.0,
            "max_score": points,
            "status": "passed" if part < 4 or i > failing else "failed",
            "output": "" if part < 4 or i > failing else "log p(x, h) is off by log 2\n-> TODO 4.2",
            "visibility": "visible",
        }
        for part, count, points in ((2, 6, 5.0), (3, 4, 5.0), (4, 8, 5.0))
        for i in range(1, count + 1)
    ]
    parts = {
        part: [float(sum(t[kind] for t in tests if t["number"][0] == part)) for kind in
               ("score", "max_score")]
        for part in "234"
    }  # fmt: skip
    quality = {task: make_result(task, rng, pictures) for task in TASKS}
    score = sum(test["score"] for test in tests)
    return {
        "name": name,
        "key": key,
        "unsafe": False,
        "reason": "",
        "notes": [],
        "code": {"score": score, "max_score": 90.0, "reason": "", "parts": parts, "tests": tests},
        "quality": quality,
        "logs": {"JSA": make_log(rng)},
        "total": score + sum(result["points"] for result in quality.values()),
        "max_total": 160.0,
        "seconds": {"code": 9.1, "encode": 4.0},
    }


def ungraded(task: str, reason: str) -> dict:
    return {"points": 0.0, "max_points": float(QUALITY_POINTS[task]), "reason": reason}


def make_class(pictures: dict[str, str], size: int = 10) -> list[dict]:
    return [
        make_row(f"student {i:03d}", f"student-{i:03d}-aa", pictures, seed=i, failing=i % 4)
        for i in range(size)
    ]


def empty_row(name: str, key: str) -> dict:
    """A student whose archive could not even be opened."""
    reason = "the archive is damaged"
    code = {"score": 0.0, "max_score": 90.0, "reason": reason, "parts": {}, "tests": []}
    return {
        **{"name": name, "key": key, "unsafe": False, "reason": reason, "notes": []},
        **{"code": code, "quality": {task: ungraded(task, reason) for task in TASKS}},
        **{"total": 0.0, "max_total": 160.0, "seconds": {}},
    }


def hostile_class(pictures: dict[str, str]) -> list[dict]:
    """A class in which every text that a student may choose is an attack."""
    rows = make_class(pictures, 4)
    for i, text in enumerate(HOSTILE):
        row = make_row(text[:80], f"hostile-{i}-aa", pictures, seed=i)
        row["notes"] = [text]
        row["code"]["tests"][0].update(name=text, output=text, status="failed")
        row["code"]["reason"] = text
        row["quality"]["Genwithlabel"] = ungraded("Genwithlabel", text)
        row["quality"]["JSA"]["flags"] = [text]
        row["logs"] = {"JSA": {"columns": ["epoch", text, f"loss {text}"], "rows": [[1, 2.0, 3.0]]}}
        rows.append(row)
    return [*rows, empty_row("nobody", "nobody-aa")]


def render(rows: list[dict], folder: Path, unsafe: bool = False, **hidden: str) -> str:
    path = folder / "report.html"
    write_report(rows, path, title="Spring class", hidden={**HIDDEN, **hidden}, unsafe=unsafe)
    return path.read_text("utf-8")


# ----------------------------------------------------------------------------------------------
# grades.csv


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("alice", "alice"),
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("  +1", "'+1"),
        ("\t-1", "'-1"),
        ("\u200b@sum", "'@sum"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("\ufe631", "'\ufe631"),
        ("\u22121", "'\u22121"),
        ("a=b\r\nc", "a=b  c"),
        ("a\u2028b\ud800", "a b"),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula(text, cell):
    assert safe_cell(text) == cell


def test_grades_hold_what_was_graded(tmp_path, pictures):
    rows = [
        make_row("bob", "bob-1", pictures, seed=1),
        make_row('=cmd|"/C calc"!A1', "cmd-1", pictures, seed=2),
        make_row("alice", "alice-1", pictures, seed=3),
        empty_row("zoe\r\nroot", "zoe-1"),
    ]
    rows[0]["quality"]["JSA"] = ungraded("JSA", "JSA.pth was not\nhanded in")
    rows[2]["unsafe"] = True
    write_grades(rows, tmp_path / "grades.csv")
    content = (tmp_path / "grades.csv").read_bytes()
    write_grades(rows[::-1], tmp_path / "again.csv")
    assert content == (tmp_path / "again.csv").read_bytes()
    assert content.count(b"\n") == 5 and b"\r" not in content
    with (tmp_path / "grades.csv").open(newline="", encoding="utf-8") as file:
        table = {line["key"]: line for line in csv.DictReader(file)}
    assert list(table) == ["cmd-1", "alice-1", "bob-1", "zoe-1"]
    assert table["cmd-1"]["name"] == '\'=cmd|"/C calc"!A1'
    alice, bob = table["alice-1"], table["bob-1"]
    result = rows[2]["quality"]["JSA"]
    assert alice["JSA_points"] == f"{result['points']:.2f}"
    assert float(alice["JSA_mse"]) == round(result["mse"], 6)
    assert (alice["JSA_bits"], alice["JSA_code_length"], alice["part2"]) == ("200", "200", "30.00")
    assert (alice["unsafe"], bob["unsafe"]) == ("yes", "")
    assert (bob["JSA_points"], bob["JSA_raw"]) == ("0.00", "")
    assert bob["reason"] == "JSA: JSA.pth was not handed in"
    assert table["zoe-1"]["reason"].startswith("the archive is damaged; code: ")


# ----------------------------------------------------------------------------------------------
# Feedback


def test_feedback_is_gradescopes(tmp_path, pictures):
    row = make_row("alice", "alice-1", pictures)
    row["quality"]["Genwithlabel"] = ungraded("Genwithlabel", "Genwithlabel.pth was not handed in")
    row["quality"]["JSA"]["flags"] = ["the samples repeat"]
    row["notes"] = ["old.pth is a link; ignored"]
    write_feedback(row, tmp_path)
    results = json.loads((tmp_path / "alice-1" / "results.json").read_text())
    assert results["score"] == round(row["total"], 2)
    assert len(results["tests"]) == len(row["code"]["tests"]) + 3
    for test in results["tests"]:
        assert test["status"] in ("passed", "failed") and test["visibility"] == "visible"
        assert isinstance(test["output"], str) and 0 <= test["score"] <= test["max_score"]
    quality = {test["name"]: test for test in results["tests"] if test["number"] == "Q"}
    assert quality["Quality: Genwithlabel"]["output"].endswith("was not handed in")
    assert quality["Quality: Genwithlabel"]["status"] == "failed"
    board = {entry["name"]: entry["value"] for entry in results["leaderboard"]}
    assert board["raw JSA"] == round(row["quality"]["JSA"]["raw"], 4)
    assert board["raw Genwithlabel"] == 0
    text = (tmp_path / "alice-1" / "feedback.txt").read_text()
    assert "log p(x, h) is off by log 2" in text and "FAILED CHECKS: 2 of 18" in text
    for content in (text, json.dumps(results)):
        assert "old.pth is a link; ignored" in content
        for staff_only in ("repeat", "plain", f"{row['quality']['JSA']['confidence']}"):
            assert staff_only not in content


def test_hostile_feedback(tmp_path, pictures):
    for row in hostile_class(pictures):
        row["unsafe"] = True
        write_feedback(row, tmp_path)
        text = (tmp_path / row["key"] / "feedback.txt").read_text("utf-8")
        assert "without the sandbox" in text
        assert "\x1b" not in text and "\x00" not in text
        results = json.loads((tmp_path / row["key"] / "results.json").read_text("utf-8"))
        json.dumps(results, ensure_ascii=False).encode()  # no half of a surrogate pair is left
        assert results["output_format"] == results["test_output_format"] == "text"


# ----------------------------------------------------------------------------------------------
# Outliers


def test_an_ordinary_class_has_no_outlier(pictures):
    assert outliers(make_class(pictures, 12)) == {}
    assert outliers([]) == {}


def test_outliers_are_named(pictures):
    rows = make_class(pictures, 14)
    jsa = [row["quality"]["JSA"] for row in rows]
    jsa[1]["raw"] = 40.0
    jsa[2].update(mse=0.001, bits=20000.0)
    jsa[3]["plain_ssim"] = jsa[3]["ssim"] + 0.2
    jsa[4].update(fid=0.5, confidence=0.3)
    rows[5]["quality"]["Genwithlabel"].update(fid=0.5, recognised=0.1)
    rows[6]["quality"]["VAEwolabel"] = dict(rows[7]["quality"]["VAEwolabel"])
    rows[8]["quality"]["JSA"] = ungraded("JSA", "no file")
    found = outliers(rows)
    keys = [row["key"] for row in rows]
    assert set(found) == {keys[i] for i in (1, 2, 3, 4, 5, 6, 7)}
    assert "raw score 40.00" in found[keys[1]][0]
    assert "20000 bits" in found[keys[2]][0]
    assert "SSIM is 0.200 higher" in found[keys[3]][0]
    assert "unreadable" in found[keys[4]][0] and found[keys[5]][0].startswith("Genwithlabel: ")
    assert found[keys[6]] == [f"VAEwolabel: same figures as {keys[7]}"]
    assert all(len(remarks) == 1 for remarks in found.values())
    # Few scores say nothing of a class, except that two of them are equal.
    assert set(outliers(rows[:7])) == set()


# ----------------------------------------------------------------------------------------------
# report.html


class Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, content: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


def test_hostile_text_stays_text(tmp_path, pictures):
    content = render(hostile_class(pictures), tmp_path, warning=HOSTILE[0])
    page = Page(content)
    assert page.tags.count("script") == 1 and page.tags.count("style") == 1
    assert not {"iframe", "object", "form", "base"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {name for name in names if name.startswith("on")} and "style" not in names
    for name, value in page.attributes:
        if name in ("src", "href"):
            assert value.startswith(("#", "data:image/png;base64,")) or value == "data:,"
    text = "".join(page.text)
    for attack in HOSTILE[:-1]:
        # Name, note, check's name and output, reasons, flag, columns of the log.
        assert text.count(attack) >= 8, attack
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_policy_names_the_script(tmp_path, pictures):
    content = render(make_class(pictures, 1), tmp_path)
    (policy,) = (v for name, v in Page(content).attributes if name == "content" and "'none'" in v)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert policy.count("sha256-") == 2 and "unsafe" not in policy and "*" not in policy


@pytest.mark.parametrize("size", [0, 1, 40])
def test_classes_of_any_size(tmp_path, pictures, size):
    content = render(make_class(pictures, size), tmp_path)
    assert content.count('class="student"') == size
    assert ("There is no student" in content) == (size == 0)
    assert "nan" not in content.lower().split()
    write_grades(make_class(pictures, size), tmp_path / "grades.csv")


def test_unsafe_is_stamped_everywhere(tmp_path, pictures):
    rows = make_class(pictures, 3)
    assert "without the sandbox" not in render(rows, tmp_path)
    rows[1]["unsafe"] = True
    content = render(rows, tmp_path)
    assert "without the sandbox" in content  # one row is enough for the banner
    # Class table, three leaderboards, the gaps, the student's own section.
    assert content.count('<span class="badge">unsafe</span>') == 6


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [[1, None, None]],
        [[1, 5.0, 1e300]],
        [[1, math.inf, -math.inf], [2, math.nan, 1.0], [3, 1e300, None], [4, 2.0]],
        [[i, 1.0, -1e300 + i] for i in range(5000)],
    ],
)
def test_curves_of_odd_logs(rows):
    panels = curves({"columns": ["epoch", "train_loss", "$x_{"], "rows": rows}, "JSA")
    for panel in panels:
        assert not re.search(r"nan|inf|e\+", panel.picture) and len(panel.picture) < 10_000
    assert bool(panels) == any(1.0 in row[1:] or 5.0 in row[1:] for row in rows)


# ----------------------------------------------------------------------------------------------
# In a browser


@pytest.fixture
def browser(tmp_path):
    pytest.importorskip("selenium", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium or chromedriver is not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,900"),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    chrome = webdriver.Chrome(service=service, options=options)
    yield chrome
    chrome.quit()


def column(browser, index: int) -> list[str]:
    script = "return [...document.querySelectorAll('#class_table tbody tr')].map(row => row.cells"
    return browser.execute_script(f"{script}[{index}].innerText.trim())")


def click(browser, index: int) -> str:
    """Click on the header of one column; returns how the column says it is sorted."""
    headers = browser.find_elements("css selector", "#class_table thead tr:last-child th")
    headers[index].find_element("css selector", "button").click()
    return headers[index].get_attribute("aria-sort")


def test_report_in_a_browser(tmp_path, browser, pictures):
    rows = hostile_class(pictures)
    render(rows, tmp_path)
    browser.get((tmp_path / "report.html").as_uri())
    totals = sorted((f"{row['total']:.2f}" for row in rows), key=float)
    assert click(browser, 1) == "descending" and column(browser, 1) == totals[::-1]
    assert click(browser, 1) == "ascending" and column(browser, 1) == totals
    # Raw scores of Genwithlabel: those without one stay at the end.
    for direction in ("descending", "ascending"):
        assert click(browser, 9) == direction
        raws = column(browser, 9)
        assert raws[4:] == ["\N{EN DASH}"] * (len(rows) - 4)
        assert [float(raw) for raw in raws[:4]] == sorted(
            map(float, raws[:4]), reverse=direction == "descending"
        )
    assert click(browser, 0) == "ascending"
    names = column(browser, 0)
    assert click(browser, 0) == "descending"
    assert column(browser, 0) == names[::-1] and names != names[::-1]
    # The keyboard sorts too, and a link opens the section it leads to.
    header = browser.find_element("css selector", "#class_table th[data-kind=number] button")
    header.send_keys("\n")
    assert column(browser, 1) == totals[::-1]
    browser.find_element("css selector", "a[href='#hostile-1-aa']").click()
    details = browser.find_element("css selector", "#hostile-1-aa > details")
    assert details.get_attribute("open") is not None
    for button in browser.find_elements("css selector", "button[data-open=yes]"):
        button.click()
    images = browser.execute_script(
        "return Promise.all([...document.images].map(i => i.decode())).then(() => true)"
    )
    assert images is True
    assert browser.execute_script("return typeof window.hacked") == "undefined"
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    asked = [p["request"]["url"] for p in sent if not p["documentURL"].startswith("chrome:")]
    files = [url for url in asked if not url.startswith("data:")]
    assert files == [browser.current_url.split("#")[0]]  # the page itself


def test_the_policy_stops_an_injected_script(tmp_path, browser, pictures):
    content = render(make_class(pictures, 1), tmp_path)
    attack = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
    (tmp_path / "report.html").write_text(content.replace("</main>", attack + "</main>"))
    browser.get((tmp_path / "report.html").as_uri())
    assert browser.execute_script("return typeof window.hacked") == "undefined"
    assert any(
        "Content Security Policy" in entry["message"] for entry in browser.get_log("browser")
    )
    assert click(browser, 1) == "descending"  # its own script still runs
