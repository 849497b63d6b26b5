"""Probes in a process of their own: the parent's end (`Worker`) and the child's (`main`).

The parent sends (probe name, inputs) and gets arrays back. Everything crosses as JSON with the
arrays' raw bytes behind it; nothing is unpickled. A probe that takes too long or takes its process
down costs that one check: the next call starts a new child.
"""

import json
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DTYPES = ("<f4", "<f8", "<i8", "|u1", "|b1")
MAX_REPLY = 256 << 20  # bytes


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
    body = b"".join([len(header).to_bytes(8, "little"), header, *arrays])
    return len(body).to_bytes(8, "little") + body


def unpack(body: bytes):
    """The inverse of `pack`, without its first eight bytes; ValueError for anything odd."""
    size = int.from_bytes(body[:8], "little")
    header, position = json.loads(body[8 : 8 + size]), 8 + size

    def rebuild(item):
        nonlocal position
        ((kind, content),) = item.items()
        if kind == "array":
            dtype, shape = content
            if dtype not in DTYPES or not all(isinstance(n, int) and n >= 0 for n in shape):
                raise ValueError(f"an array of {dtype} {shape}")
            count = int(np.prod(shape, dtype=object))
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
        time_limit: seconds a probe may take.
    """

    def __init__(self, folder: Path, time_limit: float = 120.0):
        self.folder, self.time_limit = Path(folder).resolve(), time_limit
        self.process: subprocess.Popen | None = None

    def attempt(self, name: str, inputs: dict) -> tuple[dict[str, np.ndarray] | None, str]:
        """Like `probes.attempt`, in the child."""
        if self.process is None or self.process.poll() is not None:
            self._start()
        try:
            self.process.stdin.write(pack([name, inputs]))
            self.process.stdin.flush()
            outputs, failure = unpack(self._read(time.monotonic() + self.time_limit))
        except TimeoutError:
            self.close()
            return None, f"took longer than {self.time_limit:.0f} s; an endless loop?"
        except (OSError, EOFError):
            self.close()
            return None, "the process ended before it answered; does your code exit or crash?"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.close()
            return None, f"the answer is not readable ({error})"
        return outputs, failure

    def _start(self) -> None:
        arguments = [sys.executable, "-B", "-m", "tests.worker", str(self.folder)]
        self.process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def _read(self, deadline: float) -> bytes:
        size = int.from_bytes(self._read_bytes(8, deadline), "little")
        if size > MAX_REPLY:
            raise ValueError(f"{size} bytes")
        return self._read_bytes(size, deadline)

    def _read_bytes(self, count: int, deadline: float) -> bytes:
        chunks, stream = [], self.process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while count > 0:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                chunk = os.read(stream.fileno(), min(count, 1 << 20))
                if not chunk:
                    raise EOFError
                chunks.append(chunk)
                count -= len(chunk)
        return b"".join(chunks)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


def main(folder: str) -> None:
    """Answer requests on standard input until it closes."""
    # Replies go to a private copy of standard output; what student code prints goes to stderr.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from tests import probes

    requests = sys.stdin.buffer
    while size := requests.read(8):
        name, inputs = unpack(requests.read(int.from_bytes(size, "little")))
        outputs, failure = probes.attempt(name, inputs, Path(folder))
        replies.write(pack([outputs, failure]))
        replies.flush()


if __name__ == "__main__":
    main(sys.argv[1])
