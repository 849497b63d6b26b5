"""Fixtures for the tests of the provided code."""

import pytest


@pytest.fixture
def here(tmp_path, monkeypatch, small_data):
    """An empty working directory whose default data folder is the small one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset").symlink_to(small_data)
    return tmp_path
