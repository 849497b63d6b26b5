"""grade.py: formulas by hand, and results that must earn nothing."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

import grade
from kit.files import fingerprint


def test_metrics_by_hand():
    a = np.zeros((3, 28, 28), np.uint8)
    b = np.full((3, 28, 28), 51, np.uint8)  # 0.2
    assert grade.mean_squared_error(a, b) == pytest.approx(0.04)
    assert grade.mean_ssim(a, a) == 1.0
    # Means differ by 0.2 at each pixel, standard deviations not at all.
    assert grade.simplified_fid(a, b) == pytest.approx(784 * 0.04)
    # Means 0.1 and 0, standard deviations 0.1 and 0.
    half = np.concatenate([a, b])
    assert grade.simplified_fid(half, a) == pytest.approx(784 * (0.01 + 0.01))
    labels, other = np.array([0, 0, 0, 1, 1, 1]), np.array([1, 1, 1, 0, 0, 0])
    assert grade.class_fid(half, labels, half, labels) == 0
    assert grade.class_fid(half, labels, half, other) == pytest.approx(784 * 0.04)
    assert grade.simplified_fid(half, half[::-1]) == pytest.approx(0)


def test_formulas_by_hand():
    assert grade.compression_bonus(784) == pytest.approx(0.2)
    assert grade.compression_bonus(196) == pytest.approx(0.95)
    assert grade.bits_per_image(20, "float") == 640
    assert grade.bits_per_image(200, "bernoulli") == 200
    assert grade.bits_per_image(20, "categorical", 16) == 80
    numbers = {"mse": 0.02, "ssim": 0.8, "fid": 4.0, "bonus": 1.1}
    assert grade.raw_score("VAEwolabel", **numbers) == pytest.approx((5 * 0.8 + 50 * 0.08) * 1.1)
    expected = (10 * 0.8 + 100 * 0.08 + 6) * 1.1
    assert grade.raw_score("JSA", **numbers) == pytest.approx(expected)
    assert grade.raw_score("Genwithlabel", **numbers) == pytest.approx(expected)
    bad = numbers | {"mse": 0.3, "fid": 30}
    assert grade.raw_score("JSA", **bad) == pytest.approx(8 * 1.1)
    assert grade.grade_of(12.0) == 10 and grade.grade_of(9.5) == 9.5
    assert grade.quality_points("VAEwolabel", 12.0) == 10
    assert grade.quality_points("JSA", 31.0) == 30 and grade.quality_points("JSA", 16.0) == 16


@pytest.fixture
def results(sample):
    """A perfect result: 100 images of each class, coded by themselves."""
    order = np.concatenate([np.flatnonzero(sample[1] == c)[:100] for c in range(10)])
    images, labels = sample[0][order], sample[1][order]
    return {
        "images": images,
        "labels": labels,
        "codes": np.zeros((1000, 20), np.float32),
        "reconstructions": images.copy(),
        "samples": images.copy(),
        "sample_labels": labels.copy(),
    }


def test_perfect_result(results):
    row = grade.evaluate("Genwithlabel", **results)
    assert (row["mse"], row["ssim"], row["fid"]) == (0, 1, 0)
    assert row["raw"] == pytest.approx((10 + 10 + 10) * (1.2 - 20 / 784))


def test_class_mean_decoder_shows_why_quality_points_go_up_to_30(results):
    """A decoder that ignores its code and returns the class mean nearly has the full Grade.

    With a code of one entry the capped Grade is already close to 10 (9.89 was measured on another
    split), while the points still tell it from a model that reconstructs.
    """
    images, labels = results["images"], results["labels"]
    means = np.stack([images[labels == c].mean(axis=0).round() for c in range(10)])
    results["reconstructions"] = results["samples"] = means.astype(np.uint8)[labels]
    results["codes"] = np.zeros((1000, 1), np.float32)
    row = grade.evaluate("Genwithlabel", **results)
    assert row["grade"] > 9.5
    assert row["points"] < 12


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("reconstructions", np.zeros((999, 28, 28), np.uint8), r"\[1000, 28, 28\]"),
        ("reconstructions", np.zeros((1000, 28, 28), np.float32), "uint8"),
        ("codes", np.full((1000, 20), np.nan, np.float32), "not finite"),
        ("codes", np.full((1000, 20), np.inf, np.float32), "not finite"),
        ("codes", np.zeros((1000, 20), np.float64), "float32"),
        ("codes", np.zeros((1000, 785), np.uint8), "1 to 784"),
        ("codes", np.zeros((1000, 0), np.uint8), "1 to 784"),
        ("codes", np.zeros(1000, np.uint8), "codes must be"),
        ("samples", np.zeros((10, 28, 28), np.uint8), "1000, 28, 28"),
        ("sample_labels", np.zeros(1000, np.uint8), "of each class"),
        ("sample_labels", np.full(1000, 12, np.uint8), "of each class"),
        ("sample_labels", np.full(1000, -1, np.int64), "of each class"),
    ],
)
def test_wrong_arrays_earn_nothing(results, name, value, reason):
    with pytest.raises(grade.GradeError, match=reason):
        grade.evaluate("JSA", **results | {name: value})


@pytest.fixture
def run_folder(tmp_path, results):
    """runs/JSA and dataset/ with a perfect result."""
    folder = tmp_path / "runs" / "JSA"
    folder.mkdir(parents=True)
    data = tmp_path / "dataset"
    data.mkdir()
    np.savez(data / "valid.npz", images=results["images"], labels=results["labels"])
    np.savez(folder / "codes.npz", codes=results["codes"].astype(np.uint8))
    np.savez(folder / "reconstructions.npz", images=results["reconstructions"])
    np.savez(folder / "samples.npz", images=results["samples"], labels=results["sample_labels"])
    info = {"task": "JSA", "split": "valid", "code_kind": "bernoulli", "num_categories": 10}
    info["images_sha256"] = fingerprint(results["images"])
    (folder / "inference.json").write_text(json.dumps(info))
    return folder


def test_cli_writes_table_and_json(run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    grade.main([])
    row = json.loads((tmp_path / "grade_result.json").read_text())["JSA"]
    assert row["raw"] == pytest.approx(30 * (1.2 - 20 / 784)) and row["points"] == 30
    assert row["bits"] == 20 and row["reason"] == ""
    assert "30.00 / 30" in capsys.readouterr().out


def spoil(name):
    def missing(folder):
        (folder / "codes.npz").unlink()

    def torn(folder):
        file = folder / "samples.npz"
        file.write_bytes(file.read_bytes()[:1000])

    def flipped(folder):
        file = folder / "reconstructions.npz"
        data = bytearray(file.read_bytes())
        data[2000] ^= 255
        file.write_bytes(bytes(data))

    def objects(folder):
        np.savez(folder / "codes.npz", codes=np.array([{"score": 100}], dtype=object))

    def no_info(folder):
        (folder / "inference.json").unlink()

    def list_info(folder):
        (folder / "inference.json").write_text("[]")

    def other_task(folder):
        file = folder / "inference.json"
        file.write_text(file.read_text().replace("JSA", "VAEwolabel"))

    def other_images(folder):
        images = np.zeros((1000, 28, 28), np.uint8)
        valid = folder.parent.parent / "dataset" / "valid.npz"
        np.savez(valid, images=images, labels=np.zeros(1000, np.uint8))

    def absurd_categories(folder):
        file = folder / "inference.json"
        file.write_text(file.read_text().replace(": 10", ": 1e400"))

    return locals()[name]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "not exist"),
        ("torn", "damaged"),
        ("flipped", "damaged"),
        ("objects", "damaged"),
        ("no_info", "inference.py"),
        ("list_info", "inference.py"),
        ("other_task", "task"),
        ("other_images", "other images"),
        ("absurd_categories", "num_categories"),
    ],
)
def test_spoiled_folders_earn_nothing_and_never_raise(run_folder, name, reason):
    spoil(name)(run_folder)
    row = grade.grade_folder("JSA", run_folder, run_folder.parent.parent / "dataset")
    assert row["points"] == row["raw"] == row["grade"] == 0.0
    assert reason in row["reason"]
    assert "not graded" in grade.format_table({"JSA": row})
    assert not any(isinstance(v, float) and math.isnan(v) for v in row.values())


def test_grade_loads_no_torch():
    code = "import sys, grade; sys.exit('torch' in sys.modules or 'submission' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
