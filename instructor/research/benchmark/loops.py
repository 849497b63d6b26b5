"""Five ways to train JSA on a batch, from how the published code does it to the least work.

All of them use one estimator, the gradient at the chain's last state or averaged over its T states,
as `chain_states` says. So after equally many steps they are equally far (test_benchmark.py).
"""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import submission
from data_utils import SAMPLE_FILE, JsaDataset, read_npz
from kit.settings import JSASettings
from kit.tasks import make_task
from kit.tasks.jsa import JSATask
from trainer import Trainer

HIDDEN, LATENT_DIM = [200, 200], 200  # 784-200-200-200 and its mirror image
LEARNING_RATE = 1e-3


def binary_sample(batch_size: int) -> np.ndarray:
    """The bundled sample's 5,000 digits, binarized; as many as make whole batches."""
    images, _ = read_npz(SAMPLE_FILE)
    images = images[: len(images) // batch_size * batch_size]
    return np.where(images >= 128, np.uint8(255), np.uint8(0))


def make(num_examples: int, **changes) -> JSATask:
    """A JSA task on binary images, with the same first weights each time."""
    usual = {"hidden": HIDDEN, "latent_dim": LATENT_DIM, "likelihood": "bernoulli"}
    usual |= {
        "prior": "uniform",
        "local_steps": 0,
        "sigma_start": 1.0,
        "lr_joint": LEARNING_RATE,
        "lr_proposal": LEARNING_RATE,
    }
    torch.manual_seed(0)
    return make_task(submission, JSASettings(**usual | changes), num_examples)


class Loop:
    """One way to train. `epoch` runs over all images once.

    Args:
        images: uint8 [N, 28, 28], 0 or 255; N a multiple of the batch size.
        batch_size, num_mis_steps: B and T.
        cache: whether chains start from cached states.
        changes: other settings of the task, such as `chain_states`.
    """

    fused = True  # one pass over all parameters per Adam step, instead of several per tensor

    def __init__(
        self, images: np.ndarray, batch_size: int, num_mis_steps: int, cache: bool, **changes
    ):
        # The learning rate stays what the loops without a schedule have, and of the Trainer only
        # epoch 1 is run, again and again.
        changes |= {"epochs": 10**6, "cache_start_epoch": 1 if cache else 2}
        changes |= {"num_mis_steps": num_mis_steps, "batch_size": batch_size}
        self.task = make(len(images), **changes)
        self.joint, self.proposal = self.task.joint, self.task.proposal
        self.sampler = self.task.sampler
        self.num_mis_steps, self.cache = num_mis_steps, cache
        self.last_only = self.task.settings.chain_states == "last"
        self.task.use_cache = cache
        self.optimizer = torch.optim.Adam(self.task.param_groups(), fused=self.fused)
        self.load(images, batch_size)

    def load(self, images: np.ndarray, batch_size: int) -> None:
        self.x = torch.as_tensor(images).float().div(255).unsqueeze(1)
        self.batch_size = batch_size
        self.shuffle = torch.Generator().manual_seed(0)

    def shuffled_batches(self) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(self.x), generator=self.shuffle)
        shuffled = self.x[order]  # at once: cheaper than batch by batch
        return zip(shuffled.split(self.batch_size), order.split(self.batch_size), strict=True)

    def epoch(self) -> None:
        for x, index in self.shuffled_batches():
            loss = self.loss(x, index)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def loss(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class OurTrainer(Loop):
    """The kit's Trainer, data loading and log included."""

    def load(self, images, batch_size):
        dataset = JsaDataset(images, np.zeros(len(images), np.uint8))
        self.trainer = Trainer(
            self.task,
            self.optimizer,
            dataset,
            dataset,
            save_dir="unused",
            config={},
        )
        self.progress = self.trainer.progress_bar()  # a run has one

    def epoch(self):
        self.trainer.train_epoch(1, self.progress, Untouched())


class Untouched:
    """A keyboard on which nobody presses Ctrl-C."""

    pressed = False


class PlainLoader(Loop):
    """With PyTorch's own dataset and loader, which fetch one example after the other."""

    def load(self, images, batch_size):
        x = torch.as_tensor(images).float().div(255).unsqueeze(1)
        dataset = TensorDataset(x, torch.arange(len(x)))
        generator = torch.Generator().manual_seed(0)
        self.loader = DataLoader(dataset, batch_size, shuffle=True, generator=generator)

    def shuffled_batches(self):
        return self.loader


class Published(PlainLoader):
    """(a) As in the code published with the paper (github.com/thu-spmi/JSA, bernoulli_MNIST).

    A loader that fetches examples one by one; the encoder runs on every repeated x and once more
    for the cached state; gradients go through all states; the accept loop is NumPy on the host,
    with positions in the batch of states for rows; and cache entries are copied one by one. Bits
    are drawn by comparison with uniform numbers, log-probabilities are PyTorch's cross entropy.
    """

    fused = False

    def load(self, images, batch_size):
        super().load(images, batch_size)
        self.rng = np.random.default_rng(0)

    def loss(self, x, index):
        steps, batch = self.num_mis_steps, len(x)
        x = x.flatten(1)  # (B, 784)
        # The states of an image lie side by side: T proposals, or T+1 without a cache.
        repeated = x.unsqueeze(1).repeat(1, steps if self.cache else steps + 1, 1).flatten(0, 1)
        logits = self.proposal.net(repeated)
        states = (torch.sigmoid(logits) > torch.rand_like(logits)).float()
        log_q, log_p = self.log_prob(logits, states), self.log_joint(repeated, states)
        if self.cache:
            fresh = states[::steps]
            cached = self.sampler.start_state(fresh, index)
            # No state was there, or one like this draw: that is written once more, as it is.
            new = (cached == fresh).all(dim=1).numpy()
            log_q = self.beside(self.log_prob(self.proposal.net(x), cached), log_q)
            log_p = self.beside(self.log_joint(x, cached), log_p)
        log_w = (log_p - log_q).detach().cpu().numpy().reshape(batch, steps + 1)
        position = np.arange(log_w.size).reshape(batch, steps + 1)
        current, at, visited = log_w[:, 0], position[:, 0], []
        for t in range(1, steps + 1):
            accept = np.log(self.rng.uniform(size=batch)) < log_w[:, t] - current
            current = current * (1 - accept) + log_w[:, t] * accept
            at = at * (1 - accept) + position[:, t] * accept
            visited = np.append(visited, at)
        if self.cache:
            for i in range(batch):
                row = int(at[i]) % (steps + 1)
                if row > 0:
                    self.sampler.cache.put(index[i], states[i * steps + row - 1].cpu())
                elif new[i]:
                    self.sampler.cache.put(index[i], cached[i].cpu())
        visited = torch.LongTensor(visited[-batch:] if self.last_only else visited)
        return -torch.gather(log_q, 0, visited).mean() - torch.gather(log_p, 0, visited).mean()

    def beside(self, first: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """The values of the cached states [B] before those of the proposals [B * T]."""
        return torch.cat([first.view(-1, 1), others.view(len(first), -1)], dim=1).view(-1)

    def log_prob(self, logits: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
        return -F.binary_cross_entropy_with_logits(logits, bits, reduction="none").sum(dim=1)

    def log_joint(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        log_prior = (torch.ones_like(h) * np.log(0.5)).sum(dim=1)
        return log_prior + self.log_prob(self.joint.net(h), x)


class StepByStep(PlainLoader):
    """(b) A sampler that takes one step after the other; each evaluates p and q at both states.

    It has the loader and the optimiser of (a).
    """

    fused = False

    def loss(self, x, index):
        h, states = None, []
        for _ in range(self.num_mis_steps):
            h = self.sampler.step(x, h, index if self.cache else None)
            states.append(h)
        states = states[-1:] if self.last_only else states
        losses = [submission.jsa_loss(self.joint, self.proposal, x, h) for h in states]
        return sum(p + q for p, q in losses) / len(losses)


class Bare(Loop):
    """(c) The same functions of submission.py and model.py as in the Trainer, and nothing else."""

    def loss(self, x, index):
        idx = index if self.cache else None
        with self.proposal.run_once(x):
            h = self.sampler.sample(x, idx=idx, num_steps=self.num_mis_steps)
            if self.last_only:
                return sum(submission.jsa_loss(self.joint, self.proposal, x, h))
            return sum(self.task.chain_average_loss(x))


class Ceiling(Loop):
    """(d) As (c), written out for bits in one function, with no more work than is needed."""

    def loss(self, x, index):
        steps, batch = self.num_mis_steps, len(x)
        every = torch.arange(batch)
        pixels = x.reshape(batch, 784)
        logits = self.proposal.net(x)
        with torch.no_grad():
            draws = torch.rand(steps + 1, *logits.shape) < torch.sigmoid(logits)
            states = draws.float()  # (T+1, B, K)
            if self.cache:
                states[0] = self.sampler.start_state(states[0], index)
            # Up to terms that are the same for all states of an example.
            log_q = (states * logits).sum(dim=2)
            log_p = self.pixel_log_prob(states.flatten(0, 1), pixels.repeat(steps + 1, 1))
            log_w = log_p.reshape(steps + 1, batch) - log_q
            rows = submission.mis_chain(log_w, torch.rand(steps, batch))
            if self.cache:
                self.sampler.cache.put(index, states[rows[-1], every])
            if self.last_only:
                rows = rows[-1:]
            weight = F.one_hot(rows, steps + 1).sum(dim=0).T / rows.numel()
            row, example = weight.nonzero(as_tuple=True)
            mean_state = torch.einsum("tb,tbk->bk", weight, states)  # sums to h / B over t
        # log q(h|x) is linear in h: its average over states is its value at their average.
        loss_q = F.softplus(logits).sum() / batch - (mean_state * logits).sum()
        log_p = self.pixel_log_prob(states[row, example], pixels[example])
        return loss_q - (weight[row, example] * log_p).sum()

    def pixel_log_prob(self, h: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        logits = self.joint.net(h)
        return (pixels * logits - F.softplus(logits)).sum(dim=1)


LOOPS: dict[str, type[Loop]] = {
    "Trainer": OurTrainer,
    "(a) published": Published,
    "(b) step by step": StepByStep,
    "(c) bare loop": Bare,
    "(d) ceiling": Ceiling,
}
