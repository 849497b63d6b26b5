"""grades.csv, feedback and report.html: right, and harmless whatever students wrote."""

import csv
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="needs instructor/requirements.txt")

from instructor.grading.charts import curves
from instructor.grading.feedback import write_feedback
from instructor.grading.outliers import outliers
from instructor.grading.report import safe_cell, write_grades, write_report
from instructor.grading.result import Log, Quality, Result
from instructor.tests.grading.rows import HOSTILE, empty_row, hostile_class, make_class, make_row

pytestmark = pytest.mark.staff
HIDDEN = {"source": "hidden.npz", "num_images": 1000, "sha256": "0123456789abcdef" * 4}
HIDDEN["warning"] = ""


def render(rows: list[Result], folder: Path, unsafe: bool = False, **hidden: str) -> str:
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


def test_grades_hold_what_was_graded(tmp_path):
    rows = [
        make_row("bob", "bob-1", seed=1),
        make_row('=cmd|"/C calc"!A1', "cmd-1", seed=2),
        make_row("alice", "alice-1", seed=3),
        empty_row("zoe\r\nroot", "zoe-1"),
    ]
    rows[0].quality["JSA"] = Quality.failed("JSA", "JSA.pth was not\nhanded in")
    rows[2].unsafe = True
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
    quality = rows[2].quality["JSA"]
    assert alice["JSA_points"] == f"{quality.points:.2f}"
    assert float(alice["JSA_mse"]) == round(quality.metrics.mse, 6)
    assert (alice["JSA_bits"], alice["JSA_code_length"], alice["part2"]) == ("200", "200", "30.00")
    assert (alice["unsafe"], bob["unsafe"]) == ("yes", "")
    assert (bob["JSA_points"], bob["JSA_raw"]) == ("0.00", "")
    assert bob["reason"] == "JSA: JSA.pth was not handed in"
    assert table["zoe-1"]["reason"].startswith("the archive is damaged; code: ")


# ----------------------------------------------------------------------------------------------
# Feedback


def test_feedback_is_gradescopes(tmp_path):
    row = make_row("alice", "alice-1")
    row.quality["Genwithlabel"] = Quality.failed(
        "Genwithlabel", "Genwithlabel.pth was not handed in"
    )
    row.quality["JSA"].flags = ["the samples repeat"]
    row.notes = ["old.pth is a link; ignored"]
    write_feedback(row, tmp_path)
    results = json.loads((tmp_path / "alice-1" / "results.json").read_text())
    assert results["score"] == row.total
    assert len(results["tests"]) == len(row.code.checks) + 3
    for test in results["tests"]:
        assert test["status"] in ("passed", "failed") and test["visibility"] == "visible"
        assert isinstance(test["output"], str) and 0 <= test["score"] <= test["max_score"]
    quality = {test["name"]: test for test in results["tests"] if test["number"] == "Q"}
    assert quality["Quality: Genwithlabel"]["output"].endswith("was not handed in")
    assert quality["Quality: Genwithlabel"]["status"] == "failed"
    board = {entry["name"]: entry["value"] for entry in results["leaderboard"]}
    assert board["raw JSA"] == round(row.quality["JSA"].metrics.raw, 4)
    assert board["raw Genwithlabel"] == 0
    text = (tmp_path / "alice-1" / "feedback.txt").read_text()
    assert "log p(x, h) is off by log 2" in text and "FAILED CHECKS: 2 of 18" in text
    for content in (text, json.dumps(results)):
        assert "old.pth is a link; ignored" in content
        for staff_only in ("repeat", "plain", f"{row.quality['JSA'].metrics.confidence}"):
            assert staff_only not in content


def test_hostile_feedback(tmp_path):
    for row in hostile_class():
        row.unsafe = True
        write_feedback(row, tmp_path)
        text = (tmp_path / row.key / "feedback.txt").read_text("utf-8")
        assert "without the sandbox" in text
        assert "\x1b" not in text and "\x00" not in text
        results = json.loads((tmp_path / row.key / "results.json").read_text("utf-8"))
        json.dumps(results, ensure_ascii=False).encode()  # no half of a surrogate pair is left
        assert results["output_format"] == results["test_output_format"] == "text"


# ----------------------------------------------------------------------------------------------
# Outliers


def test_an_ordinary_class_has_no_outlier():
    assert outliers(make_class(12)) == {}
    assert outliers([]) == {}


def test_outliers_are_named():
    rows = make_class(14)
    jsa = [row.quality["JSA"].metrics for row in rows]
    jsa[1].raw = 40.0
    jsa[2].mse, jsa[2].bits = 0.001, 20000.0
    jsa[3].plain_ssim = jsa[3].ssim + 0.2
    jsa[4].fid, jsa[4].confidence = 0.5, 0.3
    gen = rows[5].quality["Genwithlabel"].metrics
    gen.fid, gen.recognised = 0.5, 0.1
    rows[6].quality["VAEwolabel"] = rows[7].quality["VAEwolabel"]
    rows[8].quality["JSA"] = Quality.failed("JSA", "no file")
    found = outliers(rows)
    keys = [row.key for row in rows]
    assert set(found) == {keys[i] for i in (1, 2, 3, 4, 5, 6, 7)}
    assert "raw score 40.00" in found[keys[1]][0]
    assert "20000 bits" in found[keys[2]][0]
    assert "SSIM is 0.200 higher" in found[keys[3]][0]
    assert "unreadable" in found[keys[4]][0] and found[keys[5]][0].startswith("Genwithlabel: ")
    assert found[keys[6]] == [f"VAEwolabel: same metrics as {keys[7]}"]
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


def test_hostile_text_stays_text(tmp_path):
    content = render(hostile_class(), tmp_path, warning=HOSTILE[0])
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


def test_policy_names_the_script(tmp_path):
    content = render(make_class(1), tmp_path)
    (policy,) = (v for name, v in Page(content).attributes if name == "content" and "'none'" in v)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert policy.count("sha256-") == 2 and "unsafe" not in policy and "*" not in policy


@pytest.mark.parametrize("size", [0, 1, 40])
def test_classes_of_any_size(tmp_path, size):
    content = render(make_class(size), tmp_path)
    assert content.count('class="student"') == size
    assert ("There is no student" in content) == (size == 0)
    assert "nan" not in content.lower().split()
    write_grades(make_class(size), tmp_path / "grades.csv")


def test_unsafe_is_stamped_everywhere(tmp_path):
    rows = make_class(3)
    assert "without the sandbox" not in render(rows, tmp_path)
    rows[1].unsafe = True
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
    panels = curves(Log(["epoch", "train_loss", "$x_{"], rows), "JSA")
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


def test_report_in_a_browser(tmp_path, browser):
    rows = hostile_class()
    render(rows, tmp_path)
    browser.get((tmp_path / "report.html").as_uri())
    totals = sorted((f"{row.total:.2f}" for row in rows), key=float)
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


def test_the_policy_stops_an_injected_script(tmp_path, browser):
    content = render(make_class(1), tmp_path)
    attack = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
    (tmp_path / "report.html").write_text(content.replace("</main>", attack + "</main>"))
    browser.get((tmp_path / "report.html").as_uri())
    assert browser.execute_script("return typeof window.hacked") == "undefined"
    assert any(
        "Content Security Policy" in entry["message"] for entry in browser.get_log("browser")
    )
    assert click(browser, 1) == "descending"  # its own script still runs
