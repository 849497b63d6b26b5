"""The table of samples: on a model that was not trained, what it says must be bad."""

import numpy as np
import pytest
import torch

pytest.importorskip("psutil", reason="needs instructor/requirements.txt")

import submission
from data_utils import SAMPLE_FILE, read_npz
from instructor.research import samples
from kit.files import write_arrays
from kit.settings import RunSettings, VAESettings, to_config
from kit.tasks import make_task

pytestmark = pytest.mark.staff


def test_nearest_is_a_mean_euclidean_distance():
    train = np.zeros((3, 28, 28), np.uint8)
    train[1], train[2, 0, 0] = 255, 255
    images = np.zeros((2, 28, 28), np.uint8)
    images[1, 0, :2] = 255
    assert samples.nearest(images, train) == pytest.approx((0 + 1) / 2)


def test_table_of_an_untrained_model(tmp_path, capsys):
    images, labels = read_npz(SAMPLE_FILE)
    for split, start in (("train", 0), ("valid", 7)):
        some = slice(start, None, 100)
        write_arrays(tmp_path / f"{split}.npz", images=images[some], labels=labels[some])
    settings = VAESettings(latent_dim=3)
    task = make_task(submission, settings)
    config = to_config(settings, RunSettings(data_dir=str(tmp_path)))
    checkpoint = {"model_state_dict": task.state_dict(), "config": config}
    torch.save(checkpoint, tmp_path / "best.pth")
    samples.main([str(tmp_path / "best.pth")])
    header, line, row = capsys.readouterr().out.splitlines()
    assert header.count("|") == line.count("|") == row.count("|")
    mse, ssim, fid = (float(cell) for cell in row.split("|")[2:5])
    assert mse > 0.05 and abs(ssim) < 0.3 and fid > 10  # grey images
