"""The interface between a task and the rest: all that trainer.py and inference.py know of one."""

import math
from pathlib import Path

import torch
from torch import nn

from data_utils import JsaDataset, ensure_prepared, load_split, make_loader, to_uint8
from kit.settings import RunSettings, TaskSettings
from kit.tasks import latents
from model import StateCache

ANNEAL = 0.6  # share of the epochs in which sigma (or beta) goes from its start to its end


class TaskError(Exception):
    """This task cannot do that, or submission.py returned what cannot be; the message says what."""


class Task:
    """One model with its loss, code and pictures. Subclasses say what the words mean.

    Args:
        model: all weights.
        settings: the task's; subclasses say which class.

    Attributes:
        cache: the latent states that belong into a checkpoint, or None.
        code_kind: what the entries of a code are, of CODE_KINDS.
        num_categories: of one entry, where code_kind is "categorical".
        entries_are_values: whether an entry of a code is a value that one can vary and plot.
        has_images: whether the data are images, which inference.py can encode.
        threads: of torch in training; None: as many as it likes.
        samples_at_once: samples times images, in `log_marginal`.
    """

    cache: StateCache | None = None
    code_kind = "float"
    num_categories = 0
    entries_are_values = True
    has_images = True
    threads: int | None = None
    samples_at_once = 10_000

    def __init__(self, model: nn.Module, settings: TaskSettings):
        self.model, self.settings = model, settings

    @staticmethod
    def load_data(settings: TaskSettings, run: RunSettings) -> tuple[JsaDataset, JsaDataset]:
        """The training and the validation set of a run."""
        ensure_prepared(run.data_dir)
        train, valid = (
            JsaDataset(*load_split(run.data_dir, split), settings.binarize)
            for split in ("train", "valid")
        )
        return train, valid.frozen()

    @classmethod
    def make(cls, submission, settings: TaskSettings, num_examples: int, device) -> "Task":
        """Build the task from the student's classes and functions; see `make_task`."""
        raise NotImplementedError

    def param_groups(self) -> list[dict]:
        """Parameter groups for the optimiser, each with its peak learning rate `lr`."""
        raise NotImplementedError

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Set what follows a schedule; epochs count from 1."""

    def loss(self, x, labels, index) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The training loss of a batch (nats, batch mean) and metrics to log.

        `index` None: a validation batch, which leaves no trace in the task's state and has no
        metrics.
        """
        raise NotImplementedError

    def encode(self, x, labels) -> torch.Tensor:
        """x [N, 1, 28, 28] and labels [N] -> codes [N, latent_dim]."""
        raise NotImplementedError

    def decode(self, code, labels) -> torch.Tensor:
        """Codes [N, latent_dim] and labels [N] -> images in [0, 1], [N, 1, 28, 28]."""
        raise NotImplementedError

    def reconstruct(self, x, labels) -> torch.Tensor:
        """x decoded from its code, for validation: [N, 1, 28, 28]."""
        return self.decode(self.encode(x, labels), labels)

    def generate(self, labels) -> torch.Tensor:
        """Generate one image per label, [N, 1, 28, 28]; unconditional models ignore the labels."""
        raise NotImplementedError

    def log_weights(self, x, labels, num_samples) -> torch.Tensor:
        """log p(x, h) - log q(h|x) for `num_samples` samples h of q(h|x), in nats: [S, B]."""
        raise TaskError("-log p(x) is estimated by samples of q(h|x), which this model lacks")

    def log_marginal(self, x, labels, num_samples) -> torch.Tensor:
        """log p(x) by importance sampling from q(h|x), in nats: [B].

        log (1/S) sum_s p(x, h_s) / q(h_s|x). Its expectation is at most log p(x) and grows with
        S (Burda et al., ICLR 2016, theorem 1). The samples come in chunks, which limits the memory.
        """
        total = torch.full((len(x),), -torch.inf, device=x.device)
        chunk = max(1, self.samples_at_once // len(x))
        for start in range(0, num_samples, chunk):
            log_w = self.log_weights(x, labels, min(chunk, num_samples - start))
            total = torch.logaddexp(total, torch.logsumexp(log_w, dim=0))
        return total - math.log(num_samples)

    def diagnostics(self, x) -> dict[str, torch.Tensor]:
        """Further values of a validation batch for the log, each a batch mean."""
        return {}

    def draw(self, dataset, folder: Path, device) -> list[Path]:
        """Write the task's pictures into `folder`; returns their paths.

        samples.png has a row for each digit, reconstructions.png originals above reconstructions,
        interpolation.png ways from one digit's code to another's (with the label of the first).
        Where entries are values: latents.png, what the ten strongest entries of a code do, and for
        codes of two entries codes.png, where each digit lies.
        """
        from kit import pictures  # here, because matplotlib takes a while to load

        x, labels = first_examples(dataset, 20, device)
        codes = self.encode(x, labels)
        rows = pictures.reconstruction_rows(to_uint8(x), to_uint8(self.decode(codes, labels)))
        digits = torch.arange(10, device=device).repeat_interleave(10)
        samples = to_uint8(self.generate(digits)).reshape(10, 10, 28, 28)
        ways = [
            to_uint8(latents.interpolate(self, codes[i], codes[i + 1], labels[i], 10))
            for i in range(0, len(codes) - 1, 2)
        ]
        drawn = [
            pictures.save_grid(folder / "samples.png", list(samples)),
            pictures.save_grid(folder / "reconstructions.png", rows),
            pictures.save_grid(folder / "interpolation.png", ways),
        ]
        if self.entries_are_values:
            strongest = latents.strongest(self, codes[:5], labels[:5], 10)
            moves = [latents.traverse(self, codes, labels, j, 10).cpu().numpy() for j in strongest]
            letter, path = "z" if self.code_kind == "float" else "h", folder / "latents.png"
            drawn.append(pictures.save_latents(path, letter, strongest, moves))
        if self.entries_are_values and codes.shape[1] == 2:
            x, labels = first_examples(dataset, 1000, device)
            path = folder / "codes.png"
            drawn.append(pictures.save_codes(path, self.encode(x, labels), labels))
        return drawn

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.model.load_state_dict(state)


def first_examples(dataset, count: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """The first `count` examples of a dataset, or all: x and labels."""
    indices = range(min(count, len(dataset)))
    x, labels, _ = next(iter(make_loader(torch.utils.data.Subset(dataset, indices), count)))
    return x.to(device), labels.to(device)


def annealed(start: float, end: float, epoch: int, num_epochs: int) -> float:
    """A value that goes from `start` in the first epoch to `end`, by equal factors per epoch."""
    progress = min(1.0, (epoch - 1) / max(1, ANNEAL * num_epochs))
    return start * (end / start) ** progress


def as_images(images: torch.Tensor, what: str) -> torch.Tensor:
    """Bring what the student's method `what` returned to [N, 1, 28, 28]."""
    if not isinstance(images, torch.Tensor) or images.shape[1:].numel() != 784:
        found = list(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
        raise TaskError(f"{what} must return images [N, 1, 28, 28] (or [N, 784]), not {found}")
    return images.reshape(-1, 1, 28, 28)
