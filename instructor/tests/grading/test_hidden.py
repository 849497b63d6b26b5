"""The hidden split: what the secret decides, how far a digit moves, and who may read the file."""

import os
import stat

import numpy as np
import pytest

from grade import mean_ssim
from instructor.grading import hidden as hidden_module
from instructor.grading.hidden import (
    choose,
    load_hidden,
    main,
    make_hidden,
    save_hidden,
    secret_rng,
    transform,
)
from instructor.tests.conftest import idx_bytes
from kit.files import DataError

SECRET = "correct horse battery"
ARRAYS = ("images", "plain", "labels")


@pytest.fixture(scope="module")
def hidden():
    return make_hidden("sample", SECRET, limit=100)


def blobs(row: float, column: float, count: int) -> np.ndarray:
    """A round spot of standard deviation 2 at one place, `count` times."""
    rows, columns = np.mgrid[:28, :28]
    spot = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 8)
    return np.repeat(np.rint(255 * spot).astype(np.uint8)[None], count, axis=0)


def centroids(images: np.ndarray) -> np.ndarray:
    """Row and column of each image's centre of mass, [N, 2]."""
    mass = images.sum(axis=(1, 2))
    axis = np.arange(28)
    return np.stack([images.sum(axis=2) @ axis / mass, images.sum(axis=1) @ axis / mass], axis=1)


def test_the_secret_decides(hidden):
    again = make_hidden("sample", SECRET, limit=100)
    other = make_hidden("sample", SECRET + "!", limit=100)
    for name in ARRAYS:
        assert getattr(hidden, name).tobytes() == getattr(again, name).tobytes()
        assert getattr(hidden, name).tobytes() != getattr(other, name).tobytes()
    assert hidden.noise_seed == again.noise_seed != other.noise_seed
    assert (np.diff(hidden.labels.astype(int)) < 0).any()  # shuffled, not by class


@pytest.mark.parametrize("secret", ["", "1234567", "      12      "])
def test_a_short_secret_is_refused(secret, tmp_path):
    with pytest.raises(DataError, match="8 characters or more"):
        secret_rng(secret)
    with pytest.raises(SystemExit, match=r"^error: --seed"):
        main(["--source", "sample", "--seed", secret, "--out", str(tmp_path / "h.npz")])
    assert list(tmp_path.iterdir()) == []


def test_any_text_is_a_secret():
    numbers = {
        secret_rng(text).integers(2**62) for text in ("pässwörd 🔑", "\udcff" * 8, "\ud800" * 8)
    }
    assert len(numbers) == 3


def test_no_change_within_ranges_of_zero(sample):
    images = sample[0][::50]
    assert np.array_equal(transform(images, secret_rng(SECRET), 0, 0, 0), images)


def test_a_spot_moves_within_the_bounds():
    rng = secret_rng(SECRET)
    moves = centroids(transform(blobs(13.5, 13.5, 300), rng)) - 13.5
    # 8 bits and bilinear interpolation blur the centroid by less than 0.02.
    assert 0.95 < np.abs(moves).max() < 1.02
    assert np.abs(moves.mean(axis=0)).max() < 0.2  # 6 sigma of the mean of 300 are 0.2
    assert moves.min() < -0.9 < 0.9 < moves.max()
    # Eight pixels from the centre, scale adds 0.05 * 8 along and the angle 8.4 * sin(5 deg) across.
    moves = centroids(transform(blobs(13.5, 21.5, 300), rng)) - (13.5, 21.5)
    assert np.abs(moves[:, 0]).max() < 1 + 8.4 * np.sin(np.deg2rad(5)) + 0.05
    assert np.abs(moves[:, 1]).max() < 1.4 + 0.1
    scaled = centroids(transform(blobs(13.5, 21.5, 300), rng, 0, 0, 0.05)) - (13.5, 21.5)
    assert 0.35 < scaled[:, 1].max() < 0.45
    assert np.abs(scaled[:, 0]).max() < 0.02
    turned = centroids(transform(blobs(13.5, 21.5, 300), rng, 0, 5, 0)) - (13.5, 13.5)
    angles = np.rad2deg(np.arctan2(turned[:, 0], turned[:, 1]))
    assert 4.7 < np.abs(angles).max() < 5.1
    assert np.allclose(np.linalg.norm(turned, axis=1), 8, atol=0.03)


def test_the_digits_stay_readable_and_differ(hidden):
    assert hidden.images.dtype == np.uint8 and hidden.images.shape == (100, 28, 28)
    assert 0.5 < mean_ssim(hidden.plain, hidden.images) < 0.95
    assert (hidden.images != hidden.plain).any(axis=(1, 2)).all()


def test_equal_shares_as_far_as_possible():
    labels = np.repeat(np.arange(10), [3, *[50] * 9])
    chosen = choose(labels, 100, np.random.default_rng(0))
    counts = np.bincount(labels[chosen], minlength=10)
    assert len(set(chosen.tolist())) == 100
    assert counts[0] == 3 and set(counts[1:].tolist()) == {10, 11}
    assert sorted(choose(labels, 1000, np.random.default_rng(0))) == list(range(len(labels)))


def test_command_line(tmp_path, capsys):
    out = tmp_path / "h.npz"
    command = ["--source", "sample", "--seed", SECRET, "--limit", "100", "--out", str(out)]
    main(command)
    output = capsys.readouterr()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert output.err.startswith("WARNING: the images of --source sample are public")
    assert "repository" not in output.err
    found = load_hidden(out)
    assert f"{out}: 100 images from sample" in output.out and found.sha256 in output.out
    assert SECRET.encode() not in out.read_bytes()
    before = out.read_bytes()
    with pytest.raises(SystemExit, match="exists; --overwrite"):
        main(command)
    assert out.read_bytes() == before
    main([*command, "--overwrite", "--limit", "50"])
    assert len(load_hidden(out).labels) == 50
    assert [path.name for path in tmp_path.iterdir()] == ["h.npz"]


def test_no_moment_with_wider_permission(tmp_path, hidden, monkeypatch):
    """The mode is right before the first byte, whatever the umask and a killed run have left."""
    seen = []
    save = np.savez_compressed

    def spy(file, **arrays):
        seen.append(os.fstat(file.fileno()))
        save(file, **arrays)

    monkeypatch.setattr(np, "savez_compressed", spy)
    (tmp_path / ".tmp-h.npz").write_text("left behind, readable by all")
    before = os.umask(0)
    try:
        save_hidden(hidden, tmp_path / "h.npz")
    finally:
        os.umask(before)
    assert [(stat.S_IMODE(status.st_mode), status.st_size) for status in seen] == [(0o600, 0)]
    assert stat.S_IMODE((tmp_path / "h.npz").stat().st_mode) == 0o600


def test_a_path_inside_the_repository_is_warned_of(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hidden_module, "ROOT", tmp_path)
    command = ["--source", "sample", "--seed", SECRET, "--limit", "10"]
    main([*command, "--out", str(tmp_path / "h.npz")])
    assert "inside the repository" in capsys.readouterr().err


def test_a_folder_with_its_own_test_part(idx_folder, tmp_path, capsys, sample):
    out = tmp_path / "h.npz"
    command = ["--source", str(idx_folder), "--seed", SECRET, "--out", str(out)]
    with pytest.raises(SystemExit, match="no image of class 5"):  # of 40 random digits
        main(command)
    images, labels = sample[0][::100], sample[1][::100]
    (idx_folder / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (idx_folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx_bytes(labels))
    main(command)
    assert "WARNING" not in capsys.readouterr().err
    found = load_hidden(out)
    pairs = zip(map(bytes, images), labels, strict=True)
    assert sorted(zip(map(bytes, found.plain), found.labels, strict=True)) == sorted(pairs)
    assert found.source == str(idx_folder)


def test_errors_are_one_line(tmp_path):
    command = ["--seed", SECRET, "--out", str(tmp_path / "h.npz"), "--source"]
    for more in (["nowhere"], ["sample", "--limit", "9"], ["sample", "--out", "/dev/null/h.npz"]):
        with pytest.raises(SystemExit, match=r"^error: [^\n]+$"):
            main(command + more)


def test_load_says_what_is_wrong(tmp_path, hidden):
    path = tmp_path / "h.npz"
    with pytest.raises(DataError, match="does not exist; make it with"):
        load_hidden(path)
    save_hidden(hidden, path)
    good = path.read_bytes()
    back = load_hidden(path)
    assert all(np.array_equal(getattr(back, name), getattr(hidden, name)) for name in ARRAYS)
    assert (back.noise_seed, back.sha256) == (hidden.noise_seed, hidden.sha256)
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 255
    for content in (b"", b"text", good[:-40], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is damaged"):
            load_hidden(path)
    fields = {name: getattr(hidden, name) for name in (*ARRAYS, "source")}
    fields["noise_seed"] = np.uint64(1)
    few = {name: fields[name][fields["labels"] != 3] for name in ARRAYS}
    for change, message in (
        ({"noise_seed": 1}, "another version"),
        ({"plain": hidden.plain[:-1]}, "99 images need"),
        ({"images": hidden.images / 255}, "must be uint8"),
        (few, "no image of class 3"),
    ):
        np.savez(path, **(fields | change))
        with pytest.raises(DataError, match=message):
            load_hidden(path)
    np.savez(path, images=hidden.images, labels=hidden.labels)  # the format of data_utils
    with pytest.raises(DataError, match=r"another version .*plain"):
        load_hidden(path)
