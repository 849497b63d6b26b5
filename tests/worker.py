"""Probes in a process of their own: the parent's end (`Worker`) and the child's (`main`).

The parent writes a request, (probe name, inputs), into a file, and its number into a pipe that can
never fill up; the child answers on its one output stream. Arrays cross as raw bytes behind a JSON
header; nothing is unpickled. A probe that takes too long or takes its process down costs that one
check: the next call starts a new child.
"""

import contextlib
import json
import math
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kit.files import ROOT

DTYPES = ("<f4", "<f8", "<i2", "<i8", "|u1", "|b1")
MAX_REPLY = 64 << 20  # bytes
MAX_HEADER = 1 << 20  # bytes of JSON, which take many times as many once they are parsed


class WorkerError(Exception):
    """The child gave no usable answer; the message is the reason, in one line."""


def pack(value) -> bytes:
    """Nested dicts, lists, numbers, strings and arrays -> one message."""
    arrays: list[bytes] = []

    def describe(item):
        if isinstance(item, np.ndarray):
            arrays.append(np.ascontiguousarray(item).tobytes())
            return {"array": [item.dtype.str, list(item.shape)]}
        if isinstance(item, dict):
            return {"dict": {key: describe(inner) for key, inner in item.items()}}
        if isinstance(item, list | tuple):
            return {"list": [describe(inner) for inner in item]}
        return {"value": item}

    header = json.dumps(describe(value)).encode()
    return b"".join([len(header).to_bytes(8, "little"), header, *arrays])


def unpack(message: bytes):
    """The inverse of `pack`; WorkerError for anything odd."""
    try:
        return _unpack(message)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as e:
        raise WorkerError(f"the answer is not readable ({type(e).__name__}: {e})") from e


def _unpack(body: bytes):
    size = int.from_bytes(body[:8], "little")
    if size > MAX_HEADER:
        raise ValueError(f"a header of {size} bytes")
    header, position = json.loads(body[8 : 8 + size]), 8 + size

    def rebuild(item):
        nonlocal position
        ((kind, content),) = item.items()
        if kind == "array":
            dtype, shape = content
            if dtype not in DTYPES or len(shape) > 8:
                raise ValueError("an array of another type, or of too many dimensions")
            if not all(type(n) is int and 0 <= n <= MAX_REPLY for n in shape):
                raise ValueError("an array of an impossible size")
            count = math.prod(shape)
            if position + count * np.dtype(dtype).itemsize > len(body):
                raise ValueError("a truncated array")
            array = np.frombuffer(body, dtype, count, position).reshape(shape)
            position += array.nbytes
            return array
        if kind == "dict":
            return {key: rebuild(inner) for key, inner in content.items()}
        if kind == "list":
            return [rebuild(inner) for inner in content]
        return content

    return rebuild(header)


class Worker:
    """Runs probes on the `submission.py` of a folder, in a child process.

    Args:
        folder: holds submission.py.
        time_limit: seconds that one request may take.
        budget: seconds that all requests together may take.
        scratch: where temporary files go (None: the system's place).
    """

    def __init__(
        self,
        folder: Path,
        time_limit: float = 60.0,
        budget: float = math.inf,
        scratch: Path | None = None,
    ):
        self.folder, self.time_limit, self.budget = Path(folder).resolve(), time_limit, budget
        self.scratch = scratch
        self.process: subprocess.Popen | None = None
        self.requests: Path | None = None  # folder of the request files, made with the first
        self.number, self.started, self.used = 0, 0.0, 0.0

    def attempt(self, name: str, inputs: dict) -> tuple[dict[str, np.ndarray] | None, str]:
        """Like `probes.attempt`, in the child."""
        try:
            return check_answer(unpack(self.call(pack([name, inputs]))))
        except WorkerError as error:
            return None, clean(str(error))

    def call(self, request: bytes) -> bytes:
        """Send one request and wait for the reply.

        Raises:
            WorkerError: there was none; the next call starts a new child.
        """
        if self.used >= self.budget:
            raise WorkerError(f"not run: the checks before it took {self.used:.0f} s in all")
        if self.requests is None:
            self.requests = Path(tempfile.mkdtemp(prefix="requests-", dir=self.scratch))
            self.requests.chmod(0o755)
        self.number += 1
        file = self.requests / str(self.number)
        file.write_bytes(request)
        file.chmod(0o644)
        if self.process is None or self.process.poll() is not None:
            self.stop()
            self.process = self.start()
        self.started = time.monotonic()
        try:
            # A child that never reads could fill the pipe: then this fails instead of waiting.
            os.set_blocking(self.process.stdin.fileno(), False)
            os.write(self.process.stdin.fileno(), f"{self.number}\n".encode())
            size = int.from_bytes(self._read(8), "little")
            if size > MAX_REPLY:
                raise WorkerError(f"the answer is not readable ({size} bytes)")
            reply = self._read(size)
            self.used += self.spent()
            return reply
        except BaseException as error:  # half a reply must not be taken for the next one's
            self.used += self.spent()
            self.stop()
            if isinstance(error, OSError | EOFError):
                ended = "the process ended before it answered; does your code exit or crash?"
                raise WorkerError(ended) from error
            raise
        finally:
            file.unlink()

    def start(self) -> subprocess.Popen:
        """Start the child; its standard input and output are pipes."""
        return subprocess.Popen(
            [sys.executable, "-B", "-m", "tests.worker", str(self.folder), str(self.requests)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def spent(self) -> float:
        """Seconds that count for the time limit since the request was sent."""
        return time.monotonic() - self.started

    def watch(self) -> None:
        """Called several times a second while the child works; WorkerError ends it."""
        if self.spent() > self.time_limit:
            raise WorkerError(f"took longer than {self.time_limit:.0f} s; an endless loop?")

    def _read(self, count: int) -> bytes:
        found, place, stream = bytearray(count), 0, self.process.stdout.fileno()
        with selectors.DefaultSelector() as selector, memoryview(found) as view:
            selector.register(stream, selectors.EVENT_READ)
            while place < count:
                # Also when bytes keep trickling in, the clock is looked at.
                ready = selector.select(0.1)
                self.watch()
                if not ready:
                    continue
                got = os.readv(stream, [view[place : place + (1 << 20)]])
                if got == 0:
                    raise EOFError
                place += got
        return bytes(found)

    def kill(self) -> None:
        """Kill the child and whatever it started."""
        self.process.kill()

    def stop(self) -> None:
        if self.process is not None:
            self.kill()
            self.process.wait()
            self.process.stdout.close()
            with contextlib.suppress(OSError):  # an unsent number may still be in its buffer
                self.process.stdin.close()
            self.process = None

    def close(self) -> None:
        """End the child and remove the request files."""
        self.stop()
        if self.requests is not None:
            shutil.rmtree(self.requests)
            self.requests = None


def clean(text: str) -> str:
    """Text of a student's making, cut and without control and direction codes."""
    cut = text[:2000]
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in cut)


def check_answer(answer) -> tuple[dict[str, np.ndarray] | None, str]:
    """The child's answer to a probe, if it has the form that `probes.attempt` gives it."""
    match answer:
        case [None, str(failure)] if failure:
            return None, clean(failure)
        case [dict(outputs), ""] if all(isinstance(v, np.ndarray) for v in outputs.values()):
            return outputs, ""
    raise WorkerError("the answer is not readable (neither arrays nor a reason)")


def serve(answer: Callable[[bytes], bytes], requests: str) -> None:
    """The child's loop: answer the requests whose numbers come on standard input."""
    # Replies go to a private copy of standard output; what student code prints goes to stderr.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for number in sys.stdin:
        reply = answer((Path(requests) / number.strip()).read_bytes())
        replies.write(len(reply).to_bytes(8, "little") + reply)
        replies.flush()


def main(folder: str, requests: str) -> None:
    from tests import probes

    def answer(request: bytes) -> bytes:
        name, inputs = unpack(request)
        return pack(probes.attempt(name, inputs, Path(folder)))

    serve(answer, requests)


if __name__ == "__main__":
    main(*sys.argv[1:])
