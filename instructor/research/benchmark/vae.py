"""The VAE of the Pixyz tutorial, 784-512-512-64 with Bernoulli pixels, in Pixyz and in the kit.

Pixyz is no requirement of the kit; install it for this comparison only (see ../README.md).
"""

import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F
from pixyz.distributions import Bernoulli, Normal
from pixyz.losses import KullbackLeibler
from pixyz.models import VAE as PixyzVAE
from torch import nn

import submission
from data_utils import JsaDataset, OwnExamples, load_split, make_loader
from instructor.research.benchmark.loops import Untouched
from kit.settings import VAESettings
from kit.tasks import make_task
from trainer import Trainer

LATENT_DIM, HIDDEN, BATCH, LEARNING_RATE = 64, 512, 128, 1e-3
EPOCHS = 5


class Encoder(Normal):
    """q(z|x) as the tutorial has it."""

    def __init__(self):
        super().__init__(var=["z"], cond_var=["x"], name="q")
        self.body = nn.Sequential(
            nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()
        )
        self.loc, self.scale = nn.Linear(HIDDEN, LATENT_DIM), nn.Linear(HIDDEN, LATENT_DIM)

    def forward(self, x):
        features = self.body(x)
        return {"loc": self.loc(features), "scale": F.softplus(self.scale(features))}


class Decoder(Bernoulli):
    """p(x|z) as the tutorial has it."""

    def __init__(self):
        super().__init__(var=["x"], cond_var=["z"], name="p")
        self.body = nn.Sequential(
            nn.Linear(LATENT_DIM, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, 784),
        )

    def forward(self, z):
        return {"probs": torch.sigmoid(self.body(z))}


class InPixyz:
    def __init__(self, train_set: JsaDataset):
        torch.manual_seed(0)
        encoder, decoder = Encoder(), Decoder()
        zeros, ones = torch.zeros(()), torch.ones(())
        prior = Normal(loc=zeros, scale=ones, var=["z"], features_shape=[LATENT_DIM], name="prior")
        self.model = PixyzVAE(
            encoder,
            decoder,
            regularizer=KullbackLeibler(encoder, prior),
            optimizer_params={"lr": LEARNING_RATE},
        )
        order = OwnExamples(len(train_set), generator=torch.Generator().manual_seed(0))
        self.loader = make_loader(train_set, BATCH, order)

    def epoch(self) -> None:
        for x, _, _ in self.loader:
            self.model.train({"x": x.flatten(1)})

    def negative_elbo(self, x: torch.Tensor) -> torch.Tensor:
        return self.model.test({"x": x.flatten(1)})


class InTheKit:
    def __init__(self, train_set: JsaDataset):
        settings = VAESettings(
            latent_dim=LATENT_DIM,
            hidden=[HIDDEN, HIDDEN],
            likelihood="bernoulli",
            lr=LEARNING_RATE,
            batch_size=BATCH,
            epochs=10**6,  # so that the learning rate stays what Pixyz has
        )
        torch.manual_seed(0)
        self.task = make_task(submission, settings)
        self.trainer = Trainer(
            self.task,
            torch.optim.Adam(self.task.param_groups(), fused=True),
            train_set,
            train_set,
            save_dir="unused",
            config={},
        )

    def epoch(self) -> None:
        with self.trainer.progress_bar() as progress:
            self.trainer.train_epoch(1, progress, Untouched())

    @torch.no_grad()
    def negative_elbo(self, x: torch.Tensor) -> torch.Tensor:
        self.task.model.eval()
        return self.task.loss(x, torch.zeros(len(x), dtype=torch.int64), None)[0]


def compare(data_dir: str) -> None:
    """Train both by turns for EPOCHS; print images/s, their ratio, and -ELBO on `valid`."""
    train_set, valid_set = (
        JsaDataset(*load_split(data_dir, split), "threshold") for split in ("train", "valid")
    )
    rivals = {"pixyz": InPixyz(train_set), "kit": InTheKit(train_set)}
    speeds: dict[str, list[float]] = {name: [] for name in rivals}
    for epoch in range(1, EPOCHS + 1):
        for name, rival in rivals.items():
            started = time.perf_counter()
            rival.epoch()
            speeds[name].append(len(train_set) / (time.perf_counter() - started))
        bounds = {}
        for name, rival in rivals.items():
            torch.manual_seed(0)
            values = [rival.negative_elbo(x) * len(x) for x, _, _ in make_loader(valid_set, 500)]
            bounds[name] = float(sum(values)) / len(valid_set)
        print(f"epoch {epoch}: " + ", ".join(f"{n} -ELBO {b:.2f} nats" for n, b in bounds.items()))
    ratio = np.divide(speeds["kit"], speeds["pixyz"])
    for name, values in speeds.items():
        print(f"{name}: {statistics.median(values):,.0f} images/s")
    print(f"kit / pixyz: {np.median(ratio):.2f}")
