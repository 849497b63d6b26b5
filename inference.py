"""From a checkpoint to codes, reconstructions, samples and pictures.

    python inference.py --checkpoint_path runs/JSA/best.pth

Two steps with nothing but the code between them: encode (image -> code), decode (code -> image).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from data_utils import JsaDataset, ensure_prepared, load_split, make_loader, set_seed, to_uint8
from grade import SAMPLES_PER_CLASS
from kit.assignment import CODE_KINDS, available_tasks
from kit.files import DataError, fingerprint, write_arrays, write_json
from kit.processes import TrainingError, pick_device
from kit.settings import (
    RunSettings,
    SettingsError,
    from_config,
    run_from_config,
    settings_class,
)
from kit.tasks import Task, TaskError, make_task
from kit.todos import explain_error, import_explained, todo_message
from trainer import read_checkpoint

with import_explained(__name__ == "__main__"):
    import submission


class InferenceError(Exception):
    """The model gave something that is no code or no image; the message says what."""


def load_task(checkpoint_path: str, given: dict, device: torch.device) -> tuple[Task, dict]:
    """Rebuild a trained task from its checkpoint.

    Args:
        checkpoint_path: written by train.py, or a bare state dict.
        given: `task` and `latent_dim` from the command line. They must agree with the
            checkpoint's config and stand in for it where there is none.

    Returns:
        The task, in eval mode, and the config.

    Raises:
        TrainingError, InferenceError: the checkpoint is damaged, or does not fit.
    """
    checkpoint = read_checkpoint(checkpoint_path)
    state = checkpoint.get("model_state_dict", checkpoint)
    config = checkpoint.get("config")
    if not isinstance(config, dict | None):
        raise InferenceError(f"{checkpoint_path} is no checkpoint of train.py: its config is odd")
    if config is None:
        if "task" not in given or "latent_dim" not in given:
            raise InferenceError(f"{checkpoint_path} has no config: give --task and --latent_dim")
        config = given | settings_class(given["task"]).seen_in(state)
    for name, value in given.items():
        if config.get(name) != value:
            has = config.get(name)
            raise InferenceError(f"--{name} {value}: {checkpoint_path} has {name} {has}")
    try:
        settings = from_config(config)
    except SettingsError as error:
        raise InferenceError(f"{checkpoint_path} cannot be used: {error}") from error
    task = make_task(submission, settings, device=device)
    if not task.has_images:
        raise InferenceError(f"{checkpoint_path} is the 2-D toy: it has no images, only toy.png")
    try:
        task.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split("\n")[:2])
        raise InferenceError(
            f"{checkpoint_path} does not fit submission.py, or another task or latent_dim: {first}"
        ) from error
    task.model.eval()
    return task, config


@torch.no_grad()
def encode(task: Task, dataset: JsaDataset, latent_dim: int, device: torch.device) -> np.ndarray:
    """The codes of a split, [N, latent_dim], in the dtype of CODE_KINDS."""
    dtype = getattr(torch, CODE_KINDS[task.code_kind].dtype)
    codes = []
    for x, labels, _ in make_loader(dataset, 500):
        code = task.encode(x.to(device), labels.to(device))
        if tuple(code.shape) != (len(x), latent_dim):
            raise InferenceError(f"a code must be [{len(x)}, {latent_dim}], not {list(code.shape)}")
        if not torch.isfinite(code).all():
            raise InferenceError("the encoder gave numbers that are not finite")
        codes.append(code.to(dtype).cpu().numpy())
    return np.concatenate(codes)


@torch.no_grad()
def decode(task: Task, codes: np.ndarray, labels: np.ndarray, device: torch.device) -> np.ndarray:
    """Images of codes, uint8 [N, 28, 28]; nothing but codes and labels goes in."""
    dtype = getattr(torch, CODE_KINDS[task.code_kind].in_model)
    images = []
    for start in range(0, len(codes), 500):
        code = torch.as_tensor(codes[start : start + 500]).to(device, dtype)
        label = torch.as_tensor(labels[start : start + 500]).to(device, torch.int64)
        images.append(checked_uint8(task.decode(code, label), "decode"))
    return np.concatenate(images)


@torch.no_grad()
def generate(task: Task, labels: np.ndarray, device: torch.device) -> np.ndarray:
    """One image per label, uint8 [N, 28, 28]."""
    label = torch.as_tensor(labels).to(device, torch.int64)
    return checked_uint8(task.generate(label), "generate")


@torch.no_grad()
def negative_log_likelihood(
    task: Task, dataset: JsaDataset, num_samples: int, device: torch.device
) -> float:
    """Mean -log p(x) of a split by importance sampling from q, in nats; too large on average."""
    total = 0.0
    for x, labels, _ in make_loader(dataset, 100):
        log_p_x = task.log_marginal(x.to(device), labels.to(device), num_samples)
        if not torch.isfinite(log_p_x).all():
            raise InferenceError("log p(x) is not finite")
        total -= log_p_x.double().sum().item()
    return total / len(dataset)


def checked_uint8(images: torch.Tensor, step: str) -> np.ndarray:
    if not torch.isfinite(images).all():
        raise InferenceError(f"{step} gave pixels that are not finite")
    return to_uint8(images)


def save_pngs(out: Path, recon: np.ndarray, samples: np.ndarray, labels: np.ndarray) -> None:
    """Single images: recon/recon_<i>.png and gen/<label>/<i>.png."""
    from kit.pictures import save_image

    files = {f"recon/recon_{i}.png": image for i, image in enumerate(recon)}
    for digit in range(10):
        files |= {f"gen/{digit}/{i}.png": im for i, im in enumerate(samples[labels == digit])}
    for name, image in files.items():
        save_image(out / name, image)


def run(args: argparse.Namespace) -> None:
    from kit.pictures import reconstruction_rows, save_grid  # here: matplotlib takes a while

    seed = RunSettings(seed=args.seed).seed
    if args.nll < 0:
        raise InferenceError(f"--nll {args.nll}: give a number of importance samples")
    device = pick_device(args.device)
    given = {k: v for k, v in vars(args).items() if k in ("task", "latent_dim") and v is not None}
    task, config = load_task(args.checkpoint_path, given, device)
    settings = task.settings
    data_dir = args.data_dir or run_from_config(config).data_dir
    ensure_prepared(data_dir)
    images, labels = load_split(data_dir, args.split)
    out = Path(args.out or Path(args.checkpoint_path).parent)

    set_seed(seed)
    dataset = JsaDataset(images, labels, settings.binarize).frozen()
    codes = encode(task, dataset, settings.latent_dim, device)
    recon = decode(task, codes, labels, device)
    sample_labels = np.repeat(np.arange(10, dtype=np.uint8), SAMPLES_PER_CLASS)
    samples = generate(task, sample_labels, device)
    nll = negative_log_likelihood(task, dataset, args.nll, device) if args.nll else None

    write_arrays(out / "codes.npz", codes=codes)
    write_arrays(out / "reconstructions.npz", images=recon)
    write_arrays(out / "samples.npz", images=samples, labels=sample_labels)
    save_grid(out / "reconstructions.png", reconstruction_rows(images[:50], recon[:50]))
    by_digit = samples.reshape(10, SAMPLES_PER_CLASS, 28, 28)
    save_grid(out / "samples.png", list(by_digit[:, :10]))
    info = {
        "task": settings.task,
        "checkpoint": str(args.checkpoint_path),
        "split": args.split,
        "images_sha256": fingerprint(images),
        "code_kind": task.code_kind,
        "num_categories": task.num_categories,
        "nll": nll,
        "nll_samples": args.nll,
    }
    write_json(out / "inference.json", info)
    if nll is not None:
        print(f"-log p(x) with {args.nll} importance samples: {nll:.2f} nats per image")
    if args.png:
        save_pngs(out, recon, samples, sample_labels)
    print(
        f"{settings.task}: {len(images)} images of {data_dir}/{args.split}.npz coded in "
        f"{codes.shape[1]} {task.code_kind} entries each, and {len(samples)} samples.\n"
        f"Look at {out}/reconstructions.png and {out}/samples.png. Next:\n  python grade.py"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Codes, reconstructions and samples of a model.")
    parser.add_argument("--checkpoint_path", required=True, help="for instance runs/JSA/best.pth")
    tasks = available_tasks(submission)
    parser.add_argument("--task", choices=tasks, help="needed only without a config inside")
    parser.add_argument("--latent_dim", type=int, help="needed only without a config inside")
    parser.add_argument("--data_dir", help="holds the split files (default: as in training)")
    parser.add_argument("--split", default="valid", help="read NAME.npz (default: valid)")
    parser.add_argument("--out", help="output folder (default: the checkpoint's)")
    parser.add_argument(
        "--nll",
        type=int,
        default=0,
        metavar="S",
        help="also estimate -log p(x) with S importance samples per image",
    )
    parser.add_argument("--png", action="store_true", help="also write every image as a file")
    parser.add_argument("--seed", type=int, default=0, help="seeds the samples (default: 0)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default: auto)")
    try:
        run(parser.parse_args(argv))
    except NotImplementedError as error:
        sys.exit(f"error: {todo_message(error, submission)}")
    except Exception as error:  # of submission.py, of the circumstances, or of the kit
        known = (DataError, TrainingError, SettingsError, TaskError, InferenceError, OSError)
        sys.exit(f"error: {explain_error(error, known)}")


if __name__ == "__main__":
    main()
