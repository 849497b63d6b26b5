"""Part 3: the generator of a given digit (TODO 3)."""

import numpy as np
import pytest

from data_utils import ensure_prepared, load_split
from tests.conftest import EXPECTED, explain, fail
from tests.tools import as_rows, check, check_finite, check_shape

STEPS = 250


@pytest.mark.points(3, part="3")
@pytest.mark.parametrize("latent_dim", [7])
def test_forward_shapes_and_range(probe, rng, latent_dim):
    x = rng.uniform(size=(10, 1, 28, 28)).astype(np.float32)
    inputs = {"latent_dim": latent_dim, "x": x, "labels": np.arange(10), "seed": 1}
    out = probe("forward", task="Genwithlabel", **inputs)
    check_shape(out["mu"], (10, latent_dim), "3", "mu")
    check_shape(out["log_var"], (10, latent_dim), "3", "log_var")
    for name in ("mu", "log_var"):
        check_finite(out[name], "3", name)
    recon = as_rows(out["recon_x"], 10, "3", "recon_x")
    check((recon >= 0).all() and (recon <= 1).all(), "3", "pixels must lie in [0, 1]")
    check(not out["reseeds"], "3", "forward sets the global random seed, at every call")
    same = np.array_equal(out["mu"], out["mu_again"])
    check(same, "3", "mu of one x must not be random in eval mode")
    one = inputs | {"x": x[3:4], "labels": np.arange(3, 4)}
    alone = probe("forward", task="Genwithlabel", **one)["mu"]
    check_shape(alone, (1, latent_dim), "3", "mu of one x")
    message = "mu of an example depends on the other examples in the batch, in eval mode"
    check(np.allclose(alone, out["mu"][3:4], atol=1e-4), "3", message)


@pytest.mark.points(3, part="3")
def test_decode_uses_the_label(probe, rng):
    # One z with the ten labels, and ten others behind it.
    z = np.concatenate([rng.normal(size=(1, 20)).repeat(10, axis=0), rng.normal(size=(10, 20))])
    inputs = {"z": z.astype(np.float32), "labels": np.arange(20) % 10, "seed": 2}
    out = probe("decode", task="Genwithlabel", latent_dim=20, **inputs)
    check(np.array_equal(out["images"], out["again"]), "3", "decode must not be random")
    pictures = as_rows(out["images"], 20, "3", "decode's result for 20 codes")[:10]
    message = "the image of a z depends on the other z in the batch, in eval mode"
    one = as_rows(out["alone"], 1, "3", "decode's result for one code")
    check(np.allclose(one, pictures[:1], atol=1e-4), "3", message)
    distances = np.abs(pictures[:, None] - pictures[None]).max(-1)[~np.eye(10, dtype=bool)]
    message = "one z with ten labels must give ten pictures; is the label ignored?"
    check(distances.min() > 1e-7, "3", message)


@pytest.fixture(scope="module")
def trained(attempt, request):
    """500 samples of the student's model after a short training, by the tests' own seed."""
    ensure_prepared("dataset")
    images, labels = load_split("dataset", "train")
    seed = request.config.getoption("--seed") or 0
    rows = np.random.default_rng(seed).permutation(len(labels))[:2500]
    inputs = {
        "x": (images[rows, None] / 255).astype(np.float32),
        "labels": labels[rows].astype(np.int64),
        "asked": np.repeat(np.arange(10), 50),
    }
    settings = {"latent_dim": 20, "steps": STEPS, "seed": seed}
    return inputs["x"][:200], *attempt("train_gen", settings | inputs)


def recognised(samples: np.ndarray) -> np.ndarray:
    """The digit that a small classifier sees in each image; made once by instructor/classifier.py.

    A network 784-64-10 with ReLU, trained on the bundled digits.
    """
    with np.load(EXPECTED.with_name("classifier.npz"), allow_pickle=False) as weights:
        w1, b1, w2, b2 = (weights[name].astype(np.float64) for name in ("w1", "b1", "w2", "b2"))
    hidden = np.maximum(samples.reshape(len(samples), 784) @ w1 + b1, 0)
    return (hidden @ w2 + b2).argmax(axis=1)


@pytest.mark.points(12, part="3")
@pytest.mark.timeout(240)
def test_trained_model_draws_the_digit_asked_for(trained):
    _, out, failure = trained
    if out is None:
        fail(explain(failure, "3"))
    asked = np.repeat(np.arange(10), 50)
    samples, others = (as_rows(out[k], 500, "3", "500 samples") for k in ("samples", "others"))
    finite = np.isfinite(samples).all() and samples.min() >= 0 and samples.max() <= 1
    check(finite, "3", "samples must be finite and lie in [0, 1]")
    moved = np.abs(samples - others).max(axis=1).min()
    check(moved > 1e-3, "3", "the same z with another label must give another picture")
    spread = samples.reshape(10, 50, 784).std(axis=1).mean(axis=1).min()
    check(spread > 1e-3, "3", "all samples of a digit are the same picture; is z ignored?")
    right = (recognised(samples) == asked).mean()
    shifted = max((recognised(samples) == (asked + by) % 10).mean() for by in (-1, 1))
    hint = "; the labels look shifted by one" if shifted >= 0.5 else ""
    message = f"{right:.0%} of 500 samples show the digit asked for, expected at least 50 %{hint}"
    check(right >= 0.5, "3", message)


@pytest.mark.points(2, part="3")
@pytest.mark.timeout(240)
def test_mu_is_the_code(trained):
    """Inference stores mu and decodes it: a VAE's mu reconstructs better than a draw around it."""
    x, out, failure = trained
    if out is None:
        fail(explain(failure, "3"))
    recon_x, from_mu = (as_rows(out[k], 200, "3", k) for k in ("recon_x", "from_mu"))
    inside = all((r >= 0).all() and (r <= 1).all() for r in (recon_x, from_mu))
    check(inside, "3", "pixels must lie in [0, 1]")
    drawn, code = (((r - x.reshape(200, 784)) ** 2).mean() for r in (recon_x, from_mu))
    message = f"decode(mu) misses x by {code:.3f}, forward's recon_x by {drawn:.3f} (squared error)"
    check(code <= 1.1 * drawn, "3", f"{message}; does forward return mu second, log_var third?")
