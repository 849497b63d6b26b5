"""Seeds and small data for the tests of the provided code and of staff's rooms."""

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import data_utils


@pytest.fixture(autouse=True)
def threads():
    """One thread, unless OMP_NUM_THREADS says otherwise; anew for each test, since the toy sets it.

    Small tensors are faster on one, and much faster where the cores are shared. The processes that
    tests start get the same number, since equal weights need equal numbers of threads.
    """
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))


@pytest.fixture(autouse=True)
def seeded(request):
    """Seed all random numbers of a test by its name and --seed, whatever ran before it."""
    seed = request.config.getoption("--seed", default=None) or 0
    name = zlib.crc32(request.node.nodeid.encode())
    data_utils.set_seed(int(np.random.SeedSequence([seed, name]).generate_state(1)[0]))


@pytest.fixture(scope="session")
def sample():
    """Images and labels of the bundled sample."""
    return data_utils.read_npz(data_utils.SAMPLE_FILE)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory, sample) -> Path:
    """A data folder with 60 training and 20 validation digits."""
    folder = tmp_path_factory.mktemp("data")
    order = np.random.default_rng(0).permutation(5000)
    for name, part in (("train", order[:60]), ("valid", order[60:80])):
        np.savez(folder / f"{name}.npz", images=sample[0][part], labels=sample[1][part])
    return folder


def idx_bytes(array: np.ndarray) -> bytes:
    sizes = np.array(array.shape, dtype=">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def idx_folder(tmp_path, sample) -> Path:
    """The four IDX files, 120 training and 40 test digits; two of them gzipped."""
    folder = tmp_path / "idx"
    folder.mkdir()
    order = np.random.default_rng(1).permutation(5000)
    for prefix, part in (("train", order[:120]), ("t10k", order[120:160])):
        images, labels = sample[0][part], sample[1][part]
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        packed = gzip.compress(idx_bytes(labels))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(packed)
    return folder
