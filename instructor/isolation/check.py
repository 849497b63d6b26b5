"""Try to break out of the sandbox, and say what it isolates on this machine.

python -m instructor sandbox             # in the sandbox
python -m instructor sandbox --unsafe    # what is protected without it
"""

import functools
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from instructor.door import make_parser
from instructor.isolation.sandbox import Limits, SandboxError, kill_all, spawn

# Runs inside: tries each thing and prints what it could do, as one line of JSON.
INSIDE = r"""
import ctypes, errno, json, mmap, os, platform, socket, sys, time
LIBC, FILE = ctypes.CDLL(None, use_errno=True), os.open(sys.executable, os.O_RDONLY)
REQUEST_KEY = 249 if platform.machine() == "x86_64" else 218
secret, port, abstract, grader, disk, marker = json.loads(sys.argv[1])
done = {}
def attempt(name, action):
    try:
        done[name] = bool(action())
    except (OSError, MemoryError, AttributeError):
        done[name] = False
def connect(family, address):
    with socket.socket(family) as s:
        s.settimeout(3)
        s.connect(address)
    return True
FOLDERS = ["/", "/in", "/kit", "/usr", "/etc", sys.prefix, os.path.dirname(secret)]
def write(folder):
    path = os.path.join(folder, "written-by-sandbox-check")
    try:
        open(path, "w").close()
        os.unlink(path)
        return True
    except OSError:
        return False
def fill():
    path = f"/tmp/{marker}"
    try:
        with open(path, "wb") as file:
            for _ in range(disk // (1 << 20) + 2):
                file.write(bytes(1 << 20))
    finally:
        os.unlink(path)
    return True
def fork():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return True
def permitted(*arguments):
    return LIBC.syscall(*arguments) >= 0 or ctypes.get_errno() != errno.EPERM
def daemon():
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            os.dup2(os.open("/dev/null", os.O_RDWR), 1)
            time.sleep(1000)
        os._exit(0)
    os.waitpid(child, 0)  # now its child is an orphan
    return True
attempt("read other files", lambda: open(secret).read())
attempt("write outside its temporary folders", lambda: any([write(folder) for folder in FOLDERS]))
attempt("reach the network", lambda: connect(socket.AF_INET, ("127.0.0.1", port)))
attempt("reach other programs' sockets", lambda: connect(socket.AF_UNIX, "\0" + abstract))
attempt("see other processes", lambda: os.path.exists(f"/proc/{grader}/cmdline"))
attempt("be root", lambda: os.geteuid() == 0)
attempt("hold memory without limit", lambda: bytearray(1 << 40) or bytearray(20 << 30))
attempt("hold files in memory", lambda: os.memfd_create("x"))
attempt("share System V memory", lambda: LIBC.shmget(0, 4096, 0o1600) >= 0)
attempt("share other memory", lambda: mmap.mmap(-1, 4096))
attempt("hold memory in sockets", lambda: socket.socketpair())
attempt("make namespaces", lambda: LIBC.unshare(0x10000000) == 0)
attempt("fill the disk", fill)
attempt("start processes", fork)
attempt("leave keys behind", lambda: permitted(REQUEST_KEY, b"user", b"x", b"x", 0))
attempt("look into the page cache", lambda: os.preadv(FILE, [bytearray(1)], 0, 8))
attempt("change the page cache", lambda: os.posix_fadvise(FILE, 0, 0, 4) is None)
attempt("leave processes behind", daemon)
print(json.dumps(done), flush=True)
time.sleep(60)
"""


def attempts(unsafe: bool = False) -> dict[str, bool]:
    """Try to break out; which attempts succeeded.

    Raises:
        SandboxError: the sandbox does not even start.
    """
    limits = Limits(disk=4 << 20)
    marker = f"sandbox-check-{secrets.token_hex(8)}"
    with (
        tempfile.TemporaryDirectory(prefix="sandbox-check-") as name,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as local,
    ):
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "secret").write_text("secret")
        (folder / "secret").chmod(0o644)
        (folder / "in").mkdir()
        local.bind("\0" + marker)
        local.listen()
        facts = [str(folder / "secret"), server.getsockname()[1], marker, os.getpid()]
        arguments = json.dumps([*facts, limits.disk, marker])
        command = [sys.executable, "-I", "-B", "-c", INSIDE, arguments]
        try:
            process = spawn(command, {"in": folder / "in"}, limits, unsafe, stderr=subprocess.PIPE)
        except FileNotFoundError as error:
            raise SandboxError(f"{error.filename} is not installed") from error
        except KeyError as error:
            raise SandboxError(f"there is no system call filter for {error.args[0]}") from error
        line = process.stdout.readline()
        complaint = b"" if line else process.stderr.read()
        kill_all(process)
    if not line:
        raise SandboxError(complaint.decode(errors="replace").strip() or "it ends at once")
    left = [
        other
        for other in psutil.process_iter(["cmdline"])
        if other.pid != os.getpid() and marker in " ".join(other.info["cmdline"] or ())
    ]
    for process in left:
        process.kill()
    return json.loads(line) | {"leave processes behind": bool(left)}


@functools.cache
def require(unsafe: bool = False) -> None:
    """Raise SandboxError unless the sandbox isolates everything; `unsafe` asks for nothing."""
    if unsafe:
        return
    try:
        possible = [name for name, done in attempts().items() if done]
    except SandboxError as error:
        raise SandboxError(
            f"the sandbox does not work here: {error}. Install bubblewrap (and allow user "
            "namespaces, or run as root), or give --unsafe: students' code could then read "
            "expected values, the hidden split and your files, and use the network."
        ) from error
    if possible:
        raise SandboxError(
            f"in the sandbox of this machine a program can still {', '.join(possible)}; "
            "--unsafe grades all the same."
        )


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("--unsafe", action="store_true", help="try what holds without it")
    try:
        done = attempts(parser.parse_args(argv).unsafe)
    except SandboxError as error:
        sys.exit(f"error: the sandbox does not start: {error}")
    for name, possible in done.items():
        print(f"{'NOT isolated' if possible else 'isolated':<14}{name}")
    sys.exit(1 if any(done.values()) else 0)
