"""The training loop: progress, validation, checkpoints, resume and curves (do not modify).

Nothing in this file knows a model: it sees a task object, with a loss, a code, pictures and a state
(see `Task` in kit/tasks/base.py).
"""

import csv
import io
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

from data_utils import JsaDataset, OwnExamples, make_loader, set_seed
from kit.files import atomic_write
from kit.processes import Processes, TrainingError, process_seed
from kit.settings import RunSettings
from kit.tasks import Task

CHECK_EVERY = 20  # batches between two looks at the loss; each look makes a GPU wait
DRAW_EVERY = 15.0  # seconds between two drawings of the pictures; the last epoch's are always drawn
DRAW_SHARE = 0.02  # ... but no larger share of the time


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
        task: a task object; its settings say how many epochs, and how many examples per batch, of
            all processes together.
        optimizer: over the task's parameters; its learning rates fall along a half cosine.
        train_set, valid_set: datasets that give (x, label, index).
        save_dir: the run folder.
        config: all settings of the run, JSON-serialisable; stored beside the weights.
        run: seed of the order of the examples and of validation; which value decides `best.pth`.
        device: where the model is.
        processes: those that train together, already started; None: this one alone.

    Raises:
        TrainingError: the processes cannot share the batches equally.
    """

    def __init__(
        self,
        task: Task,
        optimizer: torch.optim.Optimizer,
        train_set: JsaDataset,
        valid_set: JsaDataset,
        *,
        save_dir: str | Path,
        config: dict,
        run: RunSettings | None = None,
        device: str | torch.device = "cpu",
        processes: Processes | None = None,
    ):
        self.processes = processes = processes or Processes()
        self.task, self.optimizer = task, optimizer
        self.valid_set = valid_set
        self.save_dir, self.config, self.device = Path(save_dir), config, torch.device(device)
        self.run = run or RunSettings()
        self.epochs, self.seed = task.settings.epochs, self.run.seed
        self.val_metric = f"val_{self.run.val_metric}"
        self.shuffle = torch.Generator().manual_seed(self.seed)
        share, rest = divmod(task.settings.batch_size, processes.size)
        if rest or min(len(train_set), len(valid_set)) < processes.size:
            raise TrainingError(
                f"{processes.size} processes cannot share batches of {task.settings.batch_size} "
                f"out of {len(train_set)} examples equally; change --batch_size"
            )
        own = processes.rank, processes.size
        order = OwnExamples(len(train_set), *own, generator=self.shuffle)
        self.train_loader = make_loader(train_set, share, order)
        self.valid_loader = make_loader(valid_set, 500, OwnExamples(len(valid_set), *own))
        processes.share_weights(task.model)
        if processes.rank > 0:
            set_seed(process_seed(self.seed, processes.rank))
        self.peak_lr = [group["lr"] for group in optimizer.param_groups]
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.epoch = 0  # epochs completed
        self.history: list[dict[str, float]] = []  # one row per epoch, as in log.csv
        self.pictures: list[Path] = []  # the latest drawing

    # ------------------------------------------------------------------------------------------
    # The loop

    def fit(self) -> bool:
        """Train up to the last epoch. Returns False where Ctrl-C ended it before."""
        started = time.monotonic()
        next_drawing = started + DRAW_EVERY
        if self.epoch == 0:
            self.save_checkpoint(["last.pth"])  # so that there is always something to resume from
        self.write_log()
        with CtrlC() as ctrl_c, self.progress_bar() as progress:
            for epoch in range(self.epoch + 1, self.epochs + 1):
                progress.set_description_str(f"epoch {epoch}/{self.epochs}")
                row = self.train_epoch(epoch, progress, ctrl_c)
                if row is None:
                    return False
                row |= self.validate(epoch)
                progress.set_postfix_str(summary(row), refresh=False)
                self.history.append({"epoch": epoch, **row})
                self.epoch = epoch
                best = self.best_row() is self.history[-1]
                # A kill between these two repeats the epoch, which writes the same best.pth again.
                self.save_checkpoint(["best.pth", "last.pth"] if best else ["last.pth"])
                self.write_log()
                now = time.monotonic()
                if now > next_drawing and epoch < self.epochs:
                    self.draw_all()
                    took = time.monotonic() - now
                    next_drawing = now + max(DRAW_EVERY, took / DRAW_SHARE)
        self.draw_all()
        self.seconds = time.monotonic() - started
        return True

    def progress_bar(self) -> tqdm:
        """Over the batches of the whole run."""
        batches = len(self.train_loader)
        return tqdm(
            total=self.epochs * batches,
            initial=self.epoch * batches,
            disable=self.processes.rank > 0,
            mininterval=0.5 if sys.stderr.isatty() else 30,  # a log file gets fewer lines
            bar_format="{desc} |{bar:10}| {remaining} left{postfix}",
        )

    def train_epoch(self, epoch: int, progress: tqdm, ctrl_c: CtrlC) -> dict[str, float] | None:
        """One pass over the training split; None where Ctrl-C ended it."""
        self.task.start_epoch(epoch, self.epochs)
        self.task.model.train()
        totals = Totals()
        for i, (x, labels, index) in enumerate(self.train_loader):
            self.set_learning_rate((epoch - 1 + i / len(self.train_loader)) / self.epochs)
            loss, metrics = self.task.loss(*self.to_device(x, labels, index))
            for parameter in self.parameters:  # what optimizer.zero_grad does, with less around it
                parameter.grad = None
            loss.backward()
            stop = self.processes.average_gradients(self.task.model, ctrl_c.pressed)
            self.optimizer.step()
            totals.add({"loss": loss.detach(), **metrics}, len(x))
            progress.update()
            if stop:
                return None
            if i % CHECK_EVERY == 0:
                row = totals.means()
                self.check_finite(row, epoch)
                before = self.history[-1] if self.history else {}
                progress.set_postfix_str(summary(before | row), refresh=False)
        row = totals.means(self.processes)
        self.check_finite(row, epoch)
        return row

    def best_row(self) -> dict[str, float] | None:
        """The epoch with the smallest `val_metric`, of equal ones the latest."""

        def value(row):
            return math.inf if math.isnan(row[self.val_metric]) else row[self.val_metric]

        measured = [row for row in reversed(self.history) if self.val_metric in row]
        return min(measured, key=value, default=None)

    def set_learning_rate(self, progress: float) -> None:
        """Half a cosine from the peak at progress 0 to nothing at progress 1."""
        for group, peak in zip(self.optimizer.param_groups, self.peak_lr, strict=True):
            group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * progress))

    def check_finite(self, row: dict[str, float], epoch: int) -> None:
        if not math.isfinite(row["loss"]):
            raise TrainingError(
                f"the loss became {row['loss']} in epoch {epoch}. Usual causes: a learning rate "
                "that is too large (--lr, --lr_joint, --lr_proposal, --lr_prior), a --var or "
                "--sigma that is too small, or the logarithm of 0 in your own code. The "
                "checkpoint of epoch "
                f"{self.epoch} in {self.save_dir} is untouched."
            )

    @torch.no_grad()
    def validate(self, epoch: int) -> dict[str, float]:
        """Loss and reconstruction error (pixels in [0, 1]) on the validation split.

        Its random numbers are its own and the same every epoch, so that curves are comparable
        and training does not depend on whether one validates.
        """
        self.task.model.eval()
        totals = Totals()
        due = epoch % self.run.nll_every == 0 or epoch == self.epochs
        estimate_nll = due and self.run.val_metric == "nll"
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            for batch in self.valid_loader:
                x, labels, _ = self.to_device(*batch)
                loss, _ = self.task.loss(x, labels, None)
                recon = self.task.reconstruct(x, labels)
                values = {"val_loss": loss, "val_mse": ((recon - x) ** 2).mean()}
                values |= self.task.diagnostics(x)
                if estimate_nll:
                    log_p_x = self.task.log_marginal(x, labels, self.run.nll_samples)
                    values["val_nll"] = -log_p_x.mean()
                totals.add(values, len(x))
        return totals.means(self.processes)

    def to_device(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        return [tensor.to(self.device, non_blocking=True) for tensor in tensors]

    # ------------------------------------------------------------------------------------------
    # What a run leaves behind

    def save_checkpoint(self, names: list[str]) -> None:
        """Write everything that a bit-for-bit resume needs, in steps that cannot be torn.

        All processes have to call this, since each owns a part of the cache; the first one writes.
        """
        cache = self.task.cache
        if cache is not None:
            cache.share(self.processes)
        random_states = self.processes.gather(random_state(self.shuffle))
        if self.processes.rank > 0:
            return
        checkpoint = {
            "epoch": self.epoch,
            "model_state_dict": self.task.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "sampler_state_dict": None if cache is None else cache.state_dict(),
            "random_states": random_states,  # one per process
            "history": self.history,
            "config": self.config,
        }
        buffer = io.BytesIO()  # torch.save into a file hides a full disk behind another error
        torch.save(checkpoint, buffer)
        for name in names:
            try:
                with atomic_write(self.save_dir / name) as temporary:
                    temporary.write_bytes(buffer.getbuffer())
            except OSError as error:
                raise TrainingError(
                    f"{self.save_dir / name} cannot be written ({error.strerror}). The checkpoint "
                    "before it is whole: make room and go on with --resume."
                ) from error

    def load_checkpoint(self, path: str | Path) -> bool:
        """Go on from a checkpoint as if the run had never stopped.

        Returns:
            False where the number of processes is another one: then the run goes on as well, but
            with other random numbers than the unbroken run's.
        """
        checkpoint = read_checkpoint(path)
        try:
            self.task.load_state_dict(checkpoint["model_state_dict"])
            self.optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
            if self.task.cache is not None:
                self.task.cache.load_state_dict(checkpoint["sampler_state_dict"])
            self.epoch, self.history = checkpoint["epoch"], checkpoint["history"]
            states = checkpoint["random_states"]
        except (RuntimeError, ValueError, KeyError) as error:
            raise TrainingError(f"{path} does not fit your code or the data: {error}") from error
        rank = self.processes.rank
        set_random_state(states[min(rank, len(states) - 1)], self.shuffle)
        same = len(states) == self.processes.size
        if not same:
            set_seed(process_seed(self.seed, rank, self.epoch))
        return same

    def write_log(self) -> None:
        if self.processes.rank > 0:
            return
        columns = list(dict.fromkeys(name for row in self.history for name in row))
        with (
            atomic_write(self.save_dir / "log.csv") as temporary,
            temporary.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.history)

    def draw_all(self) -> None:
        if self.processes.rank > 0:
            return
        self.task.model.eval()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(self.seed)
            drawn = self.task.draw(self.valid_set, self.save_dir, self.device)
        from kit.pictures import save_curves  # here, because matplotlib takes a while to load

        self.pictures = [*drawn, save_curves(self.save_dir / "loss_curve.png", self.history)]


# ----------------------------------------------------------------------------------------------
# Helpers


class Totals:
    """Means over examples of named values that come as batch means, not all in every batch."""

    def __init__(self):
        self.waiting: dict[str, list[tuple[torch.Tensor, int]]] = {}  # not summed up yet
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, batch_means: dict[str, torch.Tensor], batch_size: int) -> None:
        for name, value in batch_means.items():
            self.waiting.setdefault(name, []).append((value, batch_size))

    def means(self, processes: Processes | None = None) -> dict[str, float]:
        """Means over all examples added, where `processes` is given in any of them."""
        for name, batches in self.waiting.items():  # many batches at once: cheaper than each alone
            values = torch.stack([value.reshape(()) for value, _ in batches])
            sizes = values.new_tensor([size for _, size in batches])
            self.sums[name] = self.sums.get(name, 0) + sizes @ values
            self.counts[name] = self.counts.get(name, 0) + sum(size for _, size in batches)
        self.waiting = {}
        sums, counts = torch.stack(list(self.sums.values())), list(self.counts.values())
        if processes:
            sums = processes.sum(sums)
            counts = [sum(all_counts) for all_counts in zip(*processes.gather(counts), strict=True)]
        means = zip(self.sums, sums.tolist(), counts, strict=True)
        return {name: total / count for name, total, count in means}


def summary(row: dict[str, float]) -> str:
    """All values of an epoch beside the progress bar, the names shortened."""
    values = {name.removeprefix("loss_"): x for name, x in row.items() if name != "epoch"}
    return ", ".join(f"{name} {x:.3g}" for name, x in values.items())


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
