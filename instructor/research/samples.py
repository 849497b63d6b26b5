"""Tell whether the samples of trained models are digits, and new ones.

    python -m instructor samples CHECKPOINT [CHECKPOINT ...]

Prints for each checkpoint, on the validation digits, what `grade.py` measures, and of the 1,000
samples and of the reconstructions: the confidence of the classifier (the mean over images of the
largest of its ten probabilities), and the distance to the nearest training image (Euclidean, pixels
in [0, 1], mean over images). Samples nearer to the training images than the reconstructions of
digits that were not trained on would be memorised.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.distance import cdist

import inference
from data_utils import JsaDataset, ensure_prepared, load_split, set_seed
from grade import SAMPLES_PER_CLASS, evaluate
from instructor.door import make_parser, positive
from instructor.grading.quality import read_digits
from kit.settings import CODES, run_from_config


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("checkpoints", nargs="+", type=Path, help="of train.py")
    parser.add_argument("--code", choices=CODES, help="JSA: encode in another way")
    parser.add_argument("--code_draws", type=positive(int), help="JSA: ... with other draws")
    parser.add_argument("--code_steps", type=positive(int), help="JSA: ... with other steps")
    args = parser.parse_args(argv)
    columns = ("MSE", "SSIM", "FID", "raw", "confidence (recon.)", "nearest (recon.)")
    print("| checkpoint |", " | ".join(columns), "|")
    print("|---" * (len(columns) + 1) + "|")
    for checkpoint in args.checkpoints:
        print(f"| {checkpoint} |", " | ".join(row_of(checkpoint, args)), "|", flush=True)


def row_of(checkpoint: Path, args: argparse.Namespace) -> list[str]:
    device = torch.device("cpu")
    task, config = inference.load_task(checkpoint, {}, device)
    for name in ("code", "code_draws", "code_steps"):
        if (value := getattr(args, name)) is not None:
            setattr(task.settings, name, value)
    data_dir = run_from_config(config).data_dir
    ensure_prepared(data_dir)
    images, labels = load_split(data_dir, "valid")
    train = load_split(data_dir, "train")[0]
    set_seed(0)
    dataset = JsaDataset(images, labels, task.settings.binarize).frozen()
    codes = inference.encode(task, dataset, task.settings.latent_dim, device)
    recon = inference.decode(task, codes, labels, device)
    sample_labels = np.repeat(np.arange(10), SAMPLES_PER_CLASS)
    samples = inference.generate(task, sample_labels, device)
    of_task = task.settings.task, images, labels, codes
    found = evaluate(*of_task, recon, samples, sample_labels)
    sure, sure_recon = (read_digits(shown).max(axis=1).mean() for shown in (samples, recon))
    near, near_recon = (nearest(shown, train) for shown in (samples, recon))
    return [
        *(f"{found[name]:.{digits}f}" for name, digits in (("mse", 4), ("ssim", 3), ("fid", 2))),
        f"{found['raw']:.2f}",
        f"{sure:.3f} ({sure_recon:.3f})",
        f"{near:.2f} ({near_recon:.2f})",
    ]


def nearest(images: np.ndarray, train: np.ndarray) -> float:
    """Mean distance of images, uint8 [N, 28, 28], to the nearest of `train`."""
    a, b = (group.reshape(len(group), -1) / 255 for group in (images, train))
    return float(cdist(a, b).min(axis=1).mean())
