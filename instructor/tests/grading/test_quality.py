"""quality.py: what the parent accepts from a model's process, and what it does with codes."""

import io
import json

import numpy as np
import pytest

pytest.importorskip("psutil", reason="needs instructor/requirements.txt")

import train
from instructor.grading.hidden import make_hidden
from instructor.grading.quality import (
    QualityError,
    blur,
    flags,
    measure,
    read_array,
    read_codes,
    read_digits,
    read_reply,
)
from instructor.isolation.sandbox import Limits
from kit.assignment import tasks_of
from kit.files import ROOT

pytestmark = pytest.mark.staff


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def declared(**changes) -> dict:
    return {"kind": "float", "latent_dim": 3, "num_categories": 0} | changes


def test_array_of_the_expected_form_is_read():
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert np.array_equal(read_array(npy(array), "<f4", (4, 3), "x"), array)


@pytest.mark.parametrize(
    "data",
    [
        npy(np.zeros((4, 3))),
        npy(np.zeros((4, 3), ">f4")),
        npy(np.zeros((4, 3), np.float32, order="F")),
        npy(np.zeros((4, 3, 1), np.float32)),
        npy(np.zeros((3, 4), np.float32)),
        npy(np.zeros((4, 3), np.float32))[:-1],
        npy(np.zeros((4, 3), np.float32)) + b"0",
        npy(np.array([["x"] * 3] * 4, dtype=object)),
        npy(np.full((4, 3), np.nan, np.float32)),
        npy(np.full((4, 3), -np.inf, np.float32)),
        b"",
        b"\x93NUMPY",
    ],
)
def test_any_other_array_is_refused(data):
    with pytest.raises(QualityError):
        read_array(data, "<f4", (4, 3), "x")


@pytest.mark.parametrize(
    ("declaration", "codes"),
    [
        (declared(kind="pickle"), np.zeros((4, 3), np.float32)),
        (declared(kind=["float"]), np.zeros((4, 3), np.float32)),
        (declared(kind=None), np.zeros((4, 3), np.float32)),
        (declared(kind="bernoulli"), np.zeros((4, 3), np.uint8)),
        (declared(latent_dim=0), np.zeros((4, 0), np.float32)),
        (declared(latent_dim=785), np.zeros((4, 785), np.float32)),
        (declared(latent_dim=True), np.zeros((4, 1), np.float32)),
        (declared(latent_dim=3.0), np.zeros((4, 3), np.float32)),
    ],
)
def test_odd_codes_are_refused(declaration, codes):
    with pytest.raises(QualityError):
        read_codes(declaration, npy(codes), 4, "VAEwolabel")


@pytest.mark.parametrize(
    ("declaration", "codes"),
    [
        (declared(), np.zeros((4, 3), np.float32)),
        (declared(kind="bernoulli"), np.full((4, 3), 2, np.uint8)),
        (declared(kind="categorical", num_categories=1), np.zeros((4, 3), np.int16)),
        (declared(kind="categorical", num_categories=257), np.zeros((4, 3), np.int16)),
        (declared(kind="categorical", num_categories=5), np.full((4, 3), 5, np.int16)),
        (declared(kind="categorical", num_categories=5), np.full((4, 3), -1, np.int16)),
    ],
)
def test_odd_discrete_codes_are_refused(declaration, codes):
    with pytest.raises(QualityError):
        read_codes(declaration, npy(codes), 4, "JSA")


@pytest.mark.parametrize(
    ("kind", "categories", "codes"),
    [
        ("float", 0, np.zeros((4, 3), np.float32)),
        ("bernoulli", 0, np.zeros((4, 3), np.uint8)),
        ("categorical", 2**15, np.zeros((4, 3), np.int16)),
        ("categorical", 12_544, np.full((4, 3), 12_544, np.int16)),
        ("categorical", True, np.zeros((4, 3), np.int16)),
    ],
)
def test_odd_choices_of_patches_are_refused(kind, categories, codes):
    with pytest.raises(QualityError):
        read_codes(declared(kind=kind, num_categories=categories), npy(codes), 4, "CGAE")


def test_choices_of_patches_are_taken():
    codes = np.full((4, 3), 12_543, np.int16)
    declaration = declared(kind="categorical", num_categories=12_544)
    found, bits = read_codes(declaration, npy(codes), 4, "CGAE")
    assert np.array_equal(found, codes) and bits == pytest.approx(3 * np.log2(12_544))


def test_a_cgae_upload_is_graded(tmp_path, monkeypatch, small_data):
    """All the way: trained, encoded and decoded in two sandboxes, and worth no points."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "upload").mkdir()
    flags = ["--task", "CGAE", "--latent_dim", "3", "--num_prototypes", "4", "--epochs", "1"]
    train.main([*flags, "--data_dir", str(small_data), "--save_dir", "run", "--device", "cpu"])
    (tmp_path / "upload" / "CGAE.pth").write_bytes((tmp_path / "run" / "best.pth").read_bytes())
    (tmp_path / "upload" / "submission.py").write_bytes((ROOT / "submission.py").read_bytes())
    tmp_path.chmod(0o755)
    hidden = make_hidden("sample", "a test of patches", limit=20)
    results, _ = measure(tmp_path / "upload", hidden, Limits(), tasks_of(("4", "5")), unsafe=True)
    assert results["JSA"].reason == "JSA.pth was not handed in"
    found = results["CGAE"]
    assert found.reason == "" and found.points == found.max_points == 0
    assert found.metrics.code_length == 3 and found.metrics.raw > 0
    assert found.metrics.bits == pytest.approx(3 * np.log2(4 * 784), abs=1e-5)


def test_bits_are_counted_by_the_parent():
    bits = read_codes(declared(kind="bernoulli"), npy(np.ones((4, 3), np.uint8)), 4, "JSA")[1]
    categories = declared(kind="categorical", num_categories=8)
    assert bits == 3
    assert read_codes(categories, npy(np.zeros((4, 3), np.int16)), 4, "JSA")[1] == 9
    assert read_codes(declared(), npy(np.zeros((4, 3), np.float32)), 4, "Genwithlabel")[1] == 96


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\n",
        b"{}",
        b"[1]\n",
        b"{" * 3000 + b"\n",
        b'{"x": "' + b"x" * 5000 + b'"}\n',
        b'{"error": {"points": 30}}\n',
        json.dumps({"error": "\x1b[2J"}).encode() + b"\n",
    ],
)
def test_odd_replies_are_refused(reply):
    with pytest.raises(QualityError) as caught:
        read_reply(reply)
    assert str(caught.value).isprintable()


def test_of_an_error_only_its_kind_is_told():
    secret = json.dumps({"error": "pixel 12 is 200", "kind": "ValueError"}).encode() + b"\n"
    with pytest.raises(QualityError, match="ValueError") as caught:
        read_reply(secret)
    assert "200" not in str(caught.value) and caught.value.detail == "pixel 12 is 200"
    with pytest.raises(QualityError) as caught:
        read_reply(b'{"error": "", "kind": "Pixel12Is200"}\n')
    assert "200" not in str(caught.value)


def test_blur_is_small_and_ruins_packed_digits():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(1000, 20)).astype(np.float32)
    error = blur(codes, np.random.default_rng(1)) - codes
    assert 0.04 < error.std() < 0.06
    # 16 bits below the first digits: no trace of them is left.
    packed = (codes.view(np.uint32) & 0xFFFF0000 | 0x1234).view(np.float32)
    low = blur(packed, np.random.default_rng(1)).view(np.uint32) & 0xFFFF
    assert np.mean(low == 0x1234) < 0.001


def test_blur_keeps_constants_bits_and_finiteness():
    rng = np.random.default_rng(0)
    constant = np.full((10, 2), 3.25, np.float32)
    assert np.array_equal(blur(constant, rng), constant)
    bits = np.ones((10, 2), np.uint8)
    assert blur(bits, rng) is bits
    large = np.array([[3e38], [-3e38]] * 5, np.float32)
    assert np.isfinite(blur(large, rng)).all()


def test_flags(sample):
    images = sample[0]
    noise = np.random.default_rng(0).integers(256, size=(1000, 28, 28), dtype=np.uint8)
    assert flags(noise) == []
    assert flags(np.concatenate([images[:1], noise[1:]])) == [
        "1 of 1,000 samples are images of the training data"
    ]
    assert "repeat: 1 different" in flags(np.repeat(noise[:1], 1000, axis=0))[0]


def test_the_classifier_reads_digits(sample):
    images, labels = sample
    assert np.mean(read_digits(images[:500]).argmax(axis=1) == labels[:500]) > 0.9
