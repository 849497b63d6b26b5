"""Part 3: the generator of a given digit (TODO 3)."""

import numpy as np
import pytest

from data_utils import ensure_prepared, load_split
from kit.files import DATA_DIR
from tests.tools import CLASSIFIER, answer, as_rows, check, check_finite, check_shape

STEPS = 250


@pytest.mark.points(3, part="3")
@pytest.mark.parametrize("latent_dim", [7])
def test_forward_shapes_and_range(probe, rng, latent_dim):
    x = rng.uniform(size=(10, 1, 28, 28)).astype(np.float32)
    inputs = {"latent_dim": latent_dim, "x": x, "labels": np.arange(10), "seed": 1}
    out = probe("forward", task="Genwithlabel", **inputs)
    check_shape(out["mu"], (10, latent_dim), "mu")
    check_shape(out["log_var"], (10, latent_dim), "log_var")
    for name in ("mu", "log_var"):
        check_finite(out[name], name)
    recon = as_rows(out["recon_x"], 10, "recon_x")
    check((recon >= 0).all() and (recon <= 1).all(), "pixels must lie in [0, 1]")
    check(not out["reseeds"], "forward sets the global random seed, at every call")
    same = np.array_equal(out["mu"], out["mu_again"])
    check(same, "mu of one x must not be random in eval mode")
    one = inputs | {"x": x[3:4], "labels": np.arange(3, 4)}
    alone = probe("forward", task="Genwithlabel", **one)["mu"]
    check_shape(alone, (1, latent_dim), "mu of one x")
    message = "mu of an example depends on the other examples in the batch, in eval mode"
    check(np.allclose(alone, out["mu"][3:4], atol=1e-4), message)


@pytest.mark.points(3, part="3")
def test_decode_uses_the_label(probe, rng):
    # One z with the ten labels, and ten others behind it.
    z = np.concatenate([rng.normal(size=(1, 20)).repeat(10, axis=0), rng.normal(size=(10, 20))])
    inputs = {"z": z.astype(np.float32), "labels": np.arange(20) % 10, "seed": 2}
    out = probe("decode", task="Genwithlabel", latent_dim=20, **inputs)
    check(np.array_equal(out["images"], out["again"]), "decode must not be random")
    pictures = as_rows(out["images"], 20, "decode's result for 20 codes")[:10]
    message = "the image of a z depends on the other z in the batch, in eval mode"
    one = as_rows(out["alone"], 1, "decode's result for one code")
    check(np.allclose(one, pictures[:1], atol=1e-4), message)
    distances = np.abs(pictures[:, None] - pictures[None]).max(-1)[~np.eye(10, dtype=bool)]
    message = "one z with ten labels must give ten pictures; is the label ignored?"
    check(distances.min() > 1e-7, message)


@pytest.fixture(scope="module")
def trained(attempt, request):
    """200 of the images, and what `train_gen` gives after a short training of the student's model.

    The outputs are None where there are none; the reason follows.
    """
    ensure_prepared(DATA_DIR)
    images, labels = load_split(DATA_DIR, "train")
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
    """The digit that a small classifier sees in each image.

    A network 784-64-10 with ReLU, trained by staff on the bundled digits.
    """
    with np.load(CLASSIFIER, allow_pickle=False) as weights:
        w1, b1, w2, b2 = (weights[name].astype(np.float64) for name in ("w1", "b1", "w2", "b2"))
    hidden = np.maximum(samples.reshape(len(samples), 784) @ w1 + b1, 0)
    return (hidden @ w2 + b2).argmax(axis=1)


@pytest.mark.points(12, part="3")
@pytest.mark.timeout(240)
def test_trained_model_draws_the_digit_asked_for(trained):
    _, out, failure = trained
    out = answer(out, failure)
    asked = np.repeat(np.arange(10), 50)
    samples, others = (as_rows(out[k], 500, "500 samples") for k in ("samples", "others"))
    finite = np.isfinite(samples).all() and samples.min() >= 0 and samples.max() <= 1
    check(finite, "samples must be finite and lie in [0, 1]")
    moved = np.abs(samples - others).max(axis=1).min()
    check(moved > 1e-3, "the same z with another label must give another picture")
    spread = samples.reshape(10, 50, 784).std(axis=1).mean(axis=1).min()
    check(spread > 1e-3, "all samples of a digit are the same picture; is z ignored?")
    right = (recognised(samples) == asked).mean()
    shifted = max((recognised(samples) == (asked + by) % 10).mean() for by in (-1, 1))
    hint = "; the labels look shifted by one" if shifted >= 0.5 else ""
    message = f"{right:.0%} of 500 samples show the digit asked for, expected at least 50 %{hint}"
    check(right >= 0.5, message)


@pytest.mark.points(2, part="3")
@pytest.mark.timeout(240)
def test_mu_is_the_code(trained):
    """Inference decodes mu, which in a VAE reconstructs better than a sample around it."""
    x, out, failure = trained
    out = answer(out, failure)
    recon_x, from_mu = (as_rows(out[k], 200, k) for k in ("recon_x", "from_mu"))
    inside = all((r >= 0).all() and (r <= 1).all() for r in (recon_x, from_mu))
    check(inside, "pixels must lie in [0, 1]")
    sampled, code = (((r - x.reshape(200, 784)) ** 2).mean() for r in (recon_x, from_mu))
    message = f"the squared error of decode(mu) is {code:.3f}, that of forward's recon_x "
    message += f"{sampled:.3f}; does forward return mu second, log_var third?"
    check(code <= 1.1 * sampled, message)
