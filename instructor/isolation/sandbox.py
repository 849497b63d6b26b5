"""Students' code in a sandbox: no network, no files but its own, limits on what it may use.

    python -m instructor sandbox    # tries it out here, and says what is and isn't isolated

bubblewrap gives the process namespaces and a file system of its own in which everything but two
small temporary folders is read-only; prlimit sets limits; `seccomp.py` closes the ways around them.
Started as root, the process drops to a user id of its own, since limits do not bind root.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from instructor import layout
from instructor.isolation import seccomp
from kit.files import ROOT
from tests.worker import Worker, WorkerError

WALL = 10  # times as much wall clock as CPU time is allowed: machines may be busy
FIRST_UID = 2_000_000_000  # user ids above it belong to nobody; each sandbox gets its own
MAX_FILES = 100_000  # temporary files; each takes a kilobyte that no limit counts
SYSTEM = ("/bin", "/lib", "/lib32", "/lib64", "/sbin", "/usr")
TORCH_READS = ("/etc/ld.so.cache", "/sys/devices/system/cpu")  # the latter for the vector units


_sandboxes = itertools.count()


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one worker may use.

    Attributes:
        seconds: CPU time of one request; ten times as much by the wall clock.
        budget: CPU time of all requests.
        memory: bytes that all its processes may hold together.
        processes: how many of these there may be; in the sandbox only threads can be started.
        disk: bytes in /tmp, as much in /dev/shm, and the largest file.
    """

    seconds: float = 60
    budget: float = 600
    memory: int = 3 << 30
    processes: int = 64
    disk: int = 64 << 20


class SandboxError(Exception):
    """The sandbox does not work here; the message says what is missing."""


class SandboxProcess(subprocess.Popen):
    """A process in the sandbox, or without it if `unsafe`, then perhaps of a user of its own."""

    unsafe = False
    uid: int | None = None


class SandboxedWorker(Worker):
    """A `Worker` whose child runs in the sandbox, and may read `layout.IN_SANDBOX`.

    Args:
        folder: a folder of submission.py and whatever else the child may read.
        limits: what the child may use.
        unsafe: no bubblewrap; user id, limits and an empty environment are all that is left.
        program: the child's module; its `main(folder, requests)` answers.
        scratch: where temporary files go.
    """

    def __init__(
        self,
        folder: Path,
        limits: Limits = Limits(),
        unsafe: bool = False,
        program: str = "tests.worker",
        scratch: Path | None = None,
    ):
        super().__init__(folder, limits.seconds, limits.budget, scratch)
        self.limits, self.unsafe, self.program = limits, unsafe, program
        self.kit: Path | None = None  # copies, which the child's user may read
        self.cpu_before, self.looked = 0.0, 0.0

    def start(self) -> SandboxProcess:
        if self.kit is None:
            self.kit = Path(tempfile.mkdtemp(prefix="kit-", dir=self.scratch))
            copy_readable(ROOT, self.kit / "kit", layout.files(*layout.IN_SANDBOX))
            names = [path.name for path in self.folder.iterdir() if path.is_file()]
            copy_readable(self.folder, self.kit / "in", names)
            self.kit.chmod(0o755)
        self.cpu_before = 0.0
        places = {"kit": self.kit / "kit", "in": self.kit / "in", "requests": self.requests}
        return launch(self.program, places, self.limits, self.unsafe)

    def call(self, request: bytes) -> bytes:
        if self.process is not None:
            self.cpu_before = usage(self.process.pid)[0]
        return super().call(request)

    def spent(self) -> float:
        cpu = usage(self.process.pid)[0] - self.cpu_before if self.process else 0.0
        return max(cpu, (time.monotonic() - self.started) / WALL)

    def watch(self) -> None:
        if time.monotonic() < self.looked + 0.1:
            return
        super().watch()
        held = usage(self.process.pid)[1]
        if held > self.limits.memory:
            raise WorkerError(f"used more than {self.limits.memory >> 20} MiB of memory")
        if not self.unsafe and files_made(self.process.pid) > MAX_FILES:
            raise WorkerError(f"made more than {MAX_FILES} temporary files")
        self.looked = time.monotonic()

    def kill(self) -> None:
        kill_all(self.process)

    def close(self) -> None:
        super().close()
        if self.kit is not None:
            shutil.rmtree(self.kit)
            self.kit = None


def copy_readable(source: Path, target: Path, names) -> None:
    """Copy files so that every user can read them, whatever the modes of the originals."""
    target.mkdir()
    for name in names:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, copy)
        copy.chmod(0o644)
    for folder in (target, *[path for path in target.rglob("*") if path.is_dir()]):
        folder.chmod(0o755)


# ----------------------------------------------------------------------------------------------
# Processes


def launch(program: str, places: dict[str, Path], limits: Limits, unsafe: bool) -> SandboxProcess:
    """Start `program`.main(in, requests) with pipes as standard input and output."""
    inside = {name: str(path) if unsafe else f"/{name}" for name, path in places.items()}
    code = f"import sys; sys.path.insert(0, {inside['kit']!r}); import {program} as p; "
    code += f"p.main({inside['in']!r}, {inside['requests']!r})"
    command = [sys.executable, "-I", "-B", "-c", code]
    return spawn(command, places, limits, unsafe)


def spawn(
    command: list[str],
    places: dict[str, Path],
    limits: Limits,
    unsafe: bool = False,
    stderr: int = subprocess.DEVNULL,
) -> SandboxProcess:
    """Start any command in the sandbox; `places` are the folders that it can read, as /NAME."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "OMP_NUM_THREADS": "1"}
    command = [*prlimit(limits), *command]
    uid = new_uid() if os.geteuid() == 0 and (not unsafe or others_can_run_python()) else None
    if uid is not None:
        command = [*drop_privileges(uid), *command]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": stderr}
    if unsafe:
        process = SandboxProcess(command, env=environment, start_new_session=True, **pipes)
        process.unsafe, process.uid = True, uid
        return process
    with tempfile.TemporaryFile() as system_calls:
        system_calls.write(seccomp.program())
        system_calls.seek(0)
        filter_fd = system_calls.fileno()
        outer = [*bubblewrap(places, environment, limits), "--seccomp", str(filter_fd), "--"]
        return SandboxProcess(outer + command, pass_fds=[filter_fd], **pipes)


def bubblewrap(places: dict[str, Path], environment: dict[str, str], limits: Limits) -> list[str]:
    """The command that makes the namespaces and the file system; see bwrap(1)."""
    command = ["bwrap", "--die-with-parent", "--new-session", "--unshare-pid", "--unshare-net"]
    command += ["--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox"]
    if os.geteuid() == 0:  # needed to drop to another user
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            command += ["--cap-add", capability]
    else:
        command += ["--unshare-user"]
    command += ["--clearenv"]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    tmpfs = ["--perms", "1777", "--size", str(limits.disk), "--tmpfs"]
    command += ["--proc", "/proc", "--dev", "/dev", *tmpfs, "/dev/shm", *tmpfs, "/tmp"]
    binds = {str(path): f"/{name}" for name, path in places.items()}
    pythons = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parents[1])}
    for path in (*SYSTEM, *TORCH_READS, *sorted(pythons)):
        if Path(path).is_symlink():
            command += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).exists() and (path in SYSTEM or not path.startswith("/usr")):
            binds[path] = path
    made = {"/"}
    for inside in binds.values():  # without this the folders on the way to it were closed to others
        for parent in reversed(Path(inside).parents):
            if str(parent) not in made and not str(parent).startswith(("/usr", "/tmp/.")):
                command += ["--dir", str(parent)]
                made.add(str(parent))
    for outside, inside in binds.items():
        command += ["--ro-bind", outside, inside]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]


def new_uid() -> int:
    """A user id for one sandbox: limits and the kernel's keys of a user are its own."""
    return FIRST_UID + os.getpid() % 2**20 * 1024 + next(_sandboxes) % 1024


def drop_privileges(uid: int) -> list[str]:
    """Go on as a user of nobody's; a limit on processes does not bind root."""
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"]
    return [*command, "--bounding-set=-all", "--inh-caps=-all"]


@functools.cache
def others_can_run_python() -> bool:
    """Without bubblewrap the dropped user needs a way to this Python by its real path."""
    python = ["prlimit", "--core=0", sys.executable, "-I", "-c", "import torch"]
    command = [*drop_privileges(new_uid()), *python]
    return subprocess.run(command, capture_output=True).returncode == 0


def prlimit(limits: Limits) -> list[str]:
    """Limits of every single process; `watch` looks after their sum."""
    processes = limits.processes
    if os.geteuid() != 0:  # kernels before 5.14 count what the user runs outside, too
        processes += sum(
            process.info["num_threads"] or 0
            for process in psutil.process_iter(["uids", "num_threads"])
            if process.info["uids"] and process.info["uids"].real == os.getuid()
        )
    return [
        "prlimit",
        f"--nproc={processes}",
        f"--as={limits.memory + (6 << 30)}",  # torch maps more than it uses
        f"--cpu={int(limits.budget) + 10}",
        f"--fsize={limits.disk}",
        "--nofile=256",
        "--core=0",
        "--msgqueue=0",
        "--sigpending=1024",
    ]


def usage(pid: int) -> tuple[float, int]:
    """CPU seconds used and bytes held by a process and all that it started.

    Children that ended are in the values of the process that waited for them.
    """
    cpu, memory = 0.0, 0
    try:
        top = psutil.Process(pid)
        tree = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return cpu, memory
    for process in tree:
        try:
            with process.oneshot():
                cpu += sum(process.cpu_times()[:4])
                memory += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return cpu, memory


def files_made(pid: int) -> int:
    """Files in the temporary folders of a sandbox, or 0 where it cannot be looked into."""
    try:
        inner = psutil.Process(pid).children(recursive=True)[-1].pid
        folders = [os.statvfs(f"/proc/{inner}/root/{name}") for name in ("tmp", "dev/shm")]
    except (psutil.NoSuchProcess, IndexError, OSError):
        return 0
    return sum(folder.f_files - folder.f_ffree for folder in folders)


def kill_all(process: SandboxProcess) -> None:
    """Kill a spawned process and all that it started, and see them gone.

    In the sandbox its first process is the head of a PID namespace: the kernel ends everything in
    there with it, before it is reported dead. Without, children that hid themselves may survive,
    except as root, where they are found by their user.
    """
    try:
        tree = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        tree = []
    for child in tree:  # first among them the head of the namespace, for which bwrap waits
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    if process.unsafe or not tree:
        process.kill()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
    if process.uid is not None:
        while left := [
            p for p in psutil.process_iter(["uids"]) if process.uid in (p.info["uids"] or ())
        ]:
            for survivor in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    survivor.kill()
            psutil.wait_procs(left, timeout=5)
    _, left = psutil.wait_procs(tree, timeout=30)
    if alive := [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        raise RuntimeError(f"{len(alive)} processes of a submission cannot be killed")
