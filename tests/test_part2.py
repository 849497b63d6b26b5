"""Part 2: the VAE (TODO 2.2.1 to 2.2.4) and its loss (TODO 2.3)."""

import numpy as np
import pytest

from tests.tools import as_rows, check, check_close, check_finite, check_shape

STEPS, IMAGES, SAMPLES = 120, 100, 10


def images(rng, n):
    return rng.uniform(size=(n, 1, 28, 28)).astype(np.float32), np.zeros(n, dtype=np.int64)


def squares(rng, n):
    """Images that a network can learn in a few steps: a bright square at one of 16 places."""
    place = rng.integers(16, size=n)
    x = np.zeros((n, 1, 28, 28), np.float32)
    for i, (row, column) in enumerate(zip(place // 4, place % 4, strict=True)):
        x[i, 0, 7 * row : 7 * row + 7, 7 * column : 7 * column + 7] = 0.9
    return x, np.zeros(n, dtype=np.int64)


@pytest.mark.points(1.5, part="2.2")
@pytest.mark.parametrize(("latent_dim", "batch"), [(3, 4), (20, 1)])
def test_forward_shapes_and_range(probe, rng, latent_dim, batch):
    x, labels = images(rng, batch)
    inputs = {"latent_dim": latent_dim, "x": x, "labels": labels, "seed": 1}
    out = probe("forward", task="VAEwolabel", **inputs)
    for name in ("mu", "log_var"):
        check_shape(out[name], (batch, latent_dim), name, "2.2.2")
        check_finite(out[name], name, "2.2.2")
    for mode in ("", "_train") if batch > 1 else ("",):
        recon = as_rows(out[f"recon_x{mode}"], batch, "recon_x", "2.2.4")
        message = "pixels must lie in [0, 1]; is the sigmoid missing, or there twice?"
        check((recon >= 0).all() and (recon <= 1).all(), message, "2.2.3")
    message = "forward sets the global random seed, so every call samples the same z"
    check(not out["reseeds"], message, "2.2.4")


@pytest.mark.points(2, part="2.2")
def test_encoder(probe, rng):
    x, labels = images(rng, 6)
    out = probe("forward", task="VAEwolabel", latent_dim=5, x=x, labels=labels, seed=2)
    for name in ("mu", "log_var"):
        check_shape(out[name], (6, 5), name, "2.2.2")
        same = np.array_equal(out[name], out[f"{name}_again"])
        check(same, f"{name} of one x must not be random in eval mode", "2.2.2")
        differs = np.abs(out[name] - out[name][:1])[1:].max(axis=1).min()
        check(differs > 1e-7, f"{name} is the same for different x", "2.2.2")
    same = np.allclose(out["mu"], out["log_var"])
    check(not same, "mu and log_var are the same numbers", "2.2.2")
    # x one at a time: a network may not look at the other examples of its batch in eval mode.
    one = probe("forward", task="VAEwolabel", latent_dim=5, x=x[:1], labels=labels[:1], seed=2)
    check_shape(one["mu"], (1, 5), "mu of one x", "2.2.2")
    message = "mu of an example depends on the other examples in the batch, in eval mode"
    check(np.allclose(one["mu"], out["mu"][:1], atol=1e-4), message, "2.2.2")


@pytest.mark.points(2, part="2.2")
def test_forward_draws_z(probe, rng):
    x, _ = images(rng, 1)
    x, labels = np.repeat(x, 6, axis=0), np.zeros(6, dtype=np.int64)
    out = probe("forward", task="VAEwolabel", latent_dim=20, x=x, labels=labels, seed=3)
    first, again, train = (
        as_rows(out[f"recon_x{suffix}"], 6, "recon_x", "2.2.4")
        for suffix in ("", "_again", "_train")
    )
    message = "two calls of forward must sample two z, in eval mode too; do you decode mu?"
    check(not np.allclose(first, again, atol=1e-7), message, "2.2.4")
    for recon, mode in ((first, "eval"), (train, "train")):
        different = np.abs(recon - recon[:1])[1:].max(axis=1).min() > 1e-7
        message = f"equal images in a batch must get different z, in {mode} mode too"
        check(different, f"{message}; is eps shared in the batch, or mu decoded?", "2.2.4")


@pytest.mark.points(2, part="2.2")
@pytest.mark.parametrize("latent_dim", [4])
def test_decode(probe, rng, latent_dim):
    z, labels = rng.normal(size=(5, latent_dim)).astype(np.float32), np.zeros(5, dtype=np.int64)
    inputs = {"latent_dim": latent_dim, "z": z, "labels": labels, "seed": 4}
    out = probe("decode", task="VAEwolabel", **inputs)
    images = as_rows(out["images"], 5, "decode's result for 5 codes", "2.2.3")
    check(np.array_equal(out["images"], out["again"]), "decode must not be random", "2.2.3")
    inside = (images >= 0).all() and (images <= 1).all()
    check(inside, "decode must give pixels in [0, 1]; is the sigmoid missing?", "2.2.3")
    message = "the image of a z depends on the other z in the batch, in eval mode"
    one = as_rows(out["alone"], 1, "decode's result for one code", "2.2.3")
    check(np.allclose(one, images[:1], atol=1e-4), message, "2.2.3")
    distances = np.abs(images - images[:1])[1:].max(axis=1)
    check(distances.min() > 1e-7, "different z must give different images", "2.2.3")


@pytest.mark.points(2, part="2.2")
def test_gradients_reach_the_encoder(probe, rng):
    x, labels = images(rng, 6)
    out = probe("gradients", task="VAEwolabel", latent_dim=5, x=x, labels=labels, seed=5)
    for name in ("parameters", "mu", "log_var"):
        message = (
            f"no gradient of the reconstruction reaches {name}; is z detached, or not sampled?"
        )
        check_shape(out[name], (), "the gradient's size", "2.2.4")
        check(0 < out[name] < np.inf, message, "2.2.4")


@pytest.mark.points(4, part="2.2")
def test_training_lowers_the_loss_and_z_has_the_right_spread(probe, rng):
    x, labels = squares(rng, 200)
    inputs = {"latent_dim": 8, "x": x, "labels": labels, "seed": 6}
    out = probe("train_vae", steps=STEPS, num_images=IMAGES, num_samples=SAMPLES, **inputs)
    before, after = (
        ((out[k].reshape(200, -1) - x.reshape(200, -1)) ** 2).mean() for k in ("before", "after")
    )
    message = f"after {STEPS} steps the squared error is {after:.3f}, at first it was {before:.3f}"
    check(after < 0.6 * before < np.inf, message + "; it should have fallen much further")
    # For each of IMAGES images, SAMPLES samples of forward beside as many of
    # decode(N(mu, diag(exp(log_var)))). Where both have one distribution, either is wider, or
    # farther from x, with probability 1/2, whatever the network: of 100 images, 6 standard
    # deviations, 50 +- 30, are left with probability 3e-10 (exact binomial tails).
    both = [out[name].reshape(IMAGES, SAMPLES, 784) for name in ("samples", "own_samples")]
    spreads = [np.abs(s - s.mean(axis=1, keepdims=True)).sum(axis=(1, 2)) for s in both]
    errors = [((s - x[:IMAGES].reshape(-1, 1, 784)) ** 2).sum(axis=(1, 2)) for s in both]
    hints = {
        "spread more than": "is log_var used as a variance, or as a standard deviation?",
        "are farther from x than": "does forward return what z is sampled from: mu, then log_var?",
    }
    for (what, hint), (found, wanted) in zip(hints.items(), (spreads, errors), strict=True):
        count = int((found > wanted).sum())
        message = f"for {count} of {IMAGES} images the samples of forward {what} samples of N(mu, "
        message += f"exp(log_var)), expected for about half of them; {hint}"
        check(abs(count - IMAGES / 2) <= 6 * np.sqrt(IMAGES / 4), message, "2.2.4")


# ----------------------------------------------------------------------------------------------
# TODO 2.3

BERNOULLI = {"var": 0.5, "likelihood": "bernoulli"}


def loss_inputs(rng, batch, latent_dim=3):
    x, recon_x = (rng.uniform(0.1, 0.9, (batch, 1, 28, 28)).astype(np.float32) for _ in range(2))
    mu, log_var = (rng.normal(size=(batch, latent_dim)).astype(np.float32) for _ in range(2))
    return {"recon_x": recon_x, "x": x, "mu": mu, "log_var": log_var}


def check_loss(probe, reference, inputs, **settings):
    found = probe("vae_loss", **inputs, **settings)
    expected = reference("vae_loss", **inputs, **settings)
    check_shape(found["loss"], (), "the loss")
    zero = {"mu": np.zeros_like(inputs["mu"]), "log_var": np.zeros_like(inputs["log_var"])}
    at_prior = reference("vae_loss", **inputs | zero, **settings)["loss"]
    whole, kl, batch = expected["loss"], expected["loss"] - at_prior, len(inputs["x"])
    mistakes = {
        "the sum over the batch instead of its mean": batch * whole,
        "the mean over the pixels instead of their sum": at_prior / 784 + kl,
        "the mean over the pixels, and the batch divided by twice": at_prior / 784 / batch + kl,
        "the mean over all entries of z in the KL term": at_prior + kl / inputs["mu"].shape[1],
        "the 1/2 of the reconstruction term missing": 2 * at_prior + kl,
        "the 1/2 of the KL term missing": at_prior + 2 * kl,
        "the KL term subtracted": at_prior - kl,
        "no KL term": at_prior,
        "no reconstruction term": kl,
        "the sign of the whole loss reversed (a loss is minimised)": -whole,
    }
    check_close(found["loss"], whole, "vae_loss", mistakes)
    return found, expected


@pytest.mark.points(2, part="2.3")
@pytest.mark.parametrize("var", [0.1, 0.5, 2.0])
def test_loss_gaussian(probe, reference, rng, var):
    check_loss(probe, reference, loss_inputs(rng, 5), var=var, likelihood="gaussian")


@pytest.mark.points(2, part="2.3")
def test_loss_bernoulli(probe, reference, rng):
    check_loss(probe, reference, loss_inputs(rng, 5), **BERNOULLI)


@pytest.mark.points(1, part="2.3")
def test_loss_bernoulli_at_the_ends(probe, rng):
    """A sigmoid in float32 reaches 0 and 1 exactly, where a plain logarithm gives nan."""
    inputs = loss_inputs(rng, 5)
    recon_x, losses = inputs["recon_x"].round(), []
    for x in (recon_x, inputs["x"]):
        found = probe("vae_loss", **inputs | {"x": x, "recon_x": recon_x}, **BERNOULLI)["loss"]
        message = f"where recon_x is exactly 0 or 1 the Bernoulli loss is {found}, not a finite "
        message += "number; use F.binary_cross_entropy, or keep recon_x away from 0 and 1"
        check_shape(found, (), "the loss")
        check(0 <= found < np.inf, message)
        losses.append(found)
    message = f"where recon_x equals x the Bernoulli loss is {losses[0]:.6g}, where it is quite "
    message += f"wrong {losses[1]:.6g}; the latter must be much larger"
    check(losses[1] > losses[0] + 100, message)


@pytest.mark.points(2, part="2.3")
def test_loss_is_a_batch_mean(probe, reference, rng):
    inputs = loss_inputs(rng, 2)
    twice = {key: np.concatenate([value] * 3) for key, value in inputs.items()}
    settings = {"var": 0.3, "likelihood": "gaussian"}
    once, _ = check_loss(probe, reference, inputs, **settings)
    again, _ = check_loss(probe, reference, twice, **settings)
    message = "the same images three times must give the same loss: take the mean over the batch"
    check(np.isclose(once["loss"], again["loss"], rtol=1e-4), message)


@pytest.mark.points(2, part="2.3")
def test_loss_kl_is_zero_at_the_prior(probe, rng):
    inputs = loss_inputs(rng, 4)
    inputs |= {"recon_x": inputs["x"].copy()}
    inputs |= {key: np.zeros_like(inputs[key]) for key in ("mu", "log_var")}
    found = probe("vae_loss", **inputs, var=0.5, likelihood="gaussian")["loss"]
    message = f"a perfect reconstruction with q(z|x) = N(0, I) must cost 0, found {found}"
    check_shape(found, (), "the loss")
    check(abs(found) < 1e-3, message)
    inputs["mu"] += 1
    found = probe("vae_loss", **inputs, var=0.5, likelihood="gaussian")["loss"]
    check_shape(found, (), "the loss")
    check(1e-2 < found < np.inf, f"with mu = 1 for all z it must cost more, found {found}")


@pytest.mark.points(2, part="2.3")
def test_loss_gradients(probe, reference, rng):
    for likelihood in ("gaussian", "bernoulli"):
        inputs = loss_inputs(rng, 5)
        settings = {"var": 0.2, "likelihood": likelihood, "gradients": True}
        found, expected = check_loss(probe, reference, inputs, **settings)
        for name in ("d_recon_x", "d_mu", "d_log_var"):
            mistakes = {"a term that is detached": 0 * expected[name]}
            what = f"the gradient of vae_loss with respect to {name[2:]}"
            check_close(found[name], expected[name], what, mistakes)
