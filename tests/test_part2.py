"""Part 2: the VAE."""

import numpy as np
import pytest


def images(rng, n):
    return rng.uniform(size=(n, 1, 28, 28)).astype(np.float32), np.zeros(n, dtype=np.int64)


@pytest.mark.parametrize("latent_dim", [2, 20])
def test_forward_shapes_and_range(probe, rng, latent_dim):
    x, labels = images(rng, 5)
    out = probe("forward", task="VAEwolabel", latent_dim=latent_dim, x=x, labels=labels)
    assert out["mu"].shape == (5, latent_dim), "TODO 2.2.2: mu must be [B, latent_dim]"
    assert out["log_var"].shape == (5, latent_dim), "TODO 2.2.2: log_var must be [B, latent_dim]"
    assert out["recon_x"].size == x.size, "TODO 2.2.4: recon_x must have one number a pixel"
    inside = (out["recon_x"] >= 0).all() and (out["recon_x"] <= 1).all()
    assert inside, "TODO 2.2.3: pixels must lie in [0, 1]; is the sigmoid missing?"


def test_forward_draws_z(probe, rng):
    x, labels = images(rng, 5)
    out = probe("forward", task="VAEwolabel", latent_dim=20, x=x, labels=labels)
    assert np.array_equal(out["mu"], out["mu_again"]), "TODO 2.2.2: mu must not be random"
    differ = not np.allclose(out["recon_x"], out["recon_x_again"])
    assert differ, "TODO 2.2.4: two calls must draw two z; do you decode mu?"


def test_decode_is_deterministic(probe, rng):
    z = rng.normal(size=(4, 20)).astype(np.float32)
    labels = np.zeros(4, dtype=np.int64)
    out = probe("decode", task="VAEwolabel", latent_dim=20, z=z, labels=labels)
    assert np.array_equal(out["images"], out["again"]), "TODO 2.2.3: decode must not be random"


def loss(probe, rng, likelihood="gaussian", var=0.5, batch=4, **changes):
    x, recon_x = (rng.uniform(0.1, 0.9, (batch, 1, 28, 28)).astype(np.float32) for _ in range(2))
    inputs = {"x": x, "recon_x": recon_x, "mu": np.zeros((batch, 3), np.float32)}
    inputs |= {"log_var": np.zeros((batch, 3), np.float32)} | changes
    out = probe("vae_loss", var=var, likelihood=likelihood, **inputs)["loss"]
    assert out.shape == (), "TODO 2.3: the loss must be one number"
    return float(out), inputs["x"], inputs["recon_x"]


@pytest.mark.parametrize("var", [0.1, 0.5, 2.0])
def test_gaussian_reconstruction_term(probe, rng, var):
    value, x, recon_x = loss(probe, rng, var=var)
    expected = ((x - recon_x) ** 2).sum() / len(x) / (2 * var)
    message = "TODO 2.3: expected the batch mean of ||x - recon_x||^2 / (2 var)"
    assert value == pytest.approx(expected, rel=1e-4), message


def test_bernoulli_reconstruction_term(probe, rng):
    value, x, recon_x = loss(probe, rng, likelihood="bernoulli")
    expected = -(x * np.log(recon_x) + (1 - x) * np.log(1 - recon_x)).sum() / len(x)
    assert value == pytest.approx(expected, rel=1e-4), "TODO 2.3: expected the cross entropy"


def test_kl_term(probe, rng):
    same = np.full((4, 1, 28, 28), 0.5, np.float32)
    at_prior, _, _ = loss(probe, rng, x=same, recon_x=same)
    assert at_prior == pytest.approx(0, abs=1e-4), "TODO 2.3: q equal to the prior has KL 0"
    # KL(N(m, s^2) || N(0, 1)) for one z, by numerical integration.
    mean, log_var = 0.7, -1.2
    z = np.linspace(-12, 12, 200_001)
    q = np.exp(-((z - mean) ** 2) / (2 * np.exp(log_var))) / np.sqrt(2 * np.pi * np.exp(log_var))
    log_p, log_q = -(z**2) / 2 - np.log(2 * np.pi) / 2, np.log(np.maximum(q, 1e-300))
    expected = np.sum(q * (log_q - log_p)) * (z[1] - z[0])
    mu, log_vars = (np.full((4, 1), v, np.float32) for v in (mean, log_var))
    value, _, _ = loss(probe, rng, x=same, recon_x=same, mu=mu, log_var=log_vars)
    message = "TODO 2.3: the KL term of N(0.7, e^-1.2); is log_var used as standard deviation?"
    assert value == pytest.approx(expected, rel=1e-3), message
