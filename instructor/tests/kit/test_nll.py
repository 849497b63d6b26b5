"""-log p(x) by importance sampling, against models whose p(x) is known."""

import json
import math

import pytest
import torch
from torch import nn

import inference
import train
from instructor.tests.kit.tools import read_log, small_task
from kit.settings import VAESettings
from kit.tasks.vae import VAETask
from trainer import read_checkpoint

X = torch.rand(6, 2, generator=torch.Generator().manual_seed(1))
LABELS = torch.zeros(6, dtype=torch.int64)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("latent", ["bernoulli", "categorical"])
def test_jsa_matches_enumeration(latent):
    task = small_task(latent)
    exact = task.exact(X)[0]
    found = task.log_marginal(X, LABELS, 20_000)
    # The relative error of a mean of S weights is their relative spread over sqrt(S).
    spread = task.log_weights(X, LABELS, 20_000).exp().std(dim=0) / exact.exp()
    assert ((found - exact).abs() < 6 * spread / math.sqrt(20_000)).all()


def test_more_draws_give_a_larger_estimate():
    """For one draw it is an ELBO; towards log p(x) it grows."""
    task = small_task()
    means = [
        torch.stack([task.log_marginal(X, LABELS, draws) for _ in range(400)]).mean()
        for draws in (1, 3, 30)
    ]
    assert means[0] < means[1] < means[2] < task.exact(X)[0].mean() + 0.01


def test_chunks_make_one_mean():
    """10,000 images leave one draw per chunk; many chunks are one average all the same."""
    task = small_task()
    x = X[:1].expand(10_000, -1)
    chunked = task.log_marginal(x, torch.zeros(10_000, dtype=torch.int64), 40)
    assert abs(chunked.exp().mean() / task.exact(X[:1])[0].exp() - 1) < 0.02


class Linear(nn.Module):
    """p(x|z) around a sigmoid of a linear map of one z; q(z|x) is the prior."""

    def __init__(self, scale: float):
        super().__init__()
        self.map, self.scale = torch.randn(1, 784) * scale, scale

    def forward(self, x, labels):
        return self.decode(torch.zeros(len(x), 1), labels), *torch.zeros(2, len(x), 1)

    def decode(self, z, labels):
        return torch.sigmoid(z @ self.map)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_vae_matches_quadrature(likelihood):
    model = Linear(0.05)
    task = VAETask(model, None, VAESettings(latent_dim=1, var=0.5, likelihood=likelihood))
    x = torch.bernoulli(model.decode(torch.randn(6, 1), None)).reshape(6, 1, 28, 28)
    z = torch.linspace(-8, 8, 4001).unsqueeze(1)  # (S, 1)
    mean = model.decode(z, None).double()  # (S, 784)
    if likelihood == "gaussian":
        log_p = torch.distributions.Normal(mean, math.sqrt(0.5)).log_prob(x.reshape(6, 1, 784))
    else:
        log_p = torch.distributions.Bernoulli(mean).log_prob(x.reshape(6, 1, 784))
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z.double()).squeeze(1)
    exact = torch.logsumexp(log_p.sum(dim=2) + prior, dim=1) + math.log(16 / 4000)
    assert torch.allclose(task.log_marginal(x, LABELS, 20_000).double(), exact, atol=0.15)


@pytest.mark.parametrize("task", ["VAEwolabel", "JSA"])
def test_commands(here, task, capsys):
    torch.set_grad_enabled(True)
    flags = ["--task", task, "--latent_dim", "6", "--likelihood", "bernoulli"]
    flags += ["--hidden", "20", "--val_metric", "nll", "--nll_samples", "5", "--epochs", "3"]
    train.main([*flags, "--batch_size", "20", "--binarize", "threshold"])
    log = [row["val_nll"] for row in read_log(here / "runs" / task / "log.csv")]
    assert log[-1] < log[0]
    assert f"val_nll {min(log):.4f}" in capsys.readouterr().out
    checkpoint = f"runs/{task}/best.pth"
    found = []
    for draws in ("5", "200"):
        inference.main(["--checkpoint_path", checkpoint, "--nll", draws])
        info = json.loads((here / "runs" / task / "inference.json").read_text())
        assert info["nll_samples"] == int(draws)
        found.append(info["nll"])
    assert found[1] < found[0] < 784 * math.log(2) * 1.5
    assert f"importance samples: {found[1]:.2f} nats" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--nll -1"):
        inference.main(["--checkpoint_path", checkpoint, "--nll", "-1"])


def test_estimates_in_every_nth_epoch_and_the_last(here):
    torch.set_grad_enabled(True)
    flags = "--task JSA --latent_dim 6 --hidden 20 --batch_size 20 --val_metric nll --epochs 5"
    train.main([*flags.split(), "--nll_samples", "5", "--nll_every", "2"])
    rows = {int(row["epoch"]): row.get("val_nll") for row in read_log(here / "runs/JSA/log.csv")}
    assert [epoch for epoch, nll in rows.items() if nll] == [2, 4, 5]
    best = min((2, 4, 5), key=rows.get)
    assert read_checkpoint("runs/JSA/best.pth")["epoch"] == best
