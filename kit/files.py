"""Files: atomic writes, .npz archives, fingerprints. It imports no torch."""

import contextlib
import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DATA_DIR = "dataset"  # where the split files are unless --data_dir says otherwise


class DataError(Exception):
    """Bad input data; the message says what was wrong, what was expected and what to do."""


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, renamed to `path` only when the block succeeds.

    A crash, a full disk or a kill while writing leaves whatever `path` held before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}")  # one name: a killed run's is written over
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def read_arrays(path: str | Path, *names: str) -> list[np.ndarray]:
    """Read the named arrays of one .npz file.

    Raises:
        DataError: the file is missing or damaged, or lacks one of the arrays.
    """
    try:
        if not Path(path).is_file():
            raise DataError(f"{path} does not exist")
        with np.load(path, allow_pickle=False) as archive:
            return [archive[name] for name in names]
    except KeyError as error:
        raise DataError(f"{path} lacks an array: {error.args[0]}") from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error})") from error


def write_arrays(path: str | Path, **arrays: np.ndarray) -> None:
    """Write a compressed .npz file."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def fingerprint(images: np.ndarray) -> str:
    """SHA-256 of the pixels, to tell whether two runs saw the same images."""
    return hashlib.sha256(images.tobytes()).hexdigest()
