"""What the autograder's tests share: the `probe` fixture and tiny models."""

import itertools

import numpy as np
import pytest

from tests import probes


@pytest.fixture
def probe():
    """`probe(name, **inputs)` runs a piece of student code and returns a dict of arrays."""
    return probes.run


@pytest.fixture
def rng():
    return np.random.default_rng(20)


def all_states(model: dict) -> np.ndarray:
    """Every value of h: float32 [2^K, K], or int64 [C^D, D]."""
    bits = model["latent"] == "bernoulli"
    values = range(2 if bits else model["num_categories"])
    states = list(itertools.product(values, repeat=model["latent_dim"]))
    return np.array(states, dtype=np.float32 if bits else np.int64)


def tiny_model(rng, latent="bernoulli", likelihood="gaussian", x_shape=(1, 2, 2)) -> dict:
    """A model small enough to enumerate: 8 states of 3 bits, or 9 of 2 three-valued variables."""
    latent_dim, num_categories = (3, 1) if latent == "bernoulli" else (2, 3)
    h_features, x_features = latent_dim * num_categories, int(np.prod(x_shape))

    def linear(n_in, n_out, scale):
        weight = scale * rng.normal(size=(n_out, n_in))
        return weight.astype(np.float32), (scale * rng.normal(size=n_out)).astype(np.float32)

    return {
        "latent_dim": latent_dim,
        "latent": latent,
        "num_categories": num_categories,
        "likelihood": likelihood,
        "sigma": 0.7,
        "x_shape": x_shape,
        "p_net": linear(h_features, x_features, 1.2),
        "q_net": linear(x_features, h_features, 0.4),
    }
