"""Part 5 (challenge): images of movable patches (TODO 5.1 to 5.4)."""

import numpy as np
import pytest

from tests.tools import check, check_close, check_finite, check_frequencies, check_shape


def prototypes_of(rng, k: int, r: int) -> np.ndarray:
    return rng.normal(size=(k, r, r)).astype(np.float32)


def spread_of(size: int, k: int, r: int) -> np.ndarray:
    """[C, S*S, K*R*R]: 1 where a choice brings an entry of the prototypes to a pixel."""
    spread = np.zeros((k, size, size, size, size, k, r, r), dtype=np.float32)
    for n, i, j, row, column in np.ndindex(k, size, size, size, size):
        a, b = row - i + r // 2, column - j + r // 2
        if 0 <= a < r and 0 <= b < r:
            spread[n, i, j, row, column, n, a, b] = 1
    return spread.reshape(k * size**2, size**2, k * r**2)


# ----------------------------------------------------------------------------------------------
# TODO 5.1

AT_THE_BORDER = [0, 4, 24, 20, 2, 22, 10, 14, 12]  # positions of a 5 x 5 image, the middle last


@pytest.mark.points(1, part="5.1")
@pytest.mark.parametrize("width", [1, 3, 5])
def test_render(probe, reference, rng, width):
    prototypes, size = prototypes_of(rng, 3, width), 5
    one = np.array(AT_THE_BORDER)[:, None] + 25 * rng.integers(3, size=(9, 1))
    many = rng.integers(75, size=(2, 4, 3))  # leading dimensions [2, 4]
    for choices in (one, many):
        lead = choices.shape[:-1]
        weight = rng.normal(size=(*lead, 1, size, size)).astype(np.float32)
        inputs = {"choices": choices, "prototypes": prototypes, "size": size, "weight": weight}
        found, expected = probe("render", **inputs), reference("render", **inputs)
        mirrored = reference("render", **inputs | {"prototypes": prototypes[:, ::-1, ::-1].copy()})
        k, place = choices // 25, choices % 25
        turned = inputs | {"choices": k * 25 + place % 5 * 5 + place // 5}
        mistakes = {
            "prototypes that are mirrored": mirrored["image"],
            "row and column exchanged": reference("render", **turned)["image"],
            "later patches that replace earlier ones": reference(
                "render", **inputs, overwrite=True
            )["image"],
        }
        check_close(found["image"], expected["image"], "the image", mistakes)
        what = "the gradient with respect to the prototypes"
        check_close(found["gradient"], expected["gradient"], what)


@pytest.mark.points(1, part="5.1")
def test_render_overwrite(probe, reference, rng):
    choices = rng.integers(2 * 36, size=(20, 5))
    weight = rng.normal(size=(20, 1, 6, 6)).astype(np.float32)
    inputs = {"choices": choices, "prototypes": prototypes_of(rng, 2, 3), "size": 6}
    inputs["weight"] = weight
    found = probe("render", **inputs, overwrite=True)["image"]
    expected = reference("render", **inputs, overwrite=True)["image"]
    reverse = inputs | {"choices": choices[:, ::-1].copy()}
    mistakes = {
        "the sum of the patches": reference("render", **inputs)["image"],
        "earlier patches on top": reference("render", **reverse, overwrite=True)["image"],
    }
    check_close(found, expected, "the image with overwrite=True", mistakes)


# ----------------------------------------------------------------------------------------------
# TODO 5.2


def log_softmax(log: np.ndarray) -> np.ndarray:
    log = log - log.max(axis=1, keepdims=True)
    return log - np.log(np.exp(log).sum(axis=1, keepdims=True))


@pytest.mark.points(2, part="5.2")
@pytest.mark.parametrize("width", [3, 5])
def test_patch_log_scores(probe, reference, rng, width):
    prototypes, beta, size, count = prototypes_of(rng, 3, width), 0.7, 6, 4
    residual = rng.normal(size=(count, 1, size, size)).astype(np.float32)
    inputs = {"residual": residual, "prototypes": prototypes}
    found = probe("patch_log_scores", **inputs, beta=beta)["log_p"]
    expected = reference("patch_log_scores", **inputs, beta=beta)["log_p"]
    # What is in the rows of ones: ||r - w||^2 up to a constant, part by part.
    table = (spread_of(size, 3, width) @ prototypes.ravel()).astype(np.float64)  # (C, S*S)
    inner = residual.reshape(count, -1) @ table.T
    window = spread_of(size, 3, width).sum(axis=2)  # (C, S*S), 1 where the patch lies
    square = (table**2).sum(axis=1)
    whole = np.repeat((prototypes.astype(np.float64) ** 2).sum(axis=(1, 2)), size**2)
    mirrored = inputs | {"prototypes": prototypes[:, ::-1, ::-1].copy()}
    mistakes = {
        "||w||^2 of the whole prototype where its border is cut off": log_softmax(
            beta * (2 * inner - whole)
        ),
        "||w||^2 missing": log_softmax(beta * 2 * inner),
        "the error inside the R x R window alone; the rest of ||r||^2 counts too": log_softmax(
            beta * (2 * inner - square - residual.reshape(count, -1) ** 2 @ window.T)
        ),
        "<r, w> without its factor 2": log_softmax(beta * (inner - square)),
        "the sign of beta reversed": log_softmax(-beta * (2 * inner - square)),
        "the mean over the pixels instead of their sum": log_softmax(
            beta / size**2 * (2 * inner - square)
        ),
        "scores that are not normalised": beta * (2 * inner - square),
        "probabilities, not their logarithms": np.exp(expected),
        "mirrored prototypes": reference("patch_log_scores", **mirrored, beta=beta)["log_p"],
    }
    check_close(found, expected, "the log-probability of a choice", mistakes, atol=1e-3)


@pytest.mark.points(1, part="5.2")
def test_patch_log_scores_of_digits(probe, reference, rng):
    # As in training: 28 x 28 pixels and a large beta, where probabilities themselves are 0.
    prototypes = np.abs(prototypes_of(rng, 4, 7))
    residual = rng.uniform(size=(1, 1, 28, 28)).astype(np.float32)
    inputs = {"residual": residual, "prototypes": prototypes, "beta": 300.0}
    found = probe("patch_log_scores", **inputs)["log_p"]
    check_finite(found, "the log-probability of a choice at beta = 300")
    expected = reference("patch_log_scores", **inputs)["log_p"]
    check_close(found, expected, "the log-probability of a choice", atol=0.5)


@pytest.mark.points(1, part="5.2")
def test_patch_log_scores_of_each_image(probe, reference, rng):
    # A row is a distribution of its own: it must not depend on the other images of the batch.
    prototypes = prototypes_of(rng, 2, 3)
    residual = 2 * rng.normal(size=(6, 1, 5, 5)).astype(np.float32)
    found = probe("patch_log_scores", residual=residual, prototypes=prototypes, beta=0.3)["log_p"]
    inputs = {"residual": residual[2:3].copy(), "prototypes": prototypes, "beta": 0.3}
    alone = probe("patch_log_scores", **inputs)["log_p"]
    check_shape(found, (6, 50), "patch_log_scores of 6 images of 5 x 5 pixels")
    message = "the scores of an image change with the other images of the batch; softmax over "
    same = np.allclose(found[2], alone[0], atol=1e-4)
    check(same, message + "dimension 0 instead of 1?")
    sums = np.exp(found).sum(axis=1)
    worst = sums[np.argmax(np.abs(sums - 1))]
    message = f"the probabilities of an image add up to {worst:.4f}, expected 1"
    check(abs(worst - 1) < 1e-3, message)
    expected = reference("patch_log_scores", **inputs)["log_p"]
    check_close(alone, expected, "the log-probability of a choice", atol=1e-3)


# ----------------------------------------------------------------------------------------------
# TODO 5.3, on an image of 2 x 2 pixels with few choices; TODO 5.1 and 5.2 are replaced

CHAINS = 20_000
SIZE, WIDTH, PATCHES = 2, 3, 2


def tiny(rng, k: int):
    """Prototypes, an image, beta, `spread`, and p(h|x) [C, C] of two components by enumeration."""
    prototypes, beta = prototypes_of(rng, k, WIDTH), 0.4
    x = rng.normal(size=(1, 1, SIZE, SIZE)).astype(np.float32)
    spread = spread_of(SIZE, k, WIDTH)
    placed = (spread @ prototypes.ravel()).astype(np.float64)  # (C, S*S)
    images = placed[:, None] + placed[None]  # (C, C, S*S)
    log_p = -beta * ((x.ravel() - images) ** 2).sum(axis=2)
    posterior = np.exp(log_p - log_p.max())
    inputs = {"prototypes": prototypes, "beta": beta, "spread": spread}
    return inputs, x, posterior / posterior.sum()


def numbers_of(states, num_choices: int) -> np.ndarray:
    """Pairs of choices [N, 2] as numbers; -1 for what is no choice."""
    valid = ((states >= 0) & (states < num_choices)).all(axis=1)
    return np.where(valid, states[:, 0] * num_choices + states[:, 1], -1)


MAX_SWEEPS = 100  # about one random model in ten needs more, a few need thousands


def sweeps_needed(posterior: np.ndarray) -> int | None:
    """Sweeps after which a chain from state (0, 0) is at most 0.2 of 20,000 samples off.

    None: more than MAX_SWEEPS.
    """
    second = posterior / posterior.sum(axis=1, keepdims=True)  # p(h_2 | h_1)
    first = posterior / posterior.sum(axis=0, keepdims=True)  # p(h_1 | h_2)
    at = np.zeros_like(posterior)
    at[0, 0] = 1
    for number in range(1, MAX_SWEEPS + 1):
        at = first * at.sum(axis=0)  # sample h_1 given the h_2 of before
        at = second * at.sum(axis=1, keepdims=True)
        if np.abs(at - posterior).max() * CHAINS < 0.2:
            return number
    return None


@pytest.mark.points(2, part="5.3")
def test_gibbs_sweep_keeps_the_posterior(probe, rng):
    inputs, x, posterior = tiny(rng, k=2)
    numbers = rng.choice(posterior.size, size=CHAINS, p=posterior.ravel())
    start = np.stack(np.divmod(numbers, len(posterior)), axis=1)
    images = np.repeat(x, CHAINS, axis=0)
    found = probe("gibbs_sweep", x=images, choices=start, num_sweeps=1, seed=3, **inputs)["state"]
    check_shape(found, start.shape, "gibbs_sweep")
    moved = (found != start).mean()
    check(moved > 0.01, "gibbs_sweep left (nearly) all choices as they were")
    what = "a sweep from exact samples of p(h|x)"
    check_frequencies(numbers_of(found, len(posterior)), posterior.ravel(), what)


@pytest.mark.points(2, part="5.3")
def test_gibbs_sweep_converges(probe, rng):
    needed = None
    while needed is None:  # draw models until one mixes fast enough for a test
        inputs, x, posterior = tiny(rng, k=1)
        needed = sweeps_needed(posterior)
    start = np.zeros((CHAINS, PATCHES), dtype=np.int64)
    # Twice as many as from the first component on: any order of the components is right.
    sweeps = 2 * needed
    images = np.repeat(x, CHAINS, axis=0)
    inputs |= {"x": images, "choices": start, "num_sweeps": sweeps, "seed": 4}
    found = probe("gibbs_sweep", **inputs)["state"]
    what = f"{sweeps} sweeps from one fixed state"
    check_frequencies(numbers_of(found, len(posterior)), posterior.ravel(), what)


@pytest.mark.points(1, part="5.3")
def test_gibbs_sweep_draws_from_its_generator(probe, rng):
    inputs, x, posterior = tiny(rng, k=2)
    images = np.repeat(x, 600, axis=0)
    start = rng.integers(len(posterior), size=(600, PATCHES))
    found = probe("gibbs_sweep", x=images, choices=start, num_sweeps=1, seed=5, **inputs)
    same = np.array_equal(found["first"], found["again"])
    check(same, "two sweeps with generators of one seed differ; pass the generator on")
    # 500 images with 2 choices of 8 each: that all agree by chance is out of the question.
    differ = not np.array_equal(found["first"], found["other"])
    check(differ, "sweeps with generators of different seeds are the same")
    message = "a sweep with a generator also uses PyTorch's global one"
    check(found["untouched"], message)
    check_shape(found["without"], (2, PATCHES), "gibbs_sweep without a generator")


# ----------------------------------------------------------------------------------------------
# TODO 5.4


def pairs(num_choices: int, batch: int) -> np.ndarray:
    """All pairs of choices for each of `batch` images: [C*C, B, 2]."""
    grid = np.stack(np.divmod(np.arange(num_choices**2), num_choices), axis=1)
    return np.repeat(grid[:, None], batch, axis=1)


@pytest.mark.points(2, part="5.4")
def test_patch_joint(probe, reference, rng):
    prototypes, spread = prototypes_of(rng, 2, WIDTH), spread_of(SIZE, 2, WIDTH)
    x = rng.uniform(size=(3, 1, SIZE, SIZE)).astype(np.float32)
    inputs = {"x": x, "h": pairs(8, 3), "prototypes": prototypes, "size": SIZE, "beta": 2.5}
    inputs["spread"] = spread
    found, expected = probe("patch_joint", **inputs), reference("patch_joint", **inputs)
    check_close(found["mean"], expected["mean"], "PatchJoint.decode(h)")
    log_prior = -PATCHES * np.log(8)
    constant = SIZE**2 / 2 * np.log(2.5 / np.pi)
    log_p = expected["log_joint"]
    mistakes = {
        "log p(h) missing": log_p - log_prior,
        "log p(h) of one choice only": log_p - log_prior / 2,
        "the Gaussian's constant missing": log_p - constant,
        "the sign reversed": -log_p,
        "-beta/2 ||x - o||^2 (beta is 1 / (2 sigma^2))": log_prior
        + constant
        - SIZE**2 / 2 * np.log(2)
        + (log_p - log_prior - constant) / 2,
    }
    check_close(found["log_joint"], log_p, "log p(x, h)", mistakes)
    what = "log p(x, h) of one h [B, H]"
    check_close(found["log_joint_one"], log_p[0], what)
    what = "the gradient of log p(x, h) with respect to the prototypes"
    mistakes = {"a result that is detached from the prototypes": 0 * expected["gradient"]}
    check_close(found["gradient"], expected["gradient"], what, mistakes, 1e-3, 1e-2)


def proposal_model(rng, k: int) -> dict:
    """A linear network from the residual to the logits of a choice."""
    num_choices = k * SIZE**2
    return {
        "prototypes": prototypes_of(rng, k, WIDTH),
        "size": SIZE,
        "spread": spread_of(SIZE, k, WIDTH),
        "weight": rng.normal(size=(num_choices, SIZE**2)).astype(np.float32),
        "bias": 0.5 * rng.normal(size=num_choices).astype(np.float32),
    }


def pair_log_probs(model: dict, x: np.ndarray, keep: float) -> np.ndarray:
    """log q(h|x) of all pairs [C*C, B] where the patch before is taken off `keep` times."""
    placed = model["spread"] @ model["prototypes"].ravel()  # (C, S*S)
    pixels = x.reshape(len(x), -1)

    def network(residual):  # (..., S*S) -> (..., C)
        logits = residual @ model["weight"].T + model["bias"]
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    first = network(pixels).T  # (C, B)
    second = network(pixels[None] - keep * placed[:, None])  # (C, B, C)
    both = first[:, None] + second.transpose(0, 2, 1)  # (C, C, B)
    return both.reshape(-1, len(x))


@pytest.mark.points(1.5, part="5.4")
def test_patch_proposal_log_prob(probe, reference, rng):
    model, x = proposal_model(rng, 2), rng.uniform(size=(3, 1, SIZE, SIZE)).astype(np.float32)
    inputs = {"x": x, "h": pairs(8, 3)} | model
    found, expected = probe("patch_proposal", **inputs), reference("patch_proposal", **inputs)
    log_q = expected["log_q"]
    mistakes = {
        "the network at x itself for every component": pair_log_probs(model, x, keep=0),
        "patches that are added to x instead of taken off": pair_log_probs(model, x, keep=-1),
        "the mean over the components instead of their sum": log_q / PATCHES,
        "the sign reversed": -log_q,
    }
    check_close(found["log_q"], log_q, "log q(h|x)", mistakes)
    check_close(found["log_q_one"], log_q[0], "log q(h|x) of one h [B, H]")
    what = "the gradient of log q(h|x) with respect to the network's parameters"
    mistakes = {"a result that is detached from the network": 0 * expected["gradient"]}
    check_close(found["gradient"], expected["gradient"], what, mistakes, 1e-3, 1e-2)


@pytest.mark.points(1.5, part="5.4")
def test_patch_proposal_draws(probe, reference, rng):
    model, x = proposal_model(rng, 1), rng.uniform(size=(2, 1, SIZE, SIZE)).astype(np.float32)
    sizes = {"num_patches": PATCHES, "num_samples": CHAINS}
    found = probe("patch_samples", x=x, seed=6, **sizes, **model)
    check_shape(found["h"], (CHAINS, 2, PATCHES), "sample_latent(x, S)")
    check_shape(found["by_default"], (1, 2, PATCHES), "sample_latent(x)")
    message = "sample_latent sets the global random seed, so every call samples the same states"
    check(not found["reseeds"], message)
    log_q = reference("patch_proposal", x=x, h=pairs(4, 2), **model)["log_q"]
    numbers = numbers_of(found["h"][:, 1], 4)
    what = "samples of q(h|x) for the second of two images"
    check_frequencies(numbers, np.exp(log_q[:, 1]), what)
