"""What several test files share: checks that explain, tiny models, enumerations.

A check that fails raises `Wrong`. tests/conftest.py adds the TODO to look at: that of the test's
`points` marker, unless the check names a finer one.
"""

import itertools
from pathlib import Path

import numpy as np

EXPECTED = Path(__file__).with_name("expected")
RECORDED = EXPECTED / "expected.npz"  # what the reference returns, by test
CLASSIFIER = EXPECTED / "classifier.npz"  # weights of a network that reads digits


class Wrong(Exception):
    """Student code did something else than was asked for.

    Args:
        message: what is wrong, in a sentence for the student.
        todo: the TODO to look at; None: that of the test.
    """

    def __init__(self, message: str, todo: str | None = None):
        super().__init__(message)
        self.todo = todo


def answer(outputs: dict | None, failure: str) -> dict:
    """What a probe gave; where it gave nothing, the test fails and says why."""
    if outputs is None:
        raise Wrong(failure)
    return outputs


def check(condition, message: str, todo: str | None = None) -> None:
    """Fail with `message`, which says what is wrong."""
    if not condition:
        raise Wrong(message, todo)


def check_shape(array, shape, what: str, todo: str | None = None) -> None:
    found, expected = list(array.shape), list(shape)
    check(found == expected, f"{what} has shape {found}, expected {expected}", todo)


def check_finite(array, what: str, todo: str | None = None) -> None:
    check(np.isfinite(array).all(), f"{what} is not finite", todo)


def as_rows(images, count: int, what: str, todo: str | None = None) -> np.ndarray:
    """Images of any of the allowed shapes as [count, 784]; their number must be right."""
    fits = images.ndim > 0 and len(images) == count and images.size == count * 784
    message = f"{what} has shape {list(images.shape)}, expected {count} x 784 pixels"
    check(fits, message, todo)
    return images.reshape(count, 784)


def check_close(found, expected, what: str, mistakes=None, rtol=1e-4, atol=1e-4) -> None:
    """Compare with the expected values; name the mistake that would explain the difference.

    Args:
        mistakes: {what one would have done: the values that this gives}.
    """
    check_shape(found, expected.shape, what)
    if np.allclose(found, expected, rtol=rtol, atol=atol):
        return
    hint = ""
    for mistake, values in (mistakes or {}).items():
        if np.shape(values) == found.shape and np.allclose(found, values, rtol=rtol, atol=atol):
            hint = f"\nThis is what one gets with {mistake}."
            break
    check(np.isfinite(found).all(), f"{what} is not finite{hint}")
    worst = np.unravel_index(np.argmax(np.abs(found - expected)), expected.shape)
    at = f" at {list(map(int, worst))}" if worst else ""
    raise Wrong(f"{what} is {found[worst]:.6g}{at}, expected {expected[worst]:.6g}{hint}")


def all_states(latent: str, latent_dim: int, num_categories: int) -> np.ndarray:
    """Every value of h: float32 [2^K, K], or int64 [C^D, D]; the last entry runs fastest."""
    bits = latent == "bernoulli"
    states = list(itertools.product(range(2 if bits else num_categories), repeat=latent_dim))
    return np.array(states, dtype=np.float32 if bits else np.int64)


def states_of(model: dict) -> np.ndarray:
    return all_states(model["latent"], model["latent_dim"], model["num_categories"])


def state_numbers(model: dict, h: np.ndarray) -> np.ndarray:
    """Which row of `states_of(model)` each state [..., K] is; -1 for what is no state."""
    base = 2 if model["latent"] == "bernoulli" else model["num_categories"]
    numbers = (h @ base ** np.arange(model["latent_dim"])[::-1]).astype(int)
    valid = np.isin(h, np.arange(base)).all(axis=-1)
    return np.where(valid, numbers, -1)


def sizes(latent: str) -> dict:
    """8 states of 3 bits, or 9 states of 2 three-valued variables."""
    latent_dim, num_categories = (3, 1) if latent == "bernoulli" else (2, 3)
    return {"latent": latent, "latent_dim": latent_dim, "num_categories": num_categories}


def network_model(
    rng, latent="bernoulli", likelihood="gaussian", x_shape=(1, 2, 2), latent_dim=None
) -> dict:
    """Linear networks for the student's own JointModel and ProposalModel."""
    model = sizes(latent)
    model["latent_dim"] = latent_dim or model["latent_dim"]
    h_features = model["latent_dim"] * model["num_categories"]
    x_features = int(np.prod(x_shape))

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return model | {
        "likelihood": likelihood,
        "sigma": 0.7,
        "x_shape": list(x_shape),
        "p_weight": 1.2 * normal(x_features, h_features),
        "p_bias": normal(x_features),
        "q_weight": 0.8 * normal(h_features, x_features),
        "q_bias": 0.8 * normal(h_features),
    }


def mixture_model(rng, latent="bernoulli", components=4, latent_dim=None) -> dict:
    """Parameters of a MixturePrior; no logits are normalised."""
    model = sizes(latent)
    model["latent_dim"] = latent_dim or model["latent_dim"]
    values = [model["num_categories"]] if latent == "categorical" else []
    shape = (components, model["latent_dim"], *values)
    return model | {
        "mixture_logits": (rng.normal(size=components) + 1).astype(np.float32),
        "component_logits": (2 * rng.normal(size=shape)).astype(np.float32),
    }


def table_model(rng, latent="bernoulli", rows=3, spread=0.7) -> dict:
    """Tables of log p(x, h) and log q(h|x) for `rows` examples; see `_TableModel` in probes.py."""
    model = sizes(latent)
    states = states_of(model)
    log_p = spread * rng.normal(size=(rows, len(states))) - 5
    log_q = spread * rng.normal(size=(rows, len(states)))
    log_q -= np.log(np.exp(log_q).sum(axis=1, keepdims=True))
    log_p, log_q = log_p.astype(np.float32), log_q.astype(np.float32)
    return model | {"states": states, "log_p": log_p, "log_q": log_q, "log_w": log_p - log_q}


def table_x(rows) -> np.ndarray:
    """x for a table model: [B, 1], the row of the table that each example belongs to."""
    return np.asarray(rows, dtype=np.float32)[:, None]


def check_frequencies(numbers, probabilities, what: str) -> None:
    """Compare how often each state came with its probability, by 6-sigma bounds.

    The samples must be independent; the + 6 covers states that are expected rarely. How often does
    a correct submission fail by chance? For n = 20,000 samples the exact probability
    `binom.sf(n p + b, n, p) + binom.cdf(n p - b, n, p)` of leaving a bound b is largest at
    p = 0.47, where it is 1.21e-9 (scipy, maximised over 2e5 values of p from 1e-9 on; 1.23e-9 with
    + 5.8, which leaves room for the 0.2 samples that a chain of `stationary` may be off). A run
    checks at most 900 frequencies:
        prior                           8 + 9
        mixture                         8 + 9 + 8^2 + 9^2
        sample_latent                   2 (8 + 9) + 8^2 + 9^2
        mis_chain                       2
        step, and an own way of sample  2 * 3 (8 + 9)
        proposals of sample             2 (8 + 9 + 8^2 + 9^2)
        gibbs_sweep, PatchProposal      8^2 + 2 * 4^2
    which is less than 1.1e-6 for the whole run. The other random checks add less than 1e-7: 36
    equal proposals in `test_cache` (4e-8, the mean of q^36 over the tables), the spread of z
    (6e-10), signs of logits (1e-11), equal uniform numbers (1e-12). Together: below 1.2e-6. The
    success of training (parts 2 and 3) has no such bound; it asks for far less than a working
    network reaches.
    """
    valid = (numbers >= 0) & (numbers < len(probabilities))
    check(valid.all(), f"{what} gave values that are no state (bits are 0 or 1)")
    counts, n = np.bincount(numbers, minlength=len(probabilities)), len(numbers)
    bound = 6 * np.sqrt(n * probabilities * (1 - probabilities)) + 6
    excess = np.abs(counts - n * probabilities) - bound
    worst = int(np.argmax(excess))
    message = f"{what}: state {worst} came {counts[worst]} times in {n} independent chains, "
    message += f"expected {n * probabilities[worst]:.0f} +- {bound[worst] / 6:.0f}"
    check(excess[worst] <= 0, message)
