"""The autograder's machinery: fixtures, points, and the results file.

pytest                                     check ./submission.py
pytest --isolated --submission FOLDER --seed 7 --results results.json     (staff)
"""

import functools
import json
import shutil
import tempfile
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from data_utils import set_seed
from kit.assignment import PARTS
from kit.files import ROOT
from tests import probes
from tests.tools import RECORDED, Wrong, answer
from tests.worker import Worker

SANDBOX = "instructor.grading.pytest_sandbox"  # a plugin, which sets config.worker_class
SANDBOX_FILE = ROOT / "instructor" / "grading" / "pytest_sandbox.py"  # staff only
GRADER_FAILED = 3  # exit status, pytest's own for an internal error
MAX_MESSAGE = 4000  # characters


def pytest_addoption(parser):
    group = parser.getgroup("autograder")
    group.addoption("--submission", help="folder with submission.py (default: this one)")
    group.addoption("--isolated", action="store_true", help="run student code in its own process")
    group.addoption(
        "--worker-seconds", type=float, default=60.0, help="limit of a check with --isolated"
    )
    group.addoption("--unsafe", action="store_true", help="staff: --isolated without the sandbox")
    group.addoption(
        "--seed", type=int, help="other inputs; expected values come from ./submission.py"
    )
    group.addoption("--results", help="write Gradescope's results.json here, after every test")
    group.addoption("--record", action="store_true", help="staff: record the expected values")


def pytest_configure(config):
    config.addinivalue_line("markers", "points(n, part): what a test is worth, for which TODO")
    folder = config.getoption("--submission")
    if folder is not None and not (Path(folder) / "submission.py").is_file():
        raise pytest.UsageError(f"--submission {folder}: there is no submission.py in it")
    if config.getoption("--record") and config.getoption("keyword"):
        raise pytest.UsageError("--record writes the values of all tests; leave out -k")
    if config.getoption("--isolated") and SANDBOX_FILE.is_file():
        config.pluginmanager.import_plugin(SANDBOX)
    config.pluginmanager.register(
        Scores(config.getoption("--results"), config.getoption("--isolated")), "scores"
    )


# ----------------------------------------------------------------------------------------------
# Fixtures


@pytest.fixture(scope="session")
def attempt(request):
    """How probes are run: in this process, or with --isolated in a worker's."""
    folder = Path(request.config.getoption("--submission") or ROOT).resolve()
    if not request.config.getoption("--isolated"):
        yield functools.partial(probes.attempt, folder=folder)
        return
    with tempfile.TemporaryDirectory() as alone:  # nothing beside submission.py goes along
        shutil.copy(folder / "submission.py", alone)
        worker_class = getattr(request.config, "worker_class", Worker)
        seconds = request.config.getoption("--worker-seconds")
        worker = worker_class(Path(alone), seconds, 10 * seconds)
        yield guarded(worker.attempt)
        worker.close()


def guarded(attempt):
    """`attempt`, of which an error of the grader's own ends the run: it is no student's mistake."""

    def run(name, inputs):
        try:
            return attempt(name, inputs)
        except Exception as error:
            pytest.exit(f"the autograder itself failed: {error!r}", returncode=GRADER_FAILED)

    return run


@pytest.fixture
def probe(attempt):
    """`probe(name, **inputs)` runs a piece of student code and returns a dict of arrays."""

    def run(name, **inputs):
        return answer(*attempt(name, inputs))

    return run


@pytest.fixture(scope="session")
def reference_attempt(request):
    """With --seed: probes on this repository's own submission, in another process."""
    worker = Worker(ROOT, time_limit=600)  # by the clock: the machine may be very busy
    yield guarded(worker.attempt)
    worker.close()


@pytest.fixture(scope="session")
def recorded(request):
    """The recorded expected values; with --record they are collected and written at the end."""
    if request.config.getoption("--record"):
        values: dict[str, np.ndarray] = {}
        yield values
        RECORDED.parent.mkdir(exist_ok=True)
        np.savez_compressed(RECORDED, **dict(sorted(values.items())))
        return
    with np.load(RECORDED, allow_pickle=False) as archive:
        yield {key: archive[key] for key in archive.files}


@pytest.fixture
def reference(request, recorded):
    """`reference(name, **inputs)`: what the reference submission returns for the same inputs.

    Live for staff (--seed); else read from tests/expected/, by test and number of the call.
    """
    calls = 0

    def run(name, **inputs):
        nonlocal calls
        key = f"{test_name(request.node)}#{calls}/"
        calls += 1
        option = request.config.getoption
        if option("--seed") is None and not option("--record"):
            return {k.removeprefix(key): v for k, v in recorded.items() if k.startswith(key)}
        outputs, failure = request.getfixturevalue("reference_attempt")(name, inputs)
        if outputs is None:
            pytest.exit(f"the reference itself failed: {failure}", returncode=GRADER_FAILED)
        if option("--record"):
            small = {k: v.astype(np.float32) for k, v in outputs.items()}
            recorded.update({key + k: v for k, v in small.items()})
        return outputs

    return run


def test_name(item) -> str:
    return f"{item.path.name}::{item.name}"


def seed_of(request) -> list[int]:
    """A seed for this test alone: other tests, left out or in another order, do not change it."""
    seed = request.config.getoption("--seed") or 0
    return [seed, zlib.crc32(test_name(request.node).encode())]


@pytest.fixture
def rng(request):
    """Random inputs that depend on the test and on --seed."""
    return np.random.default_rng(seed_of(request))


@pytest.fixture(autouse=True)
def seeded(request):
    """Seed the global generators before every test; probes seed those of student code again."""
    set_seed(int(np.random.SeedSequence(seed_of(request)).generate_state(1)[0]))


# ----------------------------------------------------------------------------------------------
# Failures


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Say what a check found wrong, and where to look, without a traceback of the test's own."""
    try:
        return (yield)
    except Wrong as wrong:
        message, todo = str(wrong)[:MAX_MESSAGE], wrong.todo
    if not message.endswith("is not implemented yet"):
        todo = todo or item.get_closest_marker("points").kwargs["part"]
        message += f"\n-> TODO {todo} in submission.py; README, part {todo[0]}"
    pytest.fail(message, pytrace=False)


# ----------------------------------------------------------------------------------------------
# Points


class Scores:
    """Collects points and writes them after every test, so that a late crash loses nothing."""

    def __init__(self, path: str | None, isolated: bool):
        self.path, self.isolated = path, isolated
        self.rows: dict[str, dict] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        for item in items:
            if self.isolated:  # the worker has limits of its own, by CPU time where it can
                item.add_marker(pytest.mark.timeout(0))
            for marker in item.iter_markers("points"):
                self.rows[item.nodeid] = {
                    "name": f"TODO {marker.kwargs['part']}: {item.name}",
                    "number": marker.kwargs["part"],
                    "score": 0.0,
                    "max_score": marker.args[0],
                    "status": "failed",
                    "output": "not run",
                    "visibility": "visible",
                }
        self.write()

    def pytest_runtest_logreport(self, report):
        row = self.rows.get(report.nodeid)
        if row is None or (report.when != "call" and report.passed):
            return
        row["status"] = "passed" if report.passed else "failed"
        row["score"] = row["max_score"] if report.passed else 0.0
        row["output"] = "" if report.passed else message_of(report)
        self.write()

    def write(self) -> None:
        if self.path is None:
            return
        rows = list(self.rows.values())
        total = round(sum(row["score"] for row in rows), 2)
        board = [{"name": "code points", "value": total}]
        results = {"score": total, "tests": rows, "leaderboard": board}
        temporary = Path(f"{self.path}.tmp")
        temporary.write_text(json.dumps(results, indent=1))
        temporary.replace(self.path)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter):
        """The points stand at the end, behind pytest's list of failures."""
        result = yield
        if self.rows:
            self.write_points(terminalreporter)
        return result

    def write_points(self, terminalreporter) -> None:
        totals = defaultdict(lambda: [0.0, 0.0])
        for row in self.rows.values():
            for key in {row["number"], row["number"][0], "all"}:
                totals[key][0] += row["score"]
                totals[key][1] += row["max_score"]
        terminalreporter.section("points")
        for key in sorted(totals, key=lambda k: (k == "all", k)):
            score, out_of = totals[key]
            name = "total" if key == "all" else f"TODO {key}"
            if key in PARTS:
                name = f"part {key}, {PARTS[key].title}"
            terminalreporter.write_line(f"{name:<18}{score:>6.4g} / {out_of:.4g}")


def message_of(report) -> str:
    """What a failed test says to the student, without pytest's decoration.

    A test that stopped with an error of its own got an answer that it could not even measure; its
    traceback through the test would help nobody.
    """
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return str(report.longrepr).strip()
    if crash.message.startswith("Failed: "):  # of a check, or of the time limit
        return crash.message.removeprefix("Failed: ").strip()
    return f"the answer has an unexpected form: {crash.message.splitlines()[0][:MAX_MESSAGE]}"
