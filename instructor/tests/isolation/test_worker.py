"""tests/worker.py: hangs, crashes and chatter cost one answer; odd replies are refused."""

import numpy as np
import pytest

from instructor.tests.isolation.chain import CALL, write_chain
from tests.worker import Worker, WorkerError, pack, unpack


@pytest.fixture
def attempt(tmp_path):
    """A function: body of mis_chain -> what a worker with a short time limit answers."""
    workers = []

    def run(body: str, time_limit: float = 30.0):
        write_chain(tmp_path, body)
        workers.append(Worker(tmp_path, time_limit))
        return workers[-1].attempt(*CALL)

    yield run
    for worker in workers:
        worker.close()


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("os._exit(0)", "ended before it answered"),
        ("os.kill(os.getpid(), 11)", "ended before it answered"),
        ("raise NotImplementedError('TODO 4.4: the chain')", "TODO 4.4 is not implemented yet"),
        ("return u @ u", "RuntimeError"),
        ("return 'full marks'", "must be a tensor"),
        ("return None", "must be a tensor"),
    ],
)
def test_failures_are_one_line(attempt, body, word):
    outputs, failure = attempt(body)
    assert outputs is None and word in failure and "\n" not in failure.strip()


def test_endless_loop_is_killed_and_the_next_call_starts_anew(tmp_path):
    write_chain(tmp_path, "time.sleep(1000 * (len(u) - 1)); return u.long() + 1")
    worker = Worker(tmp_path, time_limit=60.0)
    assert worker.attempt(*CALL)[0]["rows"].tolist() == [[1, 1, 1]]
    worker.time_limit = 2.0  # only for the call: the process has started
    name, inputs = CALL
    outputs, failure = worker.attempt(name, inputs | {"u": np.full((2, 3), 0.5)})
    assert outputs is None and "longer than 2 s" in failure
    assert worker.process is None
    worker.time_limit = 60.0
    write_chain(tmp_path, "return u.long()")
    assert worker.attempt(*CALL)[0]["rows"].tolist() == [[0, 0, 0]]
    worker.close()


def test_what_students_print_is_not_taken_for_an_answer(attempt):
    body = "print('x' * 100000); sys.stdout.buffer.write(b'0' * 9); return u.long()"
    outputs, failure = attempt(body)
    assert failure == "" and outputs["rows"].shape == (1, 3)


def test_only_submission_py_is_taken_from_the_folder(tmp_path, attempt):
    (tmp_path / "model.py").write_text("raise SystemExit")
    outputs, _ = attempt("import model; return u.long() + hasattr(model, 'BaseSampler')")
    assert outputs["rows"].tolist() == [[1, 1, 1]]


def test_messages_survive_the_pipe():
    value = {"a": [1, 2.5, None, "x"], "b": {"c": np.arange(6).reshape(2, 3), "d": np.zeros(0)}}
    found = unpack(pack(value))
    assert found["a"] == value["a"]
    assert np.array_equal(found["b"]["c"], value["b"]["c"]) and found["b"]["d"].shape == (0,)


@pytest.mark.parametrize(
    "header",
    [
        b'{"array": ["|O", [1]]}',
        b'{"array": ["<f8", [-1]]}',
        b'{"array": ["<f8", [1000000000000]]}',
        b"[1",
    ],
)
def test_odd_replies_are_refused(header):
    with pytest.raises(WorkerError):
        unpack(len(header).to_bytes(8, "little") + header)
