"""The training loop: progress, validation, checkpoints, resume and curves (do not modify).

Nothing in this file knows a model: it sees a task object with `loss`, `encode`, `decode`,
`generate` and `state_dict` (see `Task` in model.py).
"""

import csv
import io
import json
import math
import random
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data_utils import JsaDataset, atomic_write, make_loader, save_grid, to_uint8

CHECK_EVERY = 20  # batches between two looks at the loss; each look makes a GPU wait
DRAW_EVERY = 15.0  # seconds between two drawings of the pictures; the last epoch's are always drawn


class TrainingError(Exception):
    """Training cannot go on; the message says why and what to do."""


class CtrlC:
    """Inside the block the first Ctrl-C only sets `pressed`; a second one interrupts at once."""

    def __enter__(self) -> "CtrlC":
        self.pressed = False
        self.in_main_thread = threading.current_thread() is threading.main_thread()
        if self.in_main_thread:
            self.previous = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, *_) -> None:
        self.pressed = True
        signal.signal(signal.SIGINT, self.previous)

    def __exit__(self, *_) -> None:
        if self.in_main_thread:
            signal.signal(signal.SIGINT, self.previous)


class Trainer:
    """Train one task and leave its run folder.

    Args:
        task: a task object.
        optimizer: over the task's parameters; its learning rates fall along a half cosine.
        train_set, valid_set: datasets that give (x, label, index).
        save_dir: the run folder.
        config: all settings of the run, JSON-serialisable; stored beside the weights.
        epochs, batch_size: length of the run and examples a batch.
        seed: seeds the order of the examples, and validation.
        device: where the model is.
        val_metric: the validation figure whose smallest value decides `best.pth`.
        nll_samples: importance samples an image where that is "nll".
        draw: draws the task's pictures, (task, valid_set, save_dir, device) -> None.
    """

    def __init__(
        self,
        task,
        optimizer: torch.optim.Optimizer,
        train_set: JsaDataset,
        valid_set: JsaDataset,
        *,
        save_dir: str | Path,
        config: dict,
        epochs: int,
        batch_size: int,
        seed: int = 0,
        device: str | torch.device = "cpu",
        val_metric: str = "mse",
        nll_samples: int = 50,
        draw,
    ):
        self.task, self.optimizer = task, optimizer
        self.valid_set = valid_set
        self.save_dir, self.config = Path(save_dir), config
        self.epochs, self.seed, self.device = epochs, seed, torch.device(device)
        self.val_metric = f"val_{val_metric}"
        self.nll_samples = nll_samples if val_metric == "nll" else 0
        self.draw = draw
        self.shuffle = torch.Generator().manual_seed(seed)
        self.train_loader = make_loader(train_set, batch_size, self.shuffle)
        self.valid_loader = make_loader(valid_set, 500)
        self.peak_lr = [group["lr"] for group in optimizer.param_groups]
        self.epoch = 0  # epochs completed
        self.history: list[dict[str, float]] = []  # one row an epoch, as in log.csv

    # ------------------------------------------------------------------------------------------
    # The loop

    def fit(self) -> bool:
        """Train up to the last epoch. Returns False where Ctrl-C ended it before."""
        started = drawn = time.monotonic()
        if self.epoch == 0:
            self.save_checkpoint("last.pth")  # so that there is always something to resume from
        self.write_log()
        batches = len(self.train_loader)
        progress = tqdm(
            total=self.epochs * batches,
            initial=self.epoch * batches,
            mininterval=0.5 if sys.stderr.isatty() else 30,  # a log file gets fewer lines
            bar_format="{desc} |{bar:10}| {remaining} left{postfix}",
        )
        with CtrlC() as ctrl_c, progress:
            for epoch in range(self.epoch + 1, self.epochs + 1):
                progress.set_description_str(f"epoch {epoch}/{self.epochs}")
                row = self.train_epoch(epoch, progress, ctrl_c)
                if row is None:
                    return False
                row |= self.validate()
                progress.set_postfix_str(summary(row), refresh=False)
                self.history.append({"epoch": epoch, **row})
                self.epoch = epoch
                # A kill between these two repeats the epoch, which writes the same best.pth again.
                if row[self.val_metric] <= min(r[self.val_metric] for r in self.history):
                    self.save_checkpoint("best.pth")
                self.save_checkpoint("last.pth")
                self.write_log()
                if time.monotonic() - drawn > DRAW_EVERY and epoch < self.epochs:
                    self.draw_all()
                    drawn = time.monotonic()
        self.draw_all()
        self.seconds = time.monotonic() - started
        return True

    def train_epoch(self, epoch: int, progress: tqdm, ctrl_c: CtrlC) -> dict[str, float] | None:
        """One pass over the training split; None where Ctrl-C ended it."""
        self.task.start_epoch(epoch, self.epochs)
        self.task.model.train()
        totals: dict[str, torch.Tensor] = {}
        count = 0
        for i, (x, labels, index) in enumerate(self.train_loader):
            self.set_learning_rate((epoch - 1 + i / len(self.train_loader)) / self.epochs)
            loss, metrics = self.task.loss(*self.to_device(x, labels, index))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            for name, value in {"loss": loss.detach(), **metrics}.items():
                totals[name] = totals.get(name, 0) + value * len(x)
            count += len(x)
            progress.update()
            if ctrl_c.pressed:
                return None
            if i % CHECK_EVERY == 0:
                row = means(totals, count)
                self.check_finite(row, epoch)
                before = self.history[-1] if self.history else {}
                progress.set_postfix_str(summary(before | row), refresh=False)
        row = means(totals, count)
        self.check_finite(row, epoch)
        return row

    def set_learning_rate(self, progress: float) -> None:
        """Half a cosine from the peak at progress 0 to nothing at progress 1."""
        for group, peak in zip(self.optimizer.param_groups, self.peak_lr, strict=True):
            group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * progress))

    def check_finite(self, row: dict[str, float], epoch: int) -> None:
        if not math.isfinite(row["loss"]):
            raise TrainingError(
                f"the loss became {row['loss']} in epoch {epoch}. Usual causes: a learning rate "
                "that is too large (--lr, --lr_joint, --lr_proposal), a --var or --sigma that is "
                "too small, or the logarithm of 0 in your own code. The checkpoint of epoch "
                f"{self.epoch} in {self.save_dir} is untouched."
            )

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss and reconstruction error (pixels in [0, 1]) on the validation split.

        Its random numbers are its own and the same every epoch, so that curves are comparable
        and training does not depend on whether one validates.
        """
        self.task.model.eval()
        totals: dict[str, torch.Tensor] = {}
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            for batch in self.valid_loader:
                x, labels, _ = self.to_device(*batch)
                loss, _ = self.task.loss(x, labels, None)
                recon = self.task.decode(self.task.encode(x, labels), labels)
                values = {"val_loss": loss, "val_mse": ((recon - x) ** 2).mean()}
                values |= self.task.diagnostics(x)
                if self.nll_samples:
                    log_p_x = self.task.log_marginal(x, labels, self.nll_samples)
                    values["val_nll"] = -log_p_x.mean()
                for name, value in values.items():
                    totals[name] = totals.get(name, 0) + value * len(x)
        return means(totals, len(self.valid_set))

    def to_device(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        return [tensor.to(self.device, non_blocking=True) for tensor in tensors]

    # ------------------------------------------------------------------------------------------
    # What a run leaves behind

    def save_checkpoint(self, name: str) -> None:
        """Write everything that a bit-for-bit resume needs, in one step that cannot be torn."""
        sampler = self.task.sampler
        checkpoint = {
            "epoch": self.epoch,
            "model_state_dict": self.task.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "sampler_state_dict": sampler.state_dict() if sampler else None,
            "random_state": random_state(self.shuffle),
            "history": self.history,
            "config": self.config,
        }
        buffer = io.BytesIO()  # torch.save into a file hides a full disk behind another error
        torch.save(checkpoint, buffer)
        try:
            with atomic_write(self.save_dir / name) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        except OSError as error:
            raise TrainingError(
                f"{self.save_dir / name} cannot be written ({error.strerror}). The checkpoint "
                "before it is whole: make room and go on with --resume."
            ) from error

    def load_checkpoint(self, path: str | Path) -> None:
        """Go on from a checkpoint as if the run had never stopped."""
        checkpoint = read_checkpoint(path)
        try:
            self.task.load_state_dict(checkpoint["model_state_dict"])
            self.optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
            if self.task.sampler:
                self.task.sampler.load_state_dict(checkpoint["sampler_state_dict"])
        except (RuntimeError, ValueError) as error:
            raise TrainingError(f"{path} does not fit your code or the data: {error}") from error
        self.epoch = checkpoint["epoch"]
        self.history = checkpoint["history"]
        set_random_state(checkpoint["random_state"], self.shuffle)

    def write_log(self) -> None:
        columns = list(dict.fromkeys(name for row in self.history for name in row))
        with (
            atomic_write(self.save_dir / "log.csv") as temporary,
            temporary.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.history)

    def draw_all(self) -> None:
        self.task.model.eval()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.draw(self.task, self.valid_set, self.save_dir, self.device)
        draw_curves(self.history, self.save_dir / "loss_curve.png")


# ----------------------------------------------------------------------------------------------
# Helpers


def pick_device(name: str) -> torch.device:
    """The device of this name; "auto" is the GPU where there is one.

    Raises:
        TrainingError: this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"--device {name} cannot be used here ({error})") from error


def means(totals: dict[str, torch.Tensor], count: int) -> dict[str, float]:
    return {name: float(total) / count for name, total in totals.items()}


def summary(row: dict[str, float]) -> str:
    """All figures of an epoch beside the progress bar, the names shortened."""
    figures = {name.removeprefix("loss_"): x for name, x in row.items() if name != "epoch"}
    return ", ".join(f"{name} {x:.3g}" for name, x in figures.items())


def read_checkpoint(path: str | Path) -> dict:
    """Load a checkpoint without running any code in it.

    Raises:
        TrainingError: there is no such file, or it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise TrainingError(f"there is no checkpoint {path}; train first, or check the path")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds on damaged files
        kind = type(error).__name__
        raise TrainingError(f"{path} is not a readable checkpoint ({kind})") from error
    if not isinstance(checkpoint, dict):
        raise TrainingError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint


def random_state(shuffle: torch.Generator) -> dict:
    """The state of every random generator that a run may draw from."""
    algorithm, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (algorithm, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "shuffle": shuffle.get_state(),
    }


def set_random_state(state: dict, shuffle: torch.Generator) -> None:
    random.setstate(state["python"])
    algorithm, keys, *rest = state["numpy"]
    np.random.set_state((algorithm, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    shuffle.set_state(state["shuffle"])


def draw_pictures(task, valid_set: JsaDataset, save_dir: Path, device: torch.device) -> None:
    """samples.png, a row a digit, and reconstructions.png, originals above reconstructions."""
    samples = to_uint8(task.generate(torch.arange(10, device=device).repeat_interleave(10)))
    save_grid(save_dir / "samples.png", list(samples.reshape(10, 10, 28, 28)))
    indices = list(range(min(20, len(valid_set))))
    x, labels, _ = next(iter(make_loader(torch.utils.data.Subset(valid_set, indices), 20)))
    x, labels = x.to(device), labels.to(device)
    images, recon = to_uint8(x), to_uint8(task.decode(task.encode(x, labels), labels))
    save_grid(save_dir / "reconstructions.png", reconstruction_rows(images, recon))


def reconstruction_rows(images: np.ndarray, recon: np.ndarray, width: int = 10) -> list[np.ndarray]:
    """Rows for `save_grid`: a line of originals, below it their reconstructions, and so on."""
    rows = []
    for start in range(0, len(images), width):
        rows += [images[start : start + width], recon[start : start + width]]
    return rows


def draw_curves(history: list[dict[str, float]], path: Path) -> None:
    """One small panel a figure of log.csv; training and validation loss share one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(name for row in history for name in row if name != "epoch"))
    panels = [["loss", "val_loss"]] + [[n] for n in names if n not in ("loss", "val_loss")]
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.4 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, panel in zip(axes.flat, panels, strict=False):
        for name in panel:
            points = [(row["epoch"], row[name]) for row in history if name in row]
            axis.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 2 else "")
        axis.set_title(" and ".join(panel), fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        if len(panel) > 1:
            axis.legend(fontsize=7)
    figure.supxlabel("epoch", fontsize=9)
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=100)
    plt.close(figure)


def write_config(save_dir: Path, config: dict) -> None:
    with atomic_write(save_dir / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n")
