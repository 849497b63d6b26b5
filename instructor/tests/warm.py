"""Python programs in processes that need not import torch: forks of one that has done so.

The import takes 1.5 s, twice as long with an optimizer, and the tests start some fifty programs.
Each is a process of its own all the same: its folder, environment, output and exit status.
"""

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

# Reads one command a line, runs it in a fork, as `python ARGUMENTS` would, and tells its status.
SERVER = """
import atexit, gc, json, os, runpy, sys, traceback
import torch._dynamo  # which the first optimizer imports; that takes as long as torch itself

def execute(arguments, folder, environment, stdout, stderr):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate((os.devnull, stdout, stderr)):
        os.dup2(os.open(name, os.O_WRONLY if number else os.O_RDONLY), number)
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    more = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    if arguments[0] == "-c":
        sys.path[:1], sys.argv = ["", *more], ["-c", *arguments[2:]]
        exec(arguments[1], {"__name__": "__main__"})
    elif arguments[0] == "-m":
        sys.path[:1], sys.argv = [folder, *more], arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[:1], sys.argv = [folder, *more], arguments
        runpy.run_path(arguments[0], run_name="__main__")

def status_of(command):
    try:
        execute(**command)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    else:
        return 0
    return 1

gc.freeze()  # else every fork would look through all of torch, and copy it
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        status = status_of(json.loads(line))
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # taking torch apart takes half a second
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Server:
    """The process that forks; it starts with the first command and ends with the tests."""

    def __init__(self):
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd="/",  # from where nothing of ours is found
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that it can be ended with its children
        )
        atexit.register(self.end)

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def run(self, **command) -> int:
        """The exit status of a command, negative for a signal."""
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
            return int(self.process.stdout.readline())
        except BaseException:  # the time limit of a test, for instance
            self.end()
            the_server.cache_clear()
            raise


@functools.cache
def the_server() -> Server:
    return Server()


def run_python(
    *arguments: str, cwd: Path | str | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """What `subprocess.run([sys.executable, *arguments], ...)` gives, without the imports.

    Elsewhere than on Linux it is just that, since forks of a process with torch are not safe.
    """
    cwd, env = str(Path(cwd or Path.cwd()).resolve()), dict(os.environ if env is None else env)
    command = [str(argument) for argument in arguments]
    if sys.platform != "linux":
        return subprocess.run(
            [sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True
        )
    with tempfile.TemporaryDirectory() as temporary:
        files = {name: Path(temporary, name) for name in ("stdout", "stderr")}
        for file in files.values():
            file.touch()
        paths = {name: str(file) for name, file in files.items()}
        status = the_server().run(arguments=command, folder=cwd, environment=env, **paths)
        return subprocess.CompletedProcess(
            command, status, files["stdout"].read_text(), files["stderr"].read_text()
        )


def run_in_handout(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`run_python` of instructor/handout/checks.py, as a student would run it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    return run_python(*arguments, cwd=folder, env=environment)
