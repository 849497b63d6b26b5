"""Fixtures for the tests of the provided code."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import train


@pytest.fixture
def here(tmp_path, monkeypatch, small_data):
    """An empty working directory whose default data folder is the small one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset").symlink_to(small_data)
    return tmp_path


@pytest.fixture(scope="session")
def kept_runs() -> dict[tuple[str, ...], Path]:
    """Folders with complete runs, by the flags of train.py that they were made with."""
    return {}


@pytest.fixture
def trained(here, kept_runs, tmp_path_factory) -> Callable[[list[str], str], None]:
    """`trained(flags, folder)` leaves what train.py does with `--save_dir folder`.

    For tests of what can happen to a run: the first one that asks trains it, others get a copy.
    """

    def make(flags: list[str], folder: str) -> None:
        kept = kept_runs.get(tuple(flags))
        if kept:
            shutil.copytree(kept, folder)
            return
        train.main([*flags, "--save_dir", folder])
        kept = tmp_path_factory.mktemp("kept")
        kept_runs[tuple(flags)] = shutil.copytree(folder, kept, dirs_exist_ok=True)

    return make
