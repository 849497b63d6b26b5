"""data_utils.py: sources, splits, damaged files, the dataset."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch

import data_utils
from data_utils import DataError, JsaDataset, OwnExamples, make_loader, prepare


def test_bundled_sample_is_what_the_data_card_says(sample):
    images, labels = sample
    assert images.shape == (5000, 28, 28) and images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [500] * 10
    digest = hashlib.sha256(data_utils.SAMPLE_FILE.read_bytes()).hexdigest()
    assert digest in data_utils.SAMPLE_FILE.with_name("README.md").read_text()
    assert data_utils.SAMPLE_FILE.stat().st_size < 1_300_000


def test_one_pool_is_cut_5_1_1_by_class(tmp_path, sample):
    manifest = prepare("sample", tmp_path, seed=3)
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
    assert manifest["seed"] == 3 and manifest["source"] == "sample"
    seen = []
    for name, share in (("train", 5 / 7), ("valid", 1 / 7), ("test", 1 / 7)):
        images, labels = data_utils.load_split(tmp_path, name)
        assert len(labels) == manifest["counts"][name]
        assert np.abs(np.bincount(labels) - 500 * share).max() < 2
        digest = hashlib.sha256((tmp_path / f"{name}.npz").read_bytes()).hexdigest()
        assert digest == manifest["sha256"][f"{name}.npz"]
        seen += [image.tobytes() for image in images]
    assert sorted(seen) == sorted(image.tobytes() for image in sample[0])
    assert prepare("sample", tmp_path / "again", seed=3) == manifest
    assert prepare("sample", tmp_path / "other", seed=4)["sha256"] != manifest["sha256"]


def test_idx_folder_keeps_its_test_part(tmp_path, idx_folder):
    manifest = prepare(str(idx_folder), tmp_path / "out")
    assert manifest["counts"] == {"train": 100, "valid": 20, "test": 40}
    test_images, _ = data_utils.load_split(tmp_path / "out", "test")
    original = data_utils.read_idx(idx_folder / "t10k-images-idx3-ubyte", ndim=3)
    assert np.array_equal(test_images, original)


def test_test_part_alone_is_one_pool(tmp_path, idx_folder):
    for file in idx_folder.glob("train-*"):
        file.unlink()
    assert sum(prepare(str(idx_folder), tmp_path / "out")["counts"].values()) == 40


def test_download_reads_torchvisions_folder(tmp_path, idx_folder):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in idx_folder.iterdir():
        name = file.name.removesuffix(".gz")
        data = data_utils.gzip.open(file).read() if file.suffix == ".gz" else file.read_bytes()
        (raw / name).write_bytes(data)
    assert prepare("download", tmp_path / "data")["counts"]["test"] == 40


def test_failed_download_names_the_alternatives(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried a, got:\nb")

    monkeypatch.setattr(data_utils.import_torchvision().datasets, "MNIST", no_network)
    with pytest.raises(SystemExit) as stop:
        data_utils.main(["--source", "download", "--data_dir", str(tmp_path)])
    message = str(stop.value)
    assert message.count("\n") == 0 and "--source sample" in message and "FOLDER" in message


def damage(name):
    """A way to spoil the IDX file or folder, and a word the message must have."""

    def truncate(folder):
        file = folder / "train-images-idx3-ubyte"
        file.write_bytes(file.read_bytes()[:-1])

    def truncate_gzip(folder):
        file = folder / "train-labels-idx1-ubyte.gz"
        file.write_bytes(file.read_bytes()[:-9])

    def not_idx(folder):
        (folder / "train-images-idx3-ubyte").write_bytes(b"<html>not found</html>")

    def empty(folder):
        (folder / "train-images-idx3-ubyte").write_bytes(b"")

    def wrong_shape(folder):
        from instructor.tests.conftest import idx_bytes

        images = np.zeros((120, 32, 32), np.uint8)
        (folder / "train-images-idx3-ubyte").write_bytes(idx_bytes(images))

    def fewer_labels(folder):
        shutil.copy(folder / "t10k-labels-idx1-ubyte.gz", folder / "train-labels-idx1-ubyte.gz")

    def half_missing(folder):
        (folder / "train-labels-idx1-ubyte.gz").unlink()

    def all_missing(folder):
        for file in folder.iterdir():
            file.unlink()

    return locals()[name]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("truncate", "damaged"),
        ("truncate_gzip", "cannot be read"),
        ("not_idx", "not an IDX file"),
        ("empty", "nothing"),
        ("wrong_shape", "28, 28"),
        ("fewer_labels", "120 labels"),
        ("half_missing", "missing"),
        ("all_missing", "no IDX files"),
    ],
)
def test_damaged_sources_leave_the_old_splits(tmp_path, idx_folder, name, word):
    out = tmp_path / "out"
    before = prepare(str(idx_folder), out)
    damage(name)(idx_folder)
    with pytest.raises(DataError, match=word):
        prepare(str(idx_folder), out)
    after = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.glob("*.npz")}
    assert after == before["sha256"]
    assert sorted(p.name for p in out.iterdir()) == sorted([*after, "manifest.json"])


def test_damaged_split_files(tmp_path):
    (tmp_path / "train.npz").write_bytes(b"PK\x03\x04 torn")
    np.savez(tmp_path / "half.npz", images=np.zeros((2, 28, 28), np.uint8))
    np.savez(tmp_path / "flat.npz", images=np.zeros((2, 784), np.uint8), labels=np.zeros(2, int))
    np.savez(tmp_path / "odd.npz", images=np.zeros((2, 28, 28), np.uint8), labels=np.full(2, 10))
    for name, word in (
        ("train", "damaged"),
        ("half", "labels"),
        ("flat", "28, 28"),
        ("odd", "0 to 9"),
        ("none", "not exist"),
    ):
        with pytest.raises(DataError, match=word):
            data_utils.load_split(tmp_path, name)


def test_only_the_default_folder_prepares_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="elsewhere has no train"):
        data_utils.ensure_prepared("elsewhere")
    data_utils.ensure_prepared("dataset")
    assert "train 3,572" in capsys.readouterr().out
    data_utils.ensure_prepared("dataset")
    assert capsys.readouterr().out == ""


def test_dataset_batches_equal_single_examples(small_data):
    dataset = JsaDataset(*data_utils.load_split(small_data, "train"))
    order = OwnExamples(len(dataset), generator=torch.Generator().manual_seed(0))
    x, labels, index = next(iter(make_loader(dataset, 16, order)))
    assert x.shape == (16, 1, 28, 28) and x.dtype == torch.float32
    assert labels.dtype == index.dtype == torch.int64
    for row, i in enumerate(index.tolist()):
        one_x, one_label, one_index = dataset[i]
        assert one_index == i and one_label == labels[row] and torch.equal(one_x, x[row])


def test_a_pass_has_each_example_once(small_data):
    dataset = JsaDataset(*data_utils.load_split(small_data, "train"))
    shuffled = OwnExamples(len(dataset), generator=torch.Generator().manual_seed(0))
    for order in (shuffled, None):
        loader = make_loader(dataset, 16, order)
        passes = [[index for _, _, index in loader] for _ in range(2)]
        assert all(len(batches) == len(loader) for batches in passes)
        first, second = (torch.cat(batches).tolist() for batches in passes)
        assert sorted(first) == sorted(second) == list(range(len(dataset)))
        assert (first != second) == (order is not None)


def test_dataset_subclass_with_its_own_items():
    class Points(JsaDataset):
        def __getitem__(self, i):
            x, label, _ = super().__getitem__(i)
            return x + 1, label, i

    dataset = Points(np.zeros((5, 2), np.float32), np.zeros(5, int))
    x, _, index = next(iter(make_loader(dataset, 5)))
    assert torch.equal(x, torch.ones(5, 2)) and index.tolist() == [0, 1, 2, 3, 4]


def test_binarization(sample):
    images, labels = sample[0][::50], sample[1][::50]
    everything = list(range(len(images)))
    grey = JsaDataset(images, labels).__getitems__(everything)[0]
    threshold = JsaDataset(images, labels, "threshold").__getitems__(everything)[0]
    assert torch.equal(threshold, (grey > 0.5).float())
    dynamic = JsaDataset(images, labels, "dynamic")
    draws = torch.stack([dynamic.__getitems__(everything)[0] for _ in range(400)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    # 400 draws a pixel: 6 standard deviations of a mean are at most 6 * 0.5 / 20.
    assert (draws.mean(0) - grey).abs().max() < 0.15
    frozen = dynamic.frozen()
    assert torch.equal(frozen.__getitems__(everything)[0], frozen.__getitems__(everything)[0])
    assert (frozen.__getitems__(everything)[0] - grey).abs().mean() < 0.1
