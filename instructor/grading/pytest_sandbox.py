"""A pytest plugin: `--isolated` runs students' code in the sandbox; tests/conftest.py loads it."""

import pytest


def pytest_configure(config):
    try:
        from instructor.isolation.check import require
        from instructor.isolation.sandbox import Limits, SandboxedWorker, SandboxError
    except ModuleNotFoundError as error:
        raise pytest.UsageError(f"{error}; --isolated needs instructor/requirements.txt") from error
    unsafe = config.getoption("--unsafe")
    try:
        require(unsafe)
    except SandboxError as error:
        raise pytest.UsageError(str(error)) from error

    def worker(folder, seconds, budget):
        return SandboxedWorker(folder, Limits(seconds, budget), unsafe)

    config.worker_class = worker
