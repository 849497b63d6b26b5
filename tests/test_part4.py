"""Part 4: JSA (TODO 4.1 to 4.7), on models small enough to enumerate."""

import numpy as np
import pytest

from tests.tools import (
    check,
    check_close,
    check_finite,
    check_frequencies,
    check_shape,
    mixture_model,
    network_model,
    state_numbers,
    states_of,
    table_model,
    table_x,
)

LATENTS = ["bernoulli", "categorical"]
KINDS = [(latent, likelihood) for latent in LATENTS for likelihood in ("gaussian", "bernoulli")]
each_latent = pytest.mark.parametrize("latent", LATENTS)
each_kind = pytest.mark.parametrize(("latent", "likelihood"), KINDS)
CHAINS = 20_000


def softmax(log: np.ndarray) -> np.ndarray:
    weights = np.exp(log.astype(float) - log.max())
    return weights / weights.sum()


def data(rng, model, n):
    x = rng.uniform(size=(n, *model["x_shape"])).astype(np.float32)
    return x if model["likelihood"] == "gaussian" else x.round()


def every_state(model, batch):
    """All states for each of `batch` examples: [S, B, K]."""
    return np.repeat(states_of(model)[:, None], batch, axis=1)


# ----------------------------------------------------------------------------------------------
# TODO 4.1


@pytest.mark.points(0.25, part="4.1")
@pytest.mark.parametrize("hidden", [None, [], [30, 20], [17]])
@each_latent
def test_build_net(probe, rng, latent, hidden):
    # [17] stands for models of points in the plane, where x has two entries.
    x_shape = (2,) if hidden == [17] else (1, 28, 28)
    x = rng.uniform(size=(3, *x_shape)).astype(np.float32)
    inputs = {"latent_dim": 6, "latent": latent, "num_categories": 4, "hidden": hidden}
    out = probe("built_nets", x=x, **inputs)
    h_features, x_features = 6 if latent == "bernoulli" else 24, int(np.prod(x_shape))
    for net, size, name in (("p", x_features, "JointModel"), ("q", h_features, "ProposalModel")):
        found, large = out[f"{net}_out"], out[f"{net}_large"]
        message = f"{name}'s network gives {list(found.shape)} for 3 inputs, expected 3 x {size}"
        check(len(found) == 3 and found.size == 3 * size, message)
        check_finite(found, f"the output of {name}'s network")
        trained = out[f"{net}_trained"]
        message = f"{name}'s network has parts without gradient"
        check(trained.size > 0 and trained.all(), message)
        # At least 40 rows of random weights, symmetric about 0: all outputs of a linear last layer
        # are of one sign with a probability below 1e-11.
        message = f"{name}'s network must give logits, of any size and sign: no sigmoid at its end"
        both = large.min() < 0 < large.max() and 2 < np.abs(large).max() < np.inf
        check(both, message)
        if hidden == []:
            check(out[f"{net}_bend"] < 1e-4, f"{name}: hidden=[] must be a linear map")
        else:
            bends = 1e-6 < out[f"{net}_bend"] < np.inf
            check(bends, f"{name}: no activation between the layers?")
        if hidden:
            order = hidden[::-1] if net == "p" else hidden
            widths = out[f"{net}_widths"][:20].tolist()
            message = f"{name}: layers of widths {widths}, expected {[*order, size]}"
            check(widths == [*order, size], message)


# ----------------------------------------------------------------------------------------------
# TODO 4.2


def joint_probe(probe, reference, rng, kind, wanted, batch=5, x_shape=(1, 2, 2)):
    """What the student's joint model gives for `wanted`, all that the reference gives, inputs."""
    latent, likelihood = kind
    model = network_model(rng, latent, likelihood, x_shape)
    x = data(rng, model, batch)
    inputs = {"model": model, "x": x, "h": every_state(model, batch)}
    return probe("joint", wanted=wanted, **inputs), reference("joint", **inputs), inputs


@pytest.mark.points(0.5, part="4.2")
@each_latent
def test_prior(probe, reference, rng, latent):
    kind = (latent, "gaussian")
    found, expected, inputs = joint_probe(probe, reference, rng, kind, ["log_prior"])
    found, expected = found["log_prior"], expected["log_prior"]
    mistakes = {"one latent variable instead of their sum": expected / inputs["h"].shape[-1]}
    check_close(found, expected, "log p(h)", mistakes)
    total = np.exp(found[:, 0]).sum()
    check(abs(total - 1) < 1e-4, f"p(h) summed over all h is {total:.4f}, expected 1")
    samples = probe("prior_samples", model=inputs["model"], num_samples=CHAINS, seed=8)["h"]
    check_shape(samples, (CHAINS, inputs["h"].shape[-1]), "prior().sample((S,))")
    uniform = np.full(len(inputs["h"]), 1 / len(inputs["h"]))
    check_frequencies(state_numbers(inputs["model"], samples), uniform, "samples of p(h)")


@pytest.mark.points(0.5, part="4.2")
@each_latent
def test_prior_that_learns(probe, reference, rng, latent):
    """Where the joint model has a mixture, that is its prior; here a stand-in for TODO 4.7's."""
    model = network_model(rng, latent) | mixture_model(rng, latent)
    inputs = {"model": model, "x": data(rng, model, 5), "h": every_state(model, 5)}
    found = probe("joint_with_mixture", **inputs)
    expected = reference("joint_with_mixture", **inputs)
    states = len(inputs["h"])
    mistakes = {"the uniform prior: use self.mixture": np.full((states, 5), -np.log(states))}
    check_close(found["log_prior"], expected["log_prior"], "log p(h) with a mixture", mistakes)
    samples = found["samples"]
    message = "with a mixture, prior().sample must be the mixture's"
    check(samples.shape == expected["samples"].shape and (samples == 7).all(), message)
    uniform = expected["log_joint"] - expected["log_prior"] - np.log(states)
    mistakes = {
        "the uniform prior in place of the mixture: use self.prior()": uniform,
        "the prior counted twice": expected["log_joint"] + expected["log_prior"],
        "the prior missing": expected["log_joint"] - expected["log_prior"],
    }
    check_close(found["log_joint"], expected["log_joint"], "log p(x, h) with a mixture", mistakes)
    mistakes = {
        "a copy of the mixture, or a result that is detached from its parameters": 0
        * expected["gradient"]
    }
    what = "the gradient of log p(x, h) with respect to the mixture's parameters"
    check_close(found["gradient"], expected["gradient"], what, mistakes, atol=1e-3)
    if "d_h" in expected:
        d_h = expected["d_h"]
        d_prior = np.broadcast_to(model["component_logits"][0], d_h.shape)
        mistakes = {
            "a result that is detached from h: do not detach or round it": 0 * d_h,
            "log p(x|h) detached from h: do not detach or round it": d_prior,
            "log p(h) detached from h: do not detach or round it": d_h - d_prior,
        }
        what = "the gradient of log p(x, h) with respect to h"
        check_close(found["d_h"], d_h, what, mistakes, atol=1e-3)


@pytest.mark.points(0.25, part="4.2")
@each_kind
def test_likelihood(probe, reference, rng, latent, likelihood):
    wanted = ["log_likelihood"]
    found, expected, inputs = joint_probe(probe, reference, rng, (latent, likelihood), wanted)
    found, expected, sigma = found["log_likelihood"], expected["log_likelihood"], 0.7
    pixels = inputs["x"][0].size
    constant = -pixels * (np.log(sigma) + 0.5 * np.log(2 * np.pi))
    squares = expected - constant
    mistakes = {
        "the mean over the entries of x instead of their sum": expected / pixels,
        "the sign reversed": -expected,
    }
    if likelihood == "gaussian":
        mistakes |= {
            "the Gaussian's constant missing": squares,
            "the 1/2 of the Gaussian missing": constant + 2 * squares,
            "sigma used as variance": -pixels / 2 * np.log(2 * np.pi * sigma) + squares * sigma,
            "sigma^2 used as standard deviation": constant
            - pixels * np.log(sigma)
            + squares / sigma**2,
        }
    check_close(found, expected, "log p(x|h)", mistakes)
    saturated = network_model(rng, latent, likelihood)
    saturated["p_bias"] = np.array([60, -60, 60, -60], np.float32)
    x = data(rng, saturated, 5)
    found = probe("joint", model=saturated, x=x, h=inputs["h"], wanted=wanted)
    message = "log p(x|h) is not finite where the logits are -60 and 60; compute with the logits"
    finite = np.isfinite(found["log_likelihood"]).all()
    check(finite, f"{message}, not with log(sigmoid(logits))")


@pytest.mark.points(0.5, part="4.2")
@each_kind
def test_log_joint_prob(probe, reference, rng, latent, likelihood):
    kind, wanted = (latent, likelihood), ["log_joint", "log_joint_one", "gradient"]
    found, expected, inputs = joint_probe(probe, reference, rng, kind, wanted)
    mistakes = {
        "the prior missing": expected["log_likelihood"],
        "the prior subtracted": expected["log_likelihood"] - expected["log_prior"],
        "the sign reversed": -expected["log_joint"],
    }
    check_close(found["log_joint"], expected["log_joint"], "log p(x, h)", mistakes)
    what = "log p(x, h) of one h [B, K]"
    check_close(found["log_joint_one"], expected["log_joint_one"], what)
    what = "the gradient of log p(x, h) with respect to the network's parameters"
    mistakes = {"a result that is detached from the network": 0 * expected["gradient"]}
    check_close(found["gradient"], expected["gradient"], what, mistakes, atol=1e-3)
    # 256 pixels: here p(x, h) itself is 0 in float32, its logarithm is not.
    large = {"batch": 2, "x_shape": (1, 16, 16)}
    found, expected, _ = joint_probe(probe, reference, rng, kind, ["log_joint"], **large)
    what = "log p(x, h) for x of 256 pixels"
    check_close(found["log_joint"], expected["log_joint"], what)
    saturated = inputs["model"] | {"p_bias": np.array([60, -60, 60, -60], np.float32)}
    found = probe("joint", wanted=["log_joint"], **inputs | {"model": saturated})
    message = "log p(x, h) is not finite where the logits are -60 and 60; compute with the logits"
    check(np.isfinite(found["log_joint"]).all(), message)


@pytest.mark.points(0.25, part="4.2")
@each_kind
def test_joint_decode(probe, reference, rng, latent, likelihood):
    kind = (latent, likelihood)
    found, expected, _ = joint_probe(probe, reference, rng, kind, ["mean"])
    found, expected = found["mean"], expected["mean"]
    logits = np.log(expected / (1 - expected))
    mistakes = {"the sigmoid missing": logits, "two sigmoids": 1 / (1 + np.exp(-expected))}
    check_close(found, expected, "decode(h), the mean of p(x|h),", mistakes)


# ----------------------------------------------------------------------------------------------
# TODO 4.3


def proposal_probe(probe, reference, rng, latent, wanted, batch=5):
    """As `joint_probe`."""
    model = network_model(rng, latent)
    x = data(rng, model, batch)
    inputs = {"model": model, "x": x, "h": every_state(model, batch)}
    return probe("proposal", wanted=wanted, **inputs), reference("proposal", **inputs), inputs


@pytest.mark.points(1.25, part="4.3")
@each_latent
def test_log_conditional_prob(probe, reference, rng, latent):
    wanted = ["log_q", "log_q_one", "log_q_object", "gradient"]
    found, whole, inputs = proposal_probe(probe, reference, rng, latent, wanted)
    expected, gradient, k = whole["log_q"], found["gradient"], inputs["h"].shape[-1]
    mistakes = {
        "the mean over the latent dimensions instead of their sum": expected / k,
        "the sign reversed": -expected,
        "bits reversed (q(0) for 1)": expected[::-1],
    }
    check_close(found["log_q"], expected, "log q(h|x)", mistakes)
    check_close(found["log_q_one"], expected[0], "log q(h|x) of one h [B, K]")
    check_close(found["log_q_object"], expected, "proposal(x).log_prob(h)")
    what = "the gradient of log q(h|x) with respect to the network's parameters"
    mistakes = {"a result that is detached from the network": 0 * whole["gradient"]}
    check_close(gradient, whole["gradient"], what, mistakes, atol=1e-3)
    # 300 latent variables: here q(h|x) itself is 0 in float32, its logarithm is not.
    model = network_model(rng, latent, latent_dim=300)
    many = {"model": model, "x": inputs["x"][:2]}
    many["h"] = rng.integers(max(2, model["num_categories"]), size=(3, 2, 300))
    many["h"] = many["h"].astype(inputs["h"].dtype)
    found, expected = probe("proposal", wanted=["log_q"], **many), reference("proposal", **many)
    check_close(found["log_q"], expected["log_q"], "log q(h|x) for 300 latent variables")
    signs = (-1.0) ** np.arange(len(inputs["model"]["q_bias"]))
    saturated = inputs["model"] | {"q_bias": (60 * signs).astype(np.float32)}
    found = probe("proposal", wanted=["log_q"], **inputs | {"model": saturated})["log_q"]
    message = "log q(h|x) is not finite where the logits are -60 and 60; compute with the logits"
    check(np.isfinite(found).all(), message + ", not with log(probabilities)")


@pytest.mark.points(1, part="4.3")
@each_latent
def test_sample_latent(probe, reference, rng, latent):
    model = network_model(rng, latent)
    x = data(rng, model, 2)
    expected = reference("proposal", model=model, x=x, h=every_state(model, 2))
    k = model["latent_dim"]
    out = probe("sample_latent", model=model, x=x, num_samples=CHAINS, seed=3)
    check_shape(out["h"], (CHAINS, 2, k), "sample_latent(x, S)")
    check_shape(out["by_default"], (1, 2, k), "sample_latent(x)")
    check_shape(out["of_proposal"], (7, 2, k), "proposal(x).sample((7,))")
    for name in ("by_default", "of_proposal"):
        states = (state_numbers(model, out[name]) >= 0).all()
        check(states, f"{name}: a sample must be bits or categories")
    message = "sample_latent sets the global random seed, so every call samples the same states"
    check(not out["reseeds"], message)
    pairs = []
    for example in range(2):
        numbers = state_numbers(model, out["h"][:, example])
        pairs.append(numbers)
        one = (numbers == numbers[0]).all()
        hint = " (always the same: the mode instead of a sample?)" if one else ""
        what = f"samples of q(h|x){hint}"
        check_frequencies(numbers, softmax(expected["log_q"][:, example]), what)
    # Independence of two examples: under it the joint frequencies are the products.
    joint = np.outer(*(softmax(expected["log_q"][:, i]) for i in range(2))).ravel()
    numbers = pairs[0] * len(states_of(model)) + pairs[1]
    check_frequencies(numbers, joint, "samples for two examples of a batch, jointly")


@pytest.mark.points(0.75, part="4.3")
@each_latent
def test_encode(probe, reference, rng, latent):
    found, expected, inputs = proposal_probe(probe, reference, rng, latent, ["code"], batch=20)
    check_shape(found["code"], expected["code"].shape, "encode(x)")
    states = bool((state_numbers(inputs["model"], found["code"]) >= 0).all())
    check(states, "encode must give bits or categories, not probabilities")
    # Where two states are equally likely but for rounding, either is right.
    best = np.sort(expected["log_q"], axis=0)[-2:]
    clear = best[1] - best[0] > 1e-4
    right = np.array_equal(found["code"][clear], expected["code"][clear])
    check(right, "encode must give the mode of q(h|x), each latent's likeliest value")


# ----------------------------------------------------------------------------------------------
# TODO 4.4


@pytest.mark.points(1, part="4.4")
@each_latent
def test_log_importance_weight(probe, reference, rng, latent):
    model = table_model(rng, latent)
    x, h = table_x([0, 1, 2, 1]), every_state(model, 4)
    found = probe("log_importance_weight", model=model, x=x, h=h)
    expected = reference("log_importance_weight", model=model, x=x, h=h)["log_w"]
    log_q = model["log_q"][[0, 1, 2, 1]].T
    mistakes = {
        "the two terms exchanged": -expected,
        "log q missing": expected + log_q,
        "log q added": expected + 2 * log_q,
        "a weight that is not in log space": np.exp(expected),
    }
    check_close(found["log_w"], expected, "log w(x, h)", mistakes)
    check_close(found["log_w_one"], expected[0], "log w(x, h) of one h [B, K]")


@pytest.mark.points(2, part="4.4")
@pytest.mark.parametrize(("steps", "batch"), [(1, 50), (8, 40)])
def test_mis_chain(probe, reference, rng, steps, batch):
    log_w = 2 * rng.normal(size=(steps + 1, batch))
    # Far from every possible threshold, so that u < exp(difference) decides as log u < difference.
    u = rng.uniform(1e-6, 1, size=(steps, batch))
    for _ in range(50):
        gaps = np.log(u)[:, None] - (log_w[1:, None] - log_w[None])
        close = (np.abs(gaps) < 1e-3).any(axis=1)
        u[close] = rng.uniform(1e-6, 1, size=close.sum())
    found = probe("mis_chain", log_w=log_w, u=u)
    rows = found["rows"]
    expected = reference("mis_chain", log_w=log_w, u=u)["rows"]
    mistakes = {  # log_w and u with which a correct chain goes where the mistake leads
        "the comparison reversed": (-log_w, 1 / u),
        "the difference reversed (current minus proposal)": (-log_w, u),
        "Barker's rule w' / (w + w') in place of Metropolis'": (log_w, u / (1 - u)),
        "greedy moves (whenever the weight is larger, never otherwise)": (log_w, 1 - 1e-12 + 0 * u),
        "u compared with the difference, without a logarithm": (log_w, np.exp(u)),
    }
    mistakes = {
        mistake: reference("mis_chain", log_w=w, u=v)["rows"]
        for mistake, (w, v) in mistakes.items()
    }
    # Each step by itself, as a chain of one step from the proposal before: 1 where it moves.
    before, after = log_w[:-1].reshape(1, -1), log_w[1:].reshape(1, -1)
    alone = reference("mis_chain", log_w=np.concatenate([before, after]), u=u.reshape(1, -1))
    moved_to = alone["rows"].reshape(u.shape) * np.arange(1, steps + 1)[:, None]
    previous = np.maximum.accumulate(moved_to, axis=0)
    mistakes["the previous proposal in place of the current state"] = previous
    check_shape(rows, expected.shape, "mis_chain's rows")
    if not np.array_equal(rows, expected):
        t, b = np.argwhere(rows != expected)[0]
        message = f"chain {b} is at row {rows[t, b]} after step {t + 1}, expected "
        message += f"{int(expected[t, b])}"
        for mistake, would_be in mistakes.items():
            if np.array_equal(rows, would_be):
                message += f"\nThis is what one gets with {mistake}."
        check(False, message)


EDGES = {
    "up": ([0, 5], [0.9], [1]),
    "down, refused": ([0, -1], [0.9], [0]),
    "down, accepted": ([0, -1], [0.1], [1]),
    "a tie moves": ([3, 3, 3], [0.9, 0.1], [1, 2]),
    "a difference of 1e5 (exp overflows)": ([-1e5, 1e5, -1e5], [0.5, 0.5], [1, 1]),
    "weights near -1e5 (exp underflows)": ([-1e5, -1e5 - 1, -1e5 + 1], [0.9, 0.9], [0, 2]),
    "-inf is left by any finite proposal": ([-np.inf, -1e5], [0.999], [1]),
    "-inf is never entered": ([0, -np.inf], [1e-300], [0]),
    "-inf to -inf: stay": ([-np.inf, -np.inf, 1], [0.5, 0.5], [0, 2]),
    "nan is never entered": ([0, np.nan, -0.1], [0.5, 0.5], [0, 2]),
}


@pytest.mark.points(2, part="4.4")
def test_mis_chain_edges(probe):
    for name, (log_w, u, expected) in EDGES.items():
        column = np.array(log_w, dtype=float)[:, None], np.array(u, dtype=float)[:, None]
        rows = probe("mis_chain", log_w=column[0], u=column[1])["rows"]
        check_shape(rows, (len(u), 1), "mis_chain's rows")
        message = f"{name}: log_w {log_w}, u {u}: found rows {rows[:, 0].tolist()}"
        check(rows[:, 0].tolist() == expected, f"{message}, expected {expected}")


@pytest.mark.points(2, part="4.4")
def test_mis_chain_sizes(probe, rng):
    rows = probe("mis_chain", log_w=rng.normal(size=(1, 4)), u=np.zeros((0, 4)))["rows"]
    check_shape(rows, (0, 4), "mis_chain's rows for T = 0")
    # Many chains of one step from a state twice as likely: 1/2 of them move.
    log_w = np.repeat(np.log([[2.0], [1.0]]), CHAINS, axis=1)
    u = rng.uniform(size=(1, CHAINS))
    rows = probe("mis_chain", log_w=log_w, u=u)["rows"]
    check_shape(rows, (1, CHAINS), "mis_chain's rows")
    rows = rows[0]
    one_third = np.mean(rows == 1) < 0.4
    hint = " (1/3 is Barker's rule w'/(w + w'), not Metropolis')" if one_third else ""
    check_frequencies(rows, np.array([0.5, 0.5]), f"moves to half the weight{hint}")


# ----------------------------------------------------------------------------------------------
# TODO 4.5


@pytest.mark.points(0.75, part="4.5")
@each_latent
def test_log_acceptance_ratio(probe, reference, rng, latent):
    model = table_model(rng, latent)
    states, x = model["states"], table_x([0, 1, 2, 2, 1])
    h_new, h_old = (states[rng.integers(len(states), size=5)] for _ in range(2))
    inputs = {"model": model, "x": x, "h_new": h_new, "h_old": h_old}
    found = probe("log_acceptance_ratio", **inputs)["ratio"]
    expected = reference("log_acceptance_ratio", **inputs)["ratio"]
    rows = x[:, 0].astype(int)
    new, old = (state_numbers(model, h) for h in (h_new, h_old))
    p_ratio = model["log_p"][rows, new] - model["log_p"][rows, old]
    mistakes = {
        "h_new and h_old exchanged": -expected,
        "the q-ratio forgotten": p_ratio,
        "the q-ratio not turned upside down": 2 * p_ratio - expected,
        "a ratio that is not in log space": np.exp(expected),
        "the minimum with 0 already taken": np.minimum(expected, 0),
    }
    check_close(found, expected, "log_acceptance_ratio", mistakes)


def stationary(probe, rng, latent, use_sample):
    """Chains by TODO 4.5 keep and reach the posterior, with TODO 4.4's weights given."""
    model = table_model(rng, latent, rows=1)
    states, posterior = model["states"], softmax(model["log_p"][0])
    x = table_x(np.zeros(CHAINS))
    # What is left of a fixed start after n steps is at most (1 - 1/max w)^n, with normalised
    # weights w (Liu 1996); exactly distributed starts stay exact.
    w = np.exp(model["log_w"][0]) / np.exp(model["log_p"][0]).sum()
    steps = int(np.ceil(np.log(1e-5) / np.log(1 - 1 / w.max())))
    start = int(np.argsort(model["log_w"][0])[len(states) // 2])  # moves up and down from here
    fixed = np.repeat(states[[start]], CHAINS, axis=0)
    # One step leaves a state with the probability of each proposal times min(1, ratio of weights).
    moves = softmax(model["log_q"][0]) * np.minimum(1, w / w[start])
    moves[start] += 1 - moves.sum()
    exact = states[rng.choice(len(states), size=CHAINS, p=posterior)]
    for verb, h_init, num_steps, expected in (
        ("keep the posterior", exact, 3, posterior),
        ("reach the posterior", fixed, steps, posterior),
        ("accept by Metropolis' rule (Barker's also keeps the posterior)", fixed, 1, moves),
    ):
        inputs = {"h_init": h_init, "num_steps": num_steps, "seed": 5, "use_sample": use_sample}
        out = probe("steps", model=model, x=x, **inputs)
        h, name = out["h"], "sample" if use_sample else "step"
        check_shape(h, h_init.shape, "the returned states")
        message = f"{name} sets the global random seed, so every step samples the same"
        check(use_sample or not out["reseeds"], message)
        what = f"after {num_steps} step(s) of {name}, which must {verb}"
        check_frequencies(state_numbers(model, h), expected, what)


@pytest.mark.points(0.75, part="4.5")
@each_latent
def test_step_keeps_and_reaches_the_posterior(probe, rng, latent):
    stationary(probe, rng, latent, use_sample=False)


@pytest.mark.points(0.75, part="4.5")
@each_latent
def test_sample(probe, rng, latent):
    """`sample` walks the chain that mis_chain gives; without mis_chain, by its stationarity."""
    model = table_model(rng, latent)
    row = rng.integers(3, size=12)
    h_init = model["states"][rng.integers(len(model["states"]), size=12)]
    rows = np.array([[0, 1, 1, 0, 0, 1], [2, 1, 1, 0, 2, 2], [2, 3, 1, 0, 2, 3]]).repeat(2, axis=1)
    inputs = {"model": model, "x": table_x(row), "h_init": h_init, "rows": rows, "seed": 9}
    out = probe("sample_by_rows", **inputs)
    check_shape(out["h"], h_init.shape, "sample's result")
    message = "sample sets the global random seed, so every call samples the same chain"
    check(not out["reseeds"], message)
    same = np.array_equal(out["h_zero_steps"], h_init)
    check(same, "sample with num_steps=0 must return the starting states")
    asked = out["asked"]
    if asked.size == 0:  # no call of mis_chain: the sampler has its own way
        stationary(probe, rng, latent, use_sample=True)
    else:
        check_shape(asked, (4, 12), "the log_w that sample hands to mis_chain")
        check_shape(out["u"], (3, 12), "the u that sample hands to mis_chain")
        # 36 numbers of 24 bits: three or more coincidences have a probability below 1e-12.
        inside = (out["u"] >= 0).all() and (out["u"] < 1).all()
        different = len(np.unique(out["u"])) >= 34
        check(inside and different, "u must be 36 different uniform numbers in [0, 1)")
        message = "row 0 of log_w must be the weight of the starting state under today's models"
        start = model["log_w"][row, state_numbers(model, h_init)]
        check(np.allclose(asked[0], start, atol=1e-4), message)
    check_record(model, row, h_init, out, rows if asked.size else None)
    # Without h_init and idx the start and all proposals are independent samples of q.
    many = {"x": table_x(np.zeros(CHAINS)), "h_init": None, "rows": np.ones((2, CHAINS), int)}
    states = probe("sample_by_rows", **inputs | many)["recorded_states"]
    check_shape(states, (3, CHAINS, h_init.shape[1]), "the recorded states")
    q, numbers = softmax(model["log_q"][0]), state_numbers(model, states)
    for first, second in ((0, 1), (1, 2)):
        check_frequencies(numbers[first], q, "starting states and proposals, samples of q(h|x)")
        pairs = np.where((numbers < 0).any(axis=0), -1, numbers[first] * len(q) + numbers[second])
        what = f"proposals of q(h|x), rows {first} and {second} of the states jointly"
        check_frequencies(pairs, np.outer(q, q).ravel(), what)


def check_record(model, row, h_init, out, rows) -> None:
    """What `sample` left to `self.record` tells the chain that it returned the end of."""
    states, log_w, walked = (out[f"recorded_{name}"] for name in ("states", "log_w", "rows"))
    message = "sample must call self.record(states, log_w, rows) with [T+1, B, K], [T+1, B], [T, B]"
    shapes = states.shape == (4, *h_init.shape) and log_w.shape == (4, 12)
    check(shapes and walked.shape == (3, 12), message)
    numbers = state_numbers(model, states)
    check((numbers >= 0).all(), "the recorded states are no bits or categories")
    start = np.array_equal(states[0], h_init)
    check(start, "row 0 of the states must be the starting state")
    message = "the weights of the states must be log p(x, h) - log q(h|x)"
    check(np.allclose(log_w, model["log_w"][row, numbers], atol=1e-4), message)
    message = "the states returned must be those of the rows that mis_chain gives last"
    last = walked[-1] if rows is None else rows[-1]
    check(np.array_equal(out["h"], states[last, np.arange(12)]), message)
    same = rows is None or np.array_equal(walked, rows)
    check(same, "the recorded rows must be those that mis_chain gives")


@pytest.mark.points(0.375, part="4.5")
@pytest.mark.parametrize("use_sample", [False, True])
@each_latent
def test_cache(probe, rng, latent, use_sample):
    """Twelve examples of row 0 sit in a state that outweighs all others: they stay there.

    `later` that state weighs next to nothing, and they leave it at the first other proposal. So
    what a chain does tells where it started and with which weight. Where mis_chain is called, its
    rows are given, and what it was asked tells the same.
    """
    model = table_model(rng, latent)
    later = {key: value.copy() if hasattr(value, "copy") else value for key, value in model.items()}
    for tables, shift in ((model, 40), (later, -40)):
        tables["log_p"][0, 0] += shift
        tables["log_w"][0, 0] += shift
    stays, states = 12, model["states"]
    idx = rng.permutation(stays + 3 + 5)[: stays + 3]
    cached, other = states[[0] * stays + [4, 5, 6]], states[[3] * stays + [1, 1, 1]]
    rows = np.array([[0] * stays + [1] * 3, [0] * stays + [2] * 3, [0] * stays + [2, 3, 3]])
    inputs = {"model": model, "later": later, "x": table_x([0] * stays + [1, 1, 2]), "idx": idx}
    inputs |= {"cached": cached, "other": other, "rows": rows, "num_steps": 3}
    out = probe("cache", use_sample=use_sample, seed=1, **inputs)
    name = "sample" if use_sample else "step"
    others = np.setdiff1d(np.arange(len(idx) + 5), idx)
    wrote = np.array_equal(out["cache_written"][idx], cached)
    check(wrote, "update_cache(idx, h) must store h at idx")
    for key, cache in out.items():
        if key.startswith("cache_"):
            same = np.array_equal(cache[others], out["cache_empty"][others])
            check(same, f"the cache must change at the given indices only ({name})")
    for key in ("first", "later", "given", "fresh"):
        message = f"{name} with idx must leave the returned states in the cache"
        check(np.array_equal(out[f"cache_{key}"][idx], out[key]), message)
    message = f"{name} with idx and no h_old or h_init must start from the cached states"
    check(np.array_equal(out["first"][:stays], cached[:stays]), message)
    message = f"{name} with both idx and h_old or h_init must start from the states handed over"
    check(np.array_equal(out["given"][:stays], cached[:stays]), message)
    message = f"{name} must score the cached state under today's models, not keep an old weight"
    if out["later_asked"].size:
        now = np.allclose(out["later_asked"][0, :stays], later["log_w"][0, 0], atol=1e-4)
    else:  # all 36 proposals are that state with probability q^36, 4e-8 on average over tables
        now = (state_numbers(model, out["later"][:stays]) > 0).any()
    check(now, message)
    fresh = state_numbers(model, out["fresh"])
    message = f"{name}: an example that no chain has visited must start from a sample of q"
    check((fresh >= 0).all(), message)
    same = np.array_equal(out["cache_without_idx"][idx], out["fresh"])
    check(same, f"{name} without idx must not touch the cache")


# ----------------------------------------------------------------------------------------------
# TODO 4.6


@pytest.mark.points(2, part="4.6")
@each_latent
def test_jsa_loss(probe, reference, rng, latent):
    model = table_model(rng, latent)
    x = table_x([0, 1, 2, 1, 0, 2])
    h = model["states"][rng.integers(len(model["states"]), size=6)]
    found = probe("jsa_loss", model=model, x=x, h=h)
    expected = reference("jsa_loss", model=model, x=x, h=h)
    p, q = expected["loss_joint"], expected["loss_proposal"]
    for name, value, other in (("loss_joint", p, q), ("loss_proposal", q, p)):
        mistakes = {
            "the sign reversed (a loss is minimised)": -value,
            "the sum over the batch instead of its mean": 6 * value,
            "the two losses exchanged": other,
            "the two losses added": p + q,
        }
        check_close(found[name], value, name, mistakes)
    for name, value in expected.items():
        if name.startswith("d_"):
            _, loss, by = name.split("_", 1)[0], *name[2:].split("_by_")
            what = f"the gradient of {loss} with respect to the parameters of {by}"
            mistakes = {"a loss that is detached": 0 * value} if value.any() else {}
            check_close(found[name], value, what, mistakes)


# ----------------------------------------------------------------------------------------------
# TODO 4.7


def log_softmax(a: np.ndarray, axis=-1) -> np.ndarray:
    a = a.astype(float)
    return a - np.logaddexp.reduce(a, axis=axis, keepdims=True)


def looked_up(h, table) -> np.ndarray:
    """table[m, j, h_j] for each row m of [M, D, C] and each entry of h [..., D]: [..., M, D]."""
    one_hot = np.eye(table.shape[-1])[h]  # (..., D, C)
    return (np.expand_dims(one_hot, -3) * table).sum(axis=-1)


def mixture_terms(model, h):
    """log pi [M] and log p(h_j|m) of each entry, [..., M, K], worked out one by one."""
    logits = model["component_logits"].astype(float)  # (M, K) or (M, D, C)
    if model["latent"] == "bernoulli":
        terms = np.expand_dims(h, -2) * logits - np.logaddexp(0, logits)
    else:
        terms = looked_up(h, log_softmax(logits))
    return log_softmax(model["mixture_logits"]), terms


def mixed(weights, values) -> np.ndarray:
    """log sum_m exp(...) of [..., M]."""
    return np.logaddexp.reduce(weights + values, axis=-1)


def wrong_components(model, h) -> dict:
    """What comes of wrong log p(h_j|m), by mistake: [..., M, K]."""
    logits = model["component_logits"].astype(float)
    if model["latent"] == "bernoulli":
        bits, softplus = np.expand_dims(h, -2), np.logaddexp(0, logits)
        p = 1 / (1 + np.exp(-logits))
        return {
            "softplus(logit_j) missing": bits * logits,
            "softplus(logit_j) added, not subtracted": bits * logits + softplus,
            "softplus(-logit_j) in place of softplus(logit_j)": bits * logits - softplus + logits,
            "bits reversed": (1 - bits) * logits - softplus,
            "the bits that are 0 left out": bits * (logits - softplus),
            "logits taken for probabilities": bits * logits + (1 - bits) * (1 - logits),
            "probabilities taken for logits": bits * p - np.logaddexp(0, p),
        }
    log_p, both = log_softmax(logits), logits.reshape(len(logits), -1)
    exchanged = np.swapaxes(log_p, -1, -2).reshape(log_p.shape)
    as_bits = logits - np.logaddexp(0, logits).mean(axis=(1, 2), keepdims=True) * logits.shape[2]
    tables = {
        "logits in place of their log_softmax over the categories": logits,
        "a softmax in place of log_softmax": np.exp(log_p),
        "log_softmax over the components, not over the categories": log_softmax(logits, axis=0),
        "log_softmax over the variables, not over the categories": log_softmax(logits, axis=1),
        "log_softmax over variables and categories": log_softmax(both).reshape(logits.shape),
        "variables and categories exchanged": exchanged,
        "categories taken for bits": as_bits,
    }
    return {mistake: looked_up(h, table) for mistake, table in tables.items()}


@pytest.mark.points(1.5, part="4.7")
@each_latent
def test_mixture_log_prob(probe, rng, latent):
    model = mixture_model(rng, latent)
    h = every_state(model, 2)
    log_pi, terms = mixture_terms(model, h)
    log_p, pi = terms.sum(axis=-1), np.exp(log_pi)  # (S, B, M), (M,)
    expected = mixed(log_pi, log_p)
    mistakes = {
        "the weights pi forgotten": mixed(0, log_p),
        "equal weights in place of pi": mixed(-np.log(len(log_pi)), log_p),
        "weights that are not normalised: pi is the softmax of mixture_logits": mixed(
            model["mixture_logits"].astype(float), log_p
        ),
        "a sigmoid in place of the softmax": mixed(
            -np.logaddexp(0, -model["mixture_logits"].astype(float)), log_p
        ),
        "pi in place of log pi": mixed(pi, log_p),
        "pi counted once for each entry of h": mixed(h.shape[-1] * log_pi, log_p),
        "p(h) in place of its logarithm": np.exp(expected),
        "the largest term in place of the sum over the components": (log_pi + log_p).max(axis=-1),
        "a product of the components in place of their mixture": (log_pi + log_p).sum(axis=-1),
        "the mean of log p(h|m), in place of the logarithm of the mean of p(h|m)": (pi * log_p).sum(
            axis=-1
        ),
        "a mixture for each entry of h: the sum over j stands inside that over m": mixed(
            log_pi, np.swapaxes(terms, -1, -2)
        ).sum(axis=-1),
        "the mean over the entries of h in place of their sum": mixed(log_pi, terms.mean(axis=-1)),
        "the sign reversed": -expected,
    }
    for mistake, wrong in wrong_components(model, h).items():
        mistakes[mistake] = mixed(log_pi, wrong.sum(axis=-1))
    found = probe("mixture", model=model, h=h, wanted=["log_p", "log_p_one"])
    check_close(found["log_p"], expected, "log p(h) of the mixture", mistakes)
    check_close(found["log_p_one"], expected[0, 0], "log p(h) of one h [K]")
    total = np.exp(found["log_p"][:, 0]).sum()
    check(abs(total - 1) < 1e-4, f"p(h) summed over all h is {total:.4f}, expected 1")
    # 300 latent variables: here p(h|m) itself is 0 in float32, its logarithm is not.
    model = mixture_model(rng, latent, latent_dim=300)
    many = rng.integers(max(2, model["num_categories"]), size=(3, 2, 300)).astype(h.dtype)
    log_pi, terms = mixture_terms(model, many)
    found = probe("mixture", model=model, h=many, wanted=["log_p"])["log_p"]
    what = "log p(h) of the mixture for 300 latent variables (use torch.logsumexp)"
    check_close(found, mixed(log_pi, terms.sum(axis=-1)), what, atol=1e-3)
    model = mixture_model(rng, latent)
    # Component 0 has the opposite signs. Some states are all but impossible under both kinds of
    # components; for others the terms of the sum differ by 180 nats and more.
    logits = model["component_logits"]
    logits[:] = 60 * (-1.0) ** np.arange(logits[0].size).reshape(logits[0].shape)
    logits[0] *= -1
    log_pi, terms = mixture_terms(model, h)
    found = probe("mixture", model=model, h=h, wanted=["log_p"])["log_p"]
    what = "log p(h) of the mixture for logits of -60 and 60 (with the logits, by logsumexp)"
    check_close(found, mixed(log_pi, terms.sum(axis=-1)), what, atol=1e-3)


@pytest.mark.points(0.5, part="4.7")
@each_latent
def test_mixture_gradient(probe, reference, rng, latent):
    model = mixture_model(rng, latent)
    inputs = {"model": model, "h": every_state(model, 2)}
    found = probe("mixture", wanted=["gradient"], **inputs)["gradient"]
    expected = reference("mixture", **inputs)["gradient"]
    components = len(model["mixture_logits"])  # they come first
    by_pi, count = np.arange(len(expected)) < components, inputs["h"].shape[0] * 2
    pi = np.zeros(len(expected))
    pi[by_pi] = softmax(model["mixture_logits"])
    mistakes = {
        "a result that is detached from both": 0 * expected,
        "a result that is detached from mixture_logits": np.where(by_pi, 0, expected),
        "a result that is detached from component_logits": np.where(by_pi, expected, 0),
        "a softmax of mixture_logits that has no gradient": expected + count * pi,
    }
    what = "the gradient of log p(h) with respect to mixture_logits and component_logits"
    check_close(found, expected, what, mistakes, atol=1e-3)
    if latent == "categorical":
        return
    # Between 0 and 1 log p(h) may be any function of h. But where a bit is likelier 1, it rises.
    model = mixture_model(rng, latent, components=1)
    found = probe("mixture", model=model, h=inputs["h"], wanted=["d_h"])["d_h"]
    what = "the gradient of log p(h) with respect to h"
    check_shape(found, inputs["h"].shape, what)
    check(found.any(), f"{what} is 0: do not detach h, round it or use it as an index")
    right = (np.sign(found) == np.sign(model["component_logits"][0])).all()
    check(right, f"{what} must be positive where a bit is likelier 1, negative where likelier 0")


def mixture_hints(model, log_pi, terms) -> dict:
    """The distributions [S] that samples have after some mistakes; terms [S, M, K]."""
    states, logits = states_of(model), model["component_logits"].astype(float)
    log_p, pi = terms.sum(axis=-1), np.exp(log_pi)  # (S, M), (M,)

    def with_logits(logits):
        terms = mixture_terms(model | {"component_logits": logits}, states)[1]
        return np.exp(terms.sum(axis=-1)) @ pi

    hints = {
        "as if each entry of h came from another component: draw m once for a whole h": np.exp(
            mixed(log_pi, np.swapaxes(terms, -1, -2))
        ).prod(axis=-1),
        "as if all components were equally likely: draw m from pi": np.exp(log_p).mean(axis=-1),
        "as if pi were the softmax of the softmax of mixture_logits": np.exp(log_p)
        @ softmax(softmax(model["mixture_logits"])),
        "as if mixture_logits were probabilities: they are logits": np.exp(log_p)
        @ (np.abs(model["mixture_logits"]) / np.abs(model["mixture_logits"]).sum()),
        "as if h were the likeliest one of its component: draw it": np.eye(len(states))[
            log_p.argmax(axis=0)
        ].T
        @ pi,
        "as if the logits of the components were averaged: draw m": with_logits(
            np.broadcast_to(np.tensordot(pi, logits, 1), logits.shape)
        ),
    }
    for m in range(len(pi)):
        same = f"as if all came from component {m}: draw m anew for each sample, from pi"
        hints[same] = np.exp(log_p[:, m])
    if model["latent"] == "categorical":
        hints["as if probabilities were taken for logits"] = with_logits(
            np.exp(log_softmax(logits))
        )
        return hints
    p, ones = 1 / (1 + np.exp(-logits)), states[:, None] == 1  # (M, K), (S, 1, K)
    shared = np.where(ones, p, 1).min(axis=-1) - np.where(ones, 0, p).max(axis=-1)
    return hints | {
        "as if probabilities were taken for logits": with_logits(p),
        "as if 0 and 1 were exchanged": np.exp(mixed(log_pi, log_p))[::-1],
        "as if all bits of a sample shared one random number": shared.clip(0) @ pi,
    }


@pytest.mark.points(1, part="4.7")
@each_latent
def test_mixture_sample(probe, rng, latent):
    model = mixture_model(rng, latent)
    states, k = states_of(model), model["latent_dim"]
    log_pi, terms = mixture_terms(model, states)
    p = softmax(mixed(log_pi, terms.sum(axis=-1)))
    out = probe("mixture_samples", model=model, num_samples=2 * CHAINS, seed=4)
    check_shape(out["h"], (2 * CHAINS, k), "sample((S,))")
    check_shape(out["one"], (k,), "sample()")
    check_shape(out["several"], (2, 3, k), "sample((2, 3))")
    message = "sample sets the global random seed, so every call samples the same states"
    check(not out["reseeds"], message)
    numbers = state_numbers(model, out["h"])
    check((numbers >= 0).all(), "a sample must be bits or categories, not probabilities")
    bits = latent == "bernoulli"
    message = f"samples are of another type than {'float32' if bits else 'int64'}"
    check(out["floats"] == bits, message)
    counts = np.bincount(numbers[:CHAINS], minlength=len(states)) / CHAINS
    # Far from p and near another distribution, which it may be: a hint only, no verdict.
    far, hints = np.abs(counts - p).max() > 0.02, mixture_hints(model, log_pi, terms)
    few = np.count_nonzero(counts) <= len(log_pi)
    shared = "as if all samples of a call shared their random numbers" if few else ""
    hint = next((h for h, q in hints.items() if np.abs(counts - q).max() < 0.01), shared)
    hint = f" ({hint})" if hint and far else ""
    check_frequencies(numbers[:CHAINS], p, f"samples of the mixture{hint}")
    pairs = numbers[:CHAINS] * len(states) + numbers[CHAINS:]
    what = "samples of the mixture in one call, two of them jointly"
    check_frequencies(pairs, np.outer(p, p).ravel(), what)
