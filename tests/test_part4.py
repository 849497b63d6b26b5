"""Part 4: JSA, on models small enough to enumerate.

Random checks use independent chains and a 6-sigma bound on each frequency: for a correct
submission one such bound fails by chance with probability 2e-9.
"""

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from tests.conftest import all_states, tiny_model

KINDS = [(a, b) for a in ("bernoulli", "categorical") for b in ("gaussian", "bernoulli")]
each_kind = pytest.mark.parametrize(("latent", "likelihood"), KINDS)
each_latent = pytest.mark.parametrize("latent", ["bernoulli", "categorical"])


def data(rng, model, n):
    x = rng.uniform(size=(n, *model["x_shape"])).astype(np.float32)
    return x if model["likelihood"] == "gaussian" else x.round()


def state_numbers(model, h):
    """Which row of `all_states` each state [..., K] is."""
    base = 2 if model["latent"] == "bernoulli" else model["num_categories"]
    weights = base ** np.arange(model["latent_dim"])[::-1]
    return (h @ weights).astype(int)


def every_state(probe, model, x):
    """All log-probabilities for all states: each [number of states, B]."""
    states = all_states(model)
    h = np.repeat(states[:, None], len(x), axis=1)
    return probe("log_probs", model=model, x=x, h=h), states


def assert_frequencies(counts, probabilities, message):
    n = counts.sum()
    bound = 6 * np.sqrt(n * probabilities * (1 - probabilities)) + 6  # + 6: rare states, Poisson
    worst = np.argmax(np.abs(counts - n * probabilities) - bound)
    assert (np.abs(counts - n * probabilities) <= bound).all(), (
        f"{message}: state {worst} came {counts[worst]} times, "
        f"expected about {n * probabilities[worst]:.0f} of {n}"
    )


@pytest.mark.parametrize("hidden", [None, [], [30, 20]])
@each_latent
def test_networks(probe, rng, latent, hidden):
    x = rng.uniform(size=(3, 1, 28, 28)).astype(np.float32)
    out = probe("built_nets", latent_dim=6, latent=latent, num_categories=4, hidden=hidden, x=x)
    width = 6 if latent == "bernoulli" else 24
    assert out["p_net"].size == 3 * 784, "TODO 4.1: the joint model's network gives 784 logits"
    assert out["q_net"].size == 3 * width, f"TODO 4.1: the proposal's network gives {width} logits"


@each_kind
def test_log_probabilities(probe, rng, latent, likelihood):
    model = tiny_model(rng, latent, likelihood)
    x = data(rng, model, 5)
    out, states = every_state(probe, model, x)
    shape = (len(states), 5)
    for name in ("log_likelihood", "log_joint", "log_q", "log_w"):
        assert out[name].shape == shape, f"TODO 4.2-4.4: {name} must be [S, B]"
    for name in ("log_joint", "log_q"):
        assert out[f"{name}_one"].shape == (5,), f"TODO 4.2, 4.3: {name} of h [B, K] must be [B]"
        message = f"TODO 4.2, 4.3: {name} of one h differs from the same h among several"
        assert np.allclose(out[f"{name}_one"], out[name][0], atol=1e-5), message
    for name in ("log_prior", "log_q"):
        total = logsumexp(out[name], axis=0)
        message = f"TODO 4.2, 4.3: exp({name}) summed over all h must be 1, found {np.exp(total)}"
        assert np.allclose(total, 0, atol=1e-4), message
    both = out["log_prior"] + out["log_likelihood"]
    assert np.allclose(out["log_joint"], both, atol=1e-4), "TODO 4.2: log p(h) + log p(x|h)"
    expected = out["log_joint"] - out["log_q"]
    assert np.allclose(out["log_w"], expected, atol=1e-4), "TODO 4.4: log w = log p - log q"


def test_gaussian_likelihood_is_a_density(probe, rng):
    model = tiny_model(rng, x_shape=(1,))
    grid = np.linspace(-4, 5, 20_001, dtype=np.float32)[:, None]
    h = np.ones((1, len(grid), 3), np.float32)
    log_density = probe("log_probs", model=model, x=grid, h=h)["log_likelihood"][0]
    total = np.exp(log_density.astype(float)).sum() * float(grid[1, 0] - grid[0, 0])
    message = f"TODO 4.2: p(x|h) must integrate to 1 over x, found {total:.4f}: its constant?"
    assert total == pytest.approx(1, abs=1e-3), message


@each_latent
def test_mode_and_draws_of_q(probe, rng, latent):
    model = tiny_model(rng, latent)
    x = data(rng, model, 1)
    out, states = every_state(probe, model, x)
    q = softmax(out["log_q"][:, 0].astype(float))
    mode = state_numbers(model, out["code"])
    assert mode.tolist() == [q.argmax()], "TODO 4.3: encode must give the mode of q(h|x)"
    h = probe("sample_latent", model=model, x=x, num_samples=20_000, seed=3)["h"]
    assert h.shape == (20_000, 1, model["latent_dim"]), "TODO 4.3: draws must be [S, B, K]"
    counts = np.bincount(state_numbers(model, h[:, 0]), minlength=len(states))
    assert_frequencies(counts, q, "TODO 4.3: sample_latent does not draw from q(h|x)")


def test_mis_chain_by_hand(probe):
    inf, half = np.inf, np.log(0.5)
    # Columns: up; down rejected; down accepted; compare with the current state, not the last
    # proposal; leave -inf; never enter -inf; undefined stays; tie moves.
    log_w = np.array(
        [
            [0.0, 0.0, 0.0, 0.0, -inf, 0.0, -inf, 3.0],
            [5.0, half, half, -900.0, -5.0, -inf, -inf, 3.0],
            [-9.0, half, 2 * half, half, -5.0, -inf, -inf, -inf],
        ]
    )
    u = np.full((2, 8), 0.6)
    u[:, 2] = 0.4
    u[0, 5] = 0.0
    expected = [[1, 0, 1, 0, 1, 0, 0, 1], [1, 0, 2, 0, 2, 0, 0, 1]]
    rows = probe("mis_chain", log_w=log_w, u=u)["rows"]
    assert rows.tolist() == expected, f"TODO 4.4: expected rows {expected}, found {rows.tolist()}"
    empty = probe("mis_chain", log_w=log_w[:1], u=u[:0])["rows"]
    assert empty.shape == (0, 8), "TODO 4.4: no steps, no rows"


@pytest.mark.parametrize("by_steps", [False, True])
@each_latent
def test_chain_reaches_and_keeps_the_posterior(probe, rng, latent, by_steps):
    model = tiny_model(rng, latent)
    x = data(rng, model, 1)
    out, states = every_state(probe, model, x)
    posterior = softmax(out["log_joint"][:, 0].astype(float))
    n = 20_000
    many_x = np.repeat(x, n, axis=0)
    exact = states[rng.choice(len(states), size=n, p=posterior)]
    fixed = np.repeat(states[:1], n, axis=0)
    # The second-largest eigenvalue of an MIS chain is 1 - 1/max(w) with normalised weights w
    # (Liu 1996); after 60 steps what is left of the fixed start is far below the bound.
    w = np.exp(out["log_w"][:, 0] - logsumexp(out["log_joint"][:, 0]))
    assert (1 - 1 / w.max()) ** 60 < 1e-4, "the test's own tiny model mixes too slowly"
    for h_init, steps, where in ((exact, 2, "leaves"), (fixed, 60, "does not reach")):
        inputs = {"h_init": h_init, "num_steps": steps, "by_steps": by_steps, "seed": 5}
        h = probe("sampler", model=model, x=many_x, **inputs)["h"]
        counts = np.bincount(state_numbers(model, h), minlength=len(states))
        assert_frequencies(counts, posterior, f"TODO 4.5: the chain {where} the posterior")


@pytest.mark.parametrize("by_steps", [False, True])
@each_latent
def test_cache(probe, rng, latent, by_steps):
    model = tiny_model(rng, latent)
    x = data(rng, model, 6)
    idx = np.array([10, 2, 7, 0, 5, 3])
    inputs = {"idx": idx, "by_steps": by_steps, "seed": 1}
    out = probe("sampler", model=model, x=x, num_steps=3, **inputs)
    others = np.setdiff1d(np.arange(11), idx)
    same = np.array_equal(out["cache"][others], out["cache_before"][others])
    assert same, "TODO 4.5: the cache must change at the given indices only"
    message = "TODO 4.5: the cache must hold the returned states"
    assert np.array_equal(out["cache"][idx], out["h"]), message


def test_cached_state_is_the_start(probe, rng):
    model = tiny_model(rng)
    x = data(rng, model, 6)
    idx, h = np.arange(6)[::-1].copy(), rng.integers(0, 2, (6, 3)).astype(np.float32)
    out = probe("sampler", model=model, x=x, h_init=h, idx=idx, num_steps=0, seed=1)
    assert np.array_equal(out["h"], h), "TODO 4.5: without h_init the chain starts from the cache"


@each_kind
def test_jsa_loss(probe, rng, latent, likelihood):
    model = tiny_model(rng, latent, likelihood)
    x = data(rng, model, 6)
    states = all_states(model)
    h = states[rng.integers(0, len(states), 6)]
    out = probe("jsa_loss", model=model, x=x, h=h)
    logs = probe("log_probs", model=model, x=x, h=h[None])
    for name, key in (("loss_joint", "log_joint_one"), ("loss_proposal", "log_q_one")):
        expected = -logs[key].mean()
        message = f"TODO 4.6: {name} must be the batch mean of -{key[:-4]}"
        assert out[name].shape == () and np.isclose(out[name], expected, rtol=1e-4), message
    for name in ("p.1.weight", "q.1.weight"):
        assert np.abs(out[name]).max() > 0, f"TODO 4.6: no gradient reaches {name[0]}"
