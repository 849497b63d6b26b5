"""The sandbox: what it must stop is stopped, and its own check can see when it isn't."""

import os
import struct

import numpy as np
import pytest

pytest.importorskip("psutil", reason="needs instructor/requirements.txt")

from instructor.isolation import check, sandbox, seccomp
from instructor.isolation.sandbox import Limits, SandboxedWorker, SandboxError, usage
from instructor.tests.isolation.chain import CALL, write_chain

pytestmark = pytest.mark.staff
try:
    check.require()
    WORKS = ""
except SandboxError as error:
    WORKS = str(error)
THREAD = seccomp.CLONE_THREAD
works = pytest.mark.skipif(WORKS != "", reason=WORKS)


@pytest.fixture
def attempt(tmp_path):
    """A function: body of mis_chain -> what a sandboxed worker answers."""
    workers = []

    def run(body: str, **limits):
        write_chain(tmp_path, body)
        workers.append(SandboxedWorker(tmp_path, Limits(**limits)))
        return workers[-1].attempt(*CALL)

    yield run
    for worker in workers:
        worker.close()


@works
def test_nothing_gets_out():
    assert not any(check.attempts().values())


def test_the_check_sees_what_is_open():
    """Without bubblewrap the same attempts succeed, so they can tell the difference."""
    done = check.attempts(unsafe=True)
    held_by_limits = {"hold memory without limit", "fill the disk"}
    own_user = {"be root"}  # where Python can be run by others
    assert all(done[name] for name in set(done) - held_by_limits - own_user), done


@works
def test_right_functions_answer_as_without(attempt):
    assert attempt("return u.long()")[0]["rows"].tolist() == [[0, 0, 0]]


@works
@pytest.mark.parametrize(
    ("body", "limits", "word"),
    [
        ("while True: pass", {"seconds": 3}, "longer than 3 s"),
        ("time.sleep(1000)", {"seconds": 3}, "longer than 3 s"),
        ("x = [b'x' * 2**26 for _ in range(100)]; time.sleep(60)", {"memory": 2**30}, "memory"),
        ("os.kill(os.getpid(), 9)", {}, "ended before it answered"),
        ("open('/kit/model.py', 'a')", {}, "Error: [Errno"),
        ("open('/tmp/x', 'wb').write(bytes(2**27))", {}, "File too large"),
    ],
)
def test_limits(attempt, monkeypatch, body, limits, word):
    monkeypatch.setattr(sandbox, "WALL", 2)
    outputs, failure = attempt(body, **limits)
    assert outputs is None and word in failure


@works
def test_no_request_is_sent_once_the_budget_is_spent(tmp_path):
    write_chain(tmp_path, "while True: pass")
    worker = SandboxedWorker(tmp_path, Limits(seconds=3, budget=3))
    assert "longer than" in worker.attempt(*CALL)[1]
    assert "not run" in worker.attempt(*CALL)[1]
    worker.close()


@works
def test_threads_can_be_started_and_processes_cannot(attempt):
    start = "import threading; t = threading.Thread(target=print); t.start(); t.join(); "
    assert attempt(start + "return u.long()")[1] == ""
    assert "Operation not permitted" in attempt("os.fork()")[1]
    assert "Operation not permitted" in attempt("os.posix_spawn('/bin/true', ['x'], {})")[1]


@works
def test_a_child_that_never_reads_does_not_stop_the_parent(tmp_path):
    """As an ordinary user it could fill its own standard input; as root that is refused."""
    fill = "f = os.open('/proc/self/fd/0', os.O_WRONLY | os.O_NONBLOCK)"
    body = f"{fill}\n    try:\n        while True: os.write(f, bytes(4096))\n"
    write_chain(tmp_path, body + "    except OSError: return u.long()")
    worker = SandboxedWorker(tmp_path, Limits(seconds=5))
    answers = [worker.attempt(*CALL) for _ in range(2)]
    assert answers[1][1] != "" or os.geteuid() == 0
    worker.close()


def test_usage_of_a_process_that_is_gone():
    assert usage(2**22 + 1) == (0.0, 0)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_refuses_exactly_its_list(machine):
    """Run the filter's program on every call number, as the kernel would."""
    lines = list(struct.iter_unpack("HBBI", seccomp.program(machine)))
    column = list(seccomp.AUDIT_ARCH).index(machine)
    numbers = {pair[column] for pair in seccomp.REFUSED.values()} - {None}

    def verdict(number: int, arch: int, flags: tuple = (THREAD, 0, 0, 0)) -> int:
        accumulator, at = 0, 0
        while True:
            code, yes, no, k = lines[at]
            if code == seccomp.RETURN:
                return k
            if code == seccomp.LOAD:
                accumulator = {0: number, 4: arch, 16: flags[0], 40: flags[3]}[k]
                at += 1
            else:
                holds = {
                    seccomp.JUMP_EQUAL: accumulator == k,
                    seccomp.JUMP_AT_LEAST: accumulator >= k,
                    seccomp.JUMP_IF_SET: accumulator & k,
                }[code]
                at += 1 + (yes if holds else no)

    arch, named = seccomp.AUDIT_ARCH[machine], seccomp.VERDICTS
    refused = {n for n in range(1000) if verdict(n, arch) == named["refuse"]}
    assert refused == numbers
    assert verdict(seccomp.X32_CALLS + 1, arch) == named["refuse"]
    assert verdict(0, arch + 1) == named["kill"]
    assert verdict(seccomp.CLONE3[column], arch) == named["unknown"]
    assert verdict(seccomp.CLONE[column], arch, (17, 0, 0, 0)) == named["refuse"]
    assert verdict(seccomp.MMAP[column], arch, (0, 0, 0, 0x22)) == named["allow"]
    assert verdict(seccomp.MMAP[column], arch, (0, 0, 0, 0x21)) == named["refuse"]


def test_filter_needs_a_known_processor():
    with pytest.raises(KeyError):
        seccomp.program("pdp11")


@works
def test_arrays_cross_unchanged(attempt):
    outputs, _ = attempt("import torch; return torch.arange(6).reshape(2, 3)")
    assert np.array_equal(outputs["rows"], np.arange(6).reshape(2, 3))
