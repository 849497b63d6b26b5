"""Every labelled formula of solutions.md in numbers; each test names its labels, as in (S0.1a).

All is in float64 and without chance: sums over all states of small models, the trapezoidal rule on
grids that reach twelve standard deviations, Gauss-Hermite rules. Random numbers, always from a
fixed seed, only choose the example.
"""

import itertools
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

import submission
from kit.files import ROOT

PAGES = ROOT / "instructor" / "handout"
PAGE = (PAGES / "solutions.md").read_text()
SEEDS = range(5)


@pytest.fixture(autouse=True)
def float64():
    """Numbers of Python and new tensors are float64, too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def close(found, expected, atol=1e-10):
    """Equal up to rounding: sums of at most 20,001 numbers of order 1 to 1,000, in float64."""
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    assert found.shape == expected.shape and found.dtype == torch.float64
    assert (found - expected).abs().max() <= atol


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=rng(seed))


def probabilities(*shape: int, seed: int) -> torch.Tensor:
    """Positive numbers that sum to one over the last dimension."""
    return randn(*shape, seed=seed).softmax(dim=-1)


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """D(p || q) of probabilities, by its definition: p = 0 counts as 0, q = 0 < p as infinity."""
    support = p > 0
    return (p[support] * (p[support] / q[support]).log()).sum()


def hermite(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights with E f(eps) = sum of weights * f(nodes) for eps ~ N(0, 1).

    Exact for polynomials of degree 2 * number - 1.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(number)
    return torch.as_tensor(nodes), torch.as_tensor(weights / math.sqrt(2 * math.pi))


def grid(mean: float, scale: float) -> torch.Tensor:
    """20,001 points that reach twelve standard deviations: the tails beyond are below 1e-30.

    The trapezoidal rule on them is exact to rounding, since the integrands here are analytic and
    fall like a Gaussian.
    """
    return torch.linspace(mean - 12 * scale, mean + 12 * scale, 20_001, dtype=torch.float64)


def mixture(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A latent variable model with 4 states z and 5 values x: p(z) [4] and p(x|z) [4, 5]."""
    return probabilities(4, seed=seed), probabilities(4, 5, seed=seed + 100)


def bound(joint: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """L(q, theta) = E_q [log p(x, z) - log q(z)], for p(x, z) and q(z) [..., Z]."""
    return (q * (joint.log() - q.log())).sum(dim=-1)


# ----------------------------------------------------------------------------------------------
# The page itself


LABEL = r"\((S[0-9.]+[a-z]?)\)"


def test_every_label_has_a_test_and_every_test_a_label():
    tests = [value for name, value in globals().items() if name.startswith("test_")]
    tested = set(re.findall(LABEL, " ".join(test.__doc__ or "" for test in tests)))
    labels = re.findall(r"\\text\{" + LABEL + r"\}", PAGE)  # those beside a formula
    assert len(labels) == len(set(labels)) > 20
    assert tested == set(labels)
    assert set(re.findall(LABEL, PAGE)) == set(labels), "the text names a label without a formula"


def test_rubrics_add_up_to_the_points_of_the_assignment():
    assignment = (PAGES / "README.md").read_text()
    asked = dict(re.findall(r"^\*\*(\d\.\d) \((\d+) points\)\*\*", assignment, re.MULTILINE))
    sections = re.split(r"^### (\d\.\d) \((\d+) points\)$", PAGE, flags=re.MULTILINE)[1:]
    found = {}
    for number, points, text in zip(sections[::3], sections[1::3], sections[2::3], strict=True):
        rubric = text.split("Rubric:")[1].split("Common mistakes:")[0]
        assert sum(map(int, re.findall(r"^- \*\*(\d+)\*\*:", rubric, re.MULTILINE))) == int(points)
        found[number] = points
    assert found == asked and len(found) == 6


# ----------------------------------------------------------------------------------------------
# Part 0


def test_logarithm_is_below_its_tangent():
    """(S0.1a)"""
    t = torch.cat([torch.logspace(-12, 12, 1001), torch.linspace(0.5, 1.5, 1001)])
    gap = t - 1 - t.log()
    assert (gap[t != 1] > 0).all()
    assert 1.0 in t and (gap[t == 1] == 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_divergence_is_a_sum_of_two_terms_that_are_not_negative(seed):
    """(S0.1b), with states that only q has, and with states that neither has."""
    p, q = torch.zeros(8), torch.zeros(8)
    p[:4], q[:6] = probabilities(4, seed=seed), probabilities(6, seed=seed + 100)
    t = q[:4] / p[:4]
    first, second = (p[:4] * (t - 1 - t.log())).sum(), q[4:].sum()
    assert first >= 0 and second > 0
    close(divergence(p, q), first + second)
    assert divergence(q, p) == math.inf  # here the second one is 0 where the first is not
    assert divergence(p, p) == 0
    close(divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])), math.log(2))


def test_univariate_divergence_is_the_integral():
    """(S0.2a)"""
    for m1, s1, m2, s2 in [(0.0, 1.0, 0.0, 1.0), (0.3, 0.7, -1.1, 1.9), (-2.0, 1.5, 0.5, 0.6)]:
        formula = math.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5
        x, p, q = grid(m1, s1), Normal(m1, s1), Normal(m2, s2)
        integrand = p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x))
        close(torch.trapezoid(integrand, x), formula)
        assert formula >= 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_multivariate_divergence_is_the_integral(n):
    """(S0.2b): three Hermite nodes in each direction are exact, the log-ratio being quadratic."""
    roots = randn(2, n, n, seed=n).tril() + 2 * torch.eye(n)  # of both covariances
    means = randn(2, n, seed=n + 100)
    p, q = (MultivariateNormal(means[i], scale_tril=roots[i]) for i in range(2))
    cov1, cov2 = roots @ roots.mT
    d = means[0] - means[1]
    inverse = cov2.inverse()
    terms = (cov2.det() / cov1.det()).log() + (inverse @ cov1).trace() + d @ inverse @ d - n
    nodes, weights = hermite(3)
    eps = torch.cartesian_prod(*[nodes] * n).reshape(-1, n)
    weight = torch.cartesian_prod(*[weights] * n).reshape(-1, n).prod(dim=1)
    x = means[0] + eps @ roots[0].T
    close((weight * (p.log_prob(x) - q.log_prob(x))).sum(), terms / 2)
    close(kl_divergence(p, q), terms / 2)
    if n == 1:
        s1, s2 = roots.flatten()
        close((s2 / s1).log() + (s1**2 + d[0] ** 2) / (2 * s2**2) - 0.5, terms / 2)


def test_divergence_from_the_standard_gaussian():
    """(S0.2c): sigma is a standard deviation, and the covariance diag(sigma^2)."""
    mu, sigma = randn(6, seed=0), randn(6, seed=1).exp()
    formula = (mu**2 + sigma**2 - 1 - (sigma**2).log()).sum() / 2
    standard = MultivariateNormal(torch.zeros(6), torch.eye(6))
    close(kl_divergence(MultivariateNormal(mu, torch.diag(sigma**2)), standard), formula)
    one = mu[0] ** 2 + sigma[0] ** 2 - 1 - (sigma[0] ** 2).log()
    close(kl_divergence(Normal(mu[0], sigma[0]), Normal(0.0, 1.0)), one / 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_log_likelihood_is_bound_plus_divergence(seed):
    """(S0.3a), for each x, and the posterior is the best q."""
    prior, likelihood = mixture(seed)
    joint = (prior[:, None] * likelihood).T  # (X, Z)
    posterior = joint / joint.sum(dim=1, keepdim=True)
    q = probabilities(5, 4, seed=seed + 200)
    for x in range(5):
        log_p = joint[x].sum().log()
        close(bound(joint[x], q[x]) + divergence(q[x], posterior[x]), log_p)
        close(bound(joint[x], posterior[x]), log_p)
        assert bound(joint[x], q[x]) < log_p


def em_model(seed: int):
    """60 patterns of 4 bits, and a mixture of 3 independent Bernoulli patterns to start from."""
    x = (torch.rand(60, 4, generator=rng(seed)) < 0.5).double()
    x[:30, 1] = x[:30, 0]  # something to find
    return x, probabilities(3, seed=seed), randn(3, 4, seed=seed + 100).sigmoid()


def mixture_joint(x, weights, means):
    """p(x_i, z): [N, 3]."""
    log_x = x @ means.log().T + (1 - x) @ (1 - means).log().T
    return (weights.log() + log_x).exp()


@pytest.mark.parametrize("seed", SEEDS)
def test_em_never_lowers_the_likelihood(seed):
    """(S0.3b) and (S0.3c), summed over the data, at each of 30 steps."""
    x, weights, means = em_model(seed)
    for step in range(30):
        joint = mixture_joint(x, weights, means)
        q = joint / joint.sum(dim=1, keepdim=True)  # the E-step
        before = joint.sum(dim=1).log().sum()
        close(bound(joint, q).sum(), before)
        share = q.sum(dim=0)
        weights, means = share / len(x), (q.T @ x) / share[:, None]  # the M-step
        joint = mixture_joint(x, weights, means)
        between, after = bound(joint, q).sum(), joint.sum(dim=1).log().sum()
        rounding = 1e-10
        assert before <= between + rounding and between <= after + rounding
        posterior = joint / joint.sum(dim=1, keepdim=True)
        rise = between - before + (q * (q / posterior).log()).sum()
        close(after - before, rise)
        if step == 0:
            assert after > before + 1  # it rises by more than a nat: the test is not about nothing
            for other in SEEDS:  # and no other parameters have a larger bound for this q
                nearby = (means.logit() + 0.1 * randn(3, 4, seed=other)).sigmoid()
                assert bound(mixture_joint(x, weights, nearby), q).sum() < between


# ----------------------------------------------------------------------------------------------
# Part 1


def family(theta: torch.Tensor) -> torch.Tensor:
    """p_theta of 6 values for each theta [N]: a curve among all probabilities, [N, 6]."""
    features = randn(2, 6, seed=50)
    return (theta[:, None] * features[0] + theta[:, None] ** 2 * features[1]).softmax(dim=1)


def test_least_divergence_is_most_likely():
    """(S1.1a): the two differ by the entropy of the data, so one theta is best for both."""
    data, p = probabilities(6, seed=51), family(torch.linspace(-2, 2, 401))
    all_divergences = torch.stack([divergence(data, row) for row in p])
    expected_log = (data * p.log()).sum(dim=1)
    close(all_divergences, (data * data.log()).sum() - expected_log)
    assert all_divergences.argmin() == expected_log.argmax()
    assert all_divergences.min() > 0.01  # the family does not contain the data's distribution


def test_for_a_sample_the_mean_takes_the_place_of_the_expectation():
    """(S1.1b)"""
    sample = torch.tensor([0, 3, 3, 1, 5, 3, 0, 1, 1, 3])  # 2 and 4 do not occur
    p = family(torch.linspace(-2, 2, 401))
    shares = torch.bincount(sample, minlength=6) / len(sample)
    means = p.log()[:, sample].mean(dim=1)
    assert means.argmax() == p[:, sample].prod(dim=1).argmax()
    all_divergences = torch.stack([divergence(shares, row) for row in p])
    close(all_divergences + means, torch.xlogy(shares, shares).sum().expand(401))


def test_map_is_maximum_likelihood_for_a_flat_prior_only():
    """(S1.1c): 3 heads in 10 throws; with a prior Beta(a, b) the mode is (2 + a) / (8 + a + b)."""
    theta = torch.linspace(0.001, 0.999, 999)
    log_likelihood = 3 * theta.log() + 7 * (1 - theta).log()
    for a, b, mode in [(1, 1, 0.3), (3, 3, 5 / 14), (1, 5, 3 / 14)]:
        log_prior = (a - 1) * theta.log() + (b - 1) * (1 - theta).log()
        best = theta[(log_likelihood + log_prior).argmax()]
        close(best, mode, atol=0.0005)  # half the step of the grid
    close(theta[log_likelihood.argmax()], 0.3)


@pytest.mark.parametrize("seed", SEEDS)
def test_bound_of_the_vae_and_its_gap(seed):
    """(S1.2a) and (S1.2b)"""
    prior, likelihood = mixture(seed)
    q = probabilities(4, seed=seed + 300)
    for x in range(5):
        joint = prior * likelihood[:, x]
        posterior = joint / joint.sum()
        close((q * likelihood[:, x].log()).sum() - divergence(q, prior), bound(joint, q))
        close(joint.sum().log() - bound(joint, q), divergence(q, posterior))
        assert bound(joint, prior) < joint.sum().log()  # q = p(z) is not where they are equal


def smooth(z: torch.Tensor) -> torch.Tensor:
    """f with E f(z) = exp(-sigma^2 / 2) sin(mu) + 0.3 (mu^2 + sigma^2) for z ~ N(mu, sigma^2)."""
    return z.sin() + 0.3 * z**2


def exact_gradient(mu: float, sigma: float) -> tuple[float, float]:
    """Of E smooth(z), by mu and by sigma."""
    damp = math.exp(-(sigma**2) / 2)
    return damp * math.cos(mu) + 0.6 * mu, -sigma * damp * math.sin(mu) + 0.6 * sigma


@pytest.mark.parametrize(("mu", "sigma"), [(0.4, 0.8), (-1.3, 0.3), (2.0, 1.5)])
def test_gradient_through_the_density(mu, sigma):
    """(S1.3a): f itself is not differentiated."""
    z = grid(mu, sigma)
    moments = torch.tensor([mu, sigma], dtype=torch.float64, requires_grad=True)
    q = Normal(moments[0], moments[1]).log_prob(z).exp()
    (direct,) = torch.autograd.grad(torch.trapezoid(smooth(z) * q, z), moments)
    close(direct, exact_gradient(mu, sigma))
    eps = (z - mu) / sigma
    score = torch.stack([eps / sigma, (eps**2 - 1) / sigma])  # by mu and sigma, of log q(z)
    close(torch.trapezoid(smooth(z) * score * q.detach(), z), exact_gradient(mu, sigma))


@pytest.mark.parametrize(("mu", "sigma"), [(0.4, 0.8), (-1.3, 0.3), (2.0, 1.5)])
def test_gradient_by_reparameterization(mu, sigma):
    """(S1.3b): with 60 nodes the rule is exact to rounding for an entire function such as f."""
    eps, weight = hermite(60)
    moments = torch.tensor([mu, sigma], dtype=torch.float64, requires_grad=True)
    z = moments[0] + moments[1] * eps
    (found,) = torch.autograd.grad((weight * smooth(z)).sum(), moments)
    close(found, exact_gradient(mu, sigma))
    slope = (mu + sigma * eps).cos() + 0.6 * (mu + sigma * eps)
    by_hand = torch.stack([(weight * slope).sum(), (weight * slope * eps).sum()])
    close(by_hand, exact_gradient(mu, sigma))


def test_reparameterize_has_this_gradient_for_each_draw():
    """(S1.3b), by the log-variance: sigma's gradient times sigma / 2."""
    mu, log_var = randn(50, seed=0).requires_grad_(), randn(50, seed=1).requires_grad_()
    torch.manual_seed(0)
    z = submission.reparameterize(mu, log_var)
    by_mu, by_log_var = torch.autograd.grad(smooth(z).sum(), [mu, log_var])
    slope, sigma = z.cos() + 0.6 * z, (log_var / 2).exp()
    close(by_mu, slope.detach())
    close(by_log_var, (slope * (z - mu) / sigma * sigma / 2).detach())


def test_loss_of_the_vae_is_the_negative_bound_without_its_constant():
    """(S1.3c): the bound by its definition, integrated over z, against the loss over epsilon."""
    n, v, mu, sigma = 5, 0.3, 0.7, 0.6
    x, slope, shift = randn(3, n, seed=60)

    def decoder(z):
        return (z[:, None] * slope + shift).sin()  # (N, n), an entire function

    z, q, prior = grid(mu, sigma), Normal(mu, sigma), Normal(0.0, 1.0)
    log_x = Independent(Normal(decoder(z), math.sqrt(v)), 1).log_prob(x)
    log_q = q.log_prob(z)
    negative = -torch.trapezoid(log_q.exp() * (prior.log_prob(z) + log_x - log_q), z)
    eps, weight = hermite(100)
    square = ((x - decoder(mu + sigma * eps)) ** 2).sum(dim=1)
    loss = (weight * square).sum() / (2 * v)
    loss = loss - 0.5 * (1 + math.log(sigma**2) - mu**2 - sigma**2)
    close(loss + n / 2 * math.log(2 * math.pi * v), negative)


@pytest.mark.parametrize("v", [0.5, 0.01])
def test_vae_loss_lacks_392_log_2_pi_v(v):
    """(S1.3c), with the 784 pixels and the reference's loss."""
    x, recon = randn(2, 3, 1, 28, 28, seed=61).sigmoid()
    mu, log_var = randn(2, 3, 20, seed=62)
    pixels = Independent(Normal(recon, math.sqrt(v)), 3)
    q = Independent(Normal(mu, (log_var / 2).exp()), 1)
    prior = Independent(Normal(torch.zeros(20), torch.ones(20)), 1)
    negative = (kl_divergence(q, prior) - pixels.log_prob(x)).mean()
    constant = 392 * math.log(2 * math.pi * v)
    close(submission.vae_loss(recon, x, mu, log_var, var=v) + constant, negative)
    if v == 0.5:
        close(constant, 448.7, atol=0.05)  # as printed on the page, to a digit


@pytest.mark.parametrize("v", [1e-3, 0.4, 5.0, 1e6])
def test_best_q_of_a_linear_decoder(v):
    """(S1.3d), by normalising p(z) p(x|z) on a grid; narrow for small v, the prior for large v."""
    x, b, w = randn(3, 4, seed=63)
    mean, variance = w @ (x - b) / (w @ w + v), v / (w @ w + v)
    z = grid(mean.item(), variance.sqrt().item())
    log_joint = Normal(0.0, 1.0).log_prob(z)
    log_joint = log_joint + Normal(b + z[:, None] * w, math.sqrt(v)).log_prob(x).sum(dim=1)
    p = (log_joint - log_joint.max()).exp()
    p = p / torch.trapezoid(p, z)
    close(torch.trapezoid(z * p, z), mean)
    close(torch.trapezoid((z - mean) ** 2 * p, z), variance)
    if v < 0.01:
        assert variance < 0.01
    if v > 1e5:
        assert variance > 0.999 and mean.abs() < 1e-4
    # The bound, integrated over z with q the posterior, is the marginal log-likelihood.
    evidence = MultivariateNormal(b, torch.outer(w, w) + v * torch.eye(4)).log_prob(x)
    close(torch.trapezoid(p * log_joint - torch.xlogy(p, p), z), evidence)


@pytest.mark.parametrize("relative_v", [0.2, 0.9, 1.1, 4.0])
def test_a_linear_decoder_collapses_at_a_finite_variance(relative_v):
    """(S1.3e): no length and no direction on a grid is better than the formula's."""
    root = randn(3, 3, seed=64)
    covariance = root @ root.T
    values, vectors = torch.linalg.eigh(covariance)  # ascending
    largest, v = values[-1], relative_v * values[-1]

    def mean_bound(w):
        model = MultivariateNormal(torch.zeros(3), torch.outer(w, w) + v * torch.eye(3))
        return -0.5 * (
            model.covariance_matrix.logdet()
            + (model.precision_matrix @ covariance).trace()
            + 3 * math.log(2 * math.pi)
        )

    best = (largest - v).clamp(min=0)
    highest = mean_bound(best.sqrt() * vectors[:, -1])
    directions = [*vectors.T, *F.normalize(randn(3, 3, seed=65), dim=1)]
    for direction, square in itertools.product(directions, torch.linspace(0, 2, 21)):
        length = (square * largest).sqrt()
        assert mean_bound(length * direction) <= highest + 1e-10  # rounding
    if relative_v > 1:
        assert best == 0


# ----------------------------------------------------------------------------------------------
# Part 4

BITS = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)  # (8, 3), every h
FEATURES = randn(6, 8, 4, seed=74)  # of x and h


def log_joint(theta: torch.Tensor) -> torch.Tensor:
    """log p_theta(x, h) with 4 weights theta: 6 values x, 8 states h, [6, 8]."""
    log_x = (FEATURES @ theta).log_softmax(dim=0)  # (6, 8), log p(x|h)
    return log_x - math.log(8)


def log_q(logits: torch.Tensor) -> torch.Tensor:
    """log q(h|x), independent over the bits: logits [6, 3] -> [6, 8]."""
    return logits @ BITS.T - F.softplus(logits).sum(dim=1, keepdim=True)


DATA = probabilities(6, seed=79)
THETA = randn(4, seed=71)


def posterior_of(theta: torch.Tensor) -> torch.Tensor:
    """p(h|x), [6, 8], as a constant."""
    return log_joint(theta).detach().softmax(dim=1)


def gradient(function, at: torch.Tensor) -> torch.Tensor:
    at = at.detach().clone().requires_grad_()
    return torch.autograd.grad(function(at), at)[0]


def theta_equation(theta: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """E over data(x) p_theta(h|x) of the gradient of log p_theta(x, h)."""
    weight = data[:, None] * posterior_of(theta)
    return gradient(lambda t: (weight * log_joint(t)).sum(), theta)


def phi_equation(logits: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """E over DATA(x) p_theta(h|x) of the gradient of log q(h|x)."""
    weight = DATA[:, None] * posterior_of(theta)
    return gradient(lambda a: (weight * log_q(a)).sum(), logits)


@pytest.mark.parametrize("x", range(6))
def test_fisher_s_identity(x):
    """(S4.1)"""
    direct = gradient(lambda t: log_joint(t)[x].logsumexp(dim=0), THETA)
    weight = posterior_of(THETA)[x]
    close(gradient(lambda t: (weight * log_joint(t)[x]).sum(), THETA), direct)
    assert direct.abs().max() > 0.01


def test_gradient_of_the_first_objective():
    """(S4.2)"""
    direct = gradient(lambda t: divergence(DATA, log_joint(t).logsumexp(dim=1).exp()), THETA)
    close(direct, -theta_equation(THETA, DATA))
    assert direct.abs().max() > 0.01


def test_gradient_of_the_second_objective():
    """(S4.3)"""
    logits, p = randn(6, 3, seed=72), posterior_of(THETA)

    def objective(a):
        return (DATA[:, None] * p * (p.log() - log_q(a))).sum()

    direct = gradient(objective, logits)
    close(direct, -phi_equation(logits, THETA))
    assert direct.abs().max() > 0.01


def test_both_gradients_vanish_at_the_solution():
    """(S4.2), (S4.3) and (S4.4), where neither model reaches its goal."""

    def first_objective(t):
        return divergence(DATA, log_joint(t).logsumexp(dim=1).exp())

    theta = THETA
    for _ in range(40):  # Newton's steps, damped where the objective is not convex
        hessian = torch.autograd.functional.hessian(first_objective, theta)
        values, vectors = torch.linalg.eigh(hessian)
        slope = vectors.T @ gradient(first_objective, theta)
        step = vectors @ (slope / values.abs().clamp(min=1e-4))
        theta = theta - step / step.norm().clamp(min=1)
    assert first_objective(theta) > 0.001  # p_theta does not reach the data's distribution
    assert first_objective(theta) < first_objective(THETA)
    close(theta_equation(theta, DATA), torch.zeros(4))

    p = posterior_of(theta)

    def second_objective(logits):
        return (DATA[:, None] * p * (p.log() - log_q(logits))).sum()

    shares = p @ BITS  # (6, 3), the posterior's probability of each bit
    solution = shares.logit()
    close(log_q(solution).exp() @ BITS, shares)
    close(phi_equation(solution, theta), torch.zeros(6, 3))
    assert second_objective(solution) > 0.001  # and q does not reach the posterior
    for seed in SEEDS:
        other = solution + 0.1 * randn(6, 3, seed=seed)
        assert second_objective(other) > second_objective(solution)


def test_gradients_vanish_where_the_models_are_right():
    """(S4.2) and (S4.3): a score has expectation zero under its own distribution."""
    close(theta_equation(THETA, log_joint(THETA).exp().sum(dim=1)), torch.zeros(4))
    logits = randn(6, 3, seed=73)
    weight = log_q(logits).exp()
    close(gradient(lambda a: (DATA[:, None] * weight * log_q(a)).sum(), logits), torch.zeros(6, 3))


def transition_matrix(q: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """T(h, h') of proposals q(h') that are accepted with min(1, ratio(h, h'))."""
    moves = q * ratio.clamp(max=1)  # (8, 8), row h, column h'
    moves.fill_diagonal_(0)
    return moves + torch.diag(1 - moves.sum(dim=1))


def mis_example(seed: int):
    """Unnormalised p(x, h) and q(h|x) for one x and 8 states h."""
    return 0.01 * probabilities(8, seed=seed), probabilities(8, seed=seed + 100)


@pytest.mark.parametrize("seed", SEEDS)
def test_mis_is_in_detailed_balance_with_the_posterior(seed):
    """(S4.5), (S4.6) and (S4.7)"""
    joint, q = mis_example(seed)
    pi, w = joint / joint.sum(), joint / q
    ratio = w[None] / w[:, None]
    close(ratio, (joint[None] * q[:, None]) / (joint[:, None] * q[None]))
    close(ratio, (pi[None] * q[:, None]) / (pi[:, None] * q[None]))
    matrix = transition_matrix(q, ratio)
    flow = pi[:, None] * matrix
    close(flow, flow.T)
    symmetric = q[:, None] * q[None] / joint.sum() * torch.minimum(w[:, None], w[None])
    off = ~torch.eye(8, dtype=torch.bool)
    close(flow[off], symmetric[off])
    close(pi @ matrix, pi)
    close(torch.linalg.matrix_power(matrix, 1024), pi.expand(8, 8))  # from any start
    # With the q-ratio the wrong way up it would be p q^2.
    wrong = transition_matrix(q, (joint[None] * q[None]) / (joint[:, None] * q[:, None]))
    other = joint * q**2 / (joint * q**2).sum()
    close(other @ wrong, other)
    assert (pi @ wrong - pi).abs().max() > 0.001


def test_code_of_mis_has_this_ratio_and_this_acceptance():
    """(S4.5)"""
    joint, q = mis_example(0)
    p_model = SimpleNamespace(log_joint_prob=lambda x, h: joint.log()[h])
    q_model = SimpleNamespace(log_conditional_prob=lambda h, x: q.log()[h])
    old, new = torch.cartesian_prod(torch.arange(8), torch.arange(8)).T  # all 64 pairs
    ratio = (joint[new] * q[old]) / (joint[old] * q[new])
    found = submission.MISampler.log_acceptance_ratio(p_model, q_model, None, new, old)
    close(found.exp(), ratio)
    steps = 500
    u = ((torch.arange(steps) + 0.5) / steps).repeat(64)  # every pair meets every u
    log_w = (joint / q).log()[torch.stack([old, new])].repeat_interleave(steps, dim=1)
    accepted = submission.mis_chain(log_w, u[None])[0].reshape(64, steps).double().mean(dim=1)
    close(accepted, ratio.clamp(max=1), atol=1 / steps)  # the grid of u is no finer


def test_a_prior_is_fitted_to_the_codes_of_the_data():
    """(S4.8): a free prior beside a fixed likelihood, p(h) = softmax(a) and p(x|h)."""
    logits, likelihood = randn(8, seed=74), probabilities(8, 6, seed=75).T  # [6, 8]
    joint = likelihood * logits.softmax(dim=0)
    weight = DATA[:, None] * joint / joint.sum(dim=1, keepdim=True)
    direct = gradient(
        lambda a: (DATA * (likelihood * a.softmax(dim=0)).sum(dim=1).log()).sum(), logits
    )
    codes = weight.sum(dim=0)  # (8,)
    close(gradient(lambda a: (codes * a.log_softmax(dim=0)).sum(), logits), direct)
    close(gradient(lambda a: (codes * a.log_softmax(dim=0)).sum(), codes.log()), torch.zeros(8))
    assert direct.abs().max() > 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_local_steps_after_mis_leave_the_posterior_as_it_is(seed):
    """(S4.9) and (S4.10), for 3 bits and promises that are made up."""
    joint, q = mis_example(seed)
    pi, w = joint / joint.sum(), joint / q
    proposal = torch.zeros(8, 8)  # of the three changes of one bit of each state
    for h, change in enumerate(randn(8, 3, seed=seed + 200).exp()):
        for j in range(3):
            proposal[h, h ^ (1 << j)] = change[j] / change.sum()
    ratio = (joint[None] * proposal.T) / (joint[:, None] * proposal)
    local = transition_matrix(proposal, ratio.nan_to_num(0.0))
    close(pi[:, None] * local, (pi[:, None] * local).T)
    mis = transition_matrix(q, w[None] / w[:, None])
    close(pi @ (mis @ local), pi)
    flow = pi[:, None] * (mis @ local)
    assert (flow - flow.T).abs().max() > 1e-4  # no detailed balance, and none is needed


def expected_walk(log_w: torch.Tensor) -> tuple[float, torch.Tensor]:
    """How many proposals a chain over these weights, [T+1], accepts, and where it then is."""
    where, accepted = torch.zeros(len(log_w)), 0.0
    where[0] = 1.0
    for n in range(1, len(log_w)):
        moves = where * (log_w[n] - log_w).exp().clamp(max=1)
        where, accepted = where - moves, accepted + moves.sum().item()
        where[n] = moves.sum()
    return accepted, where


@pytest.mark.parametrize("spread", [0.1, 1.0, 100.0])
def test_floors_of_acceptance_and_moves(spread):
    """(S4.11) and (S4.12), over all orders of five samples: T = 4, or T = 2 in the 2nd epoch."""
    log_w = spread * torch.arange(5.0)
    walks = [expected_walk(log_w[list(order)]) for order in itertools.permutations(range(5))]
    acceptance = sum(accepted for accepted, _ in walks) / len(walks) / 4
    moved = sum(where[3:].sum().item() for _, where in walks) / len(walks)
    floors = (1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 4, 2 / 5
    if spread == 100.0:  # only records are accepted
        close(torch.tensor([acceptance, moved]), torch.tensor(floors))
    else:
        assert acceptance > floors[0] and moved > floors[1]


# ----------------------------------------------------------------------------------------------
# Part 5

SIZE, WIDTH = 4, 3


def place(prototype: torch.Tensor, i: int, j: int) -> torch.Tensor:
    """The prototype with its middle at (i, j) as a whole image; what hangs over is cut off."""
    margin = WIDTH // 2
    canvas = torch.zeros(SIZE + 2 * margin, SIZE + 2 * margin)
    canvas[i : i + WIDTH, j : j + WIDTH] = prototype
    return canvas[margin : margin + SIZE, margin : margin + SIZE]


@pytest.fixture
def patches():
    """Prototypes [2, 3, 3], all of their 32 images w_c [C, S, S], and a residual r [S, S]."""
    prototypes = randn(2, WIDTH, WIDTH, seed=80)
    places = itertools.product(range(2), range(SIZE), range(SIZE))
    images = torch.stack([place(prototypes[k], i, j) for k, i, j in places])
    return prototypes, images, randn(SIZE, SIZE, seed=81)


def test_square_is_expanded_over_the_whole_image(patches):
    """(S5.1)"""
    _, images, r = patches
    expanded = (r**2).sum() - 2 * (r * images).sum(dim=(1, 2)) + (images**2).sum(dim=(1, 2))
    close(((r - images) ** 2).sum(dim=(1, 2)), expanded)


def test_one_component_given_the_others(patches):
    """(S5.2), from the joint density of all 32^2 pairs of choices, and by the code."""
    prototypes, images, x = patches
    beta = 0.6
    sums = images[:, None] + images[None]  # (C, C, S, S)
    joint = (-beta * ((x - sums) ** 2).sum(dim=(2, 3))).exp()
    conditional = joint / joint.sum(dim=1, keepdim=True)  # row: the other one; column: this one
    residuals = x - images  # (C, S, S), what each other component leaves
    inner = torch.einsum("ost,cst->oc", residuals, images)
    squares = (images**2).sum(dim=(1, 2))
    close((beta * (2 * inner - squares)).softmax(dim=1), conditional)
    scores = submission.patch_log_scores(residuals[:, None], prototypes, beta)
    close(scores.exp(), conditional)


def test_one_correlation_gives_all_inner_products(patches):
    """(S5.3), summed term by term."""
    prototypes, images, r = patches
    margin = WIDTH // 2
    offsets = list(itertools.product(range(-margin, margin + 1), repeat=2))
    full_norms = (prototypes**2).sum(dim=(1, 2))
    for c, (k, i, j) in enumerate(itertools.product(range(2), range(SIZE), range(SIZE))):
        inner = norm = 0.0
        for a, b in offsets:
            if 0 <= i + a < SIZE and 0 <= j + b < SIZE:  # elsewhere r and u are zero
                weight = prototypes[k, a + margin, b + margin]
                inner, norm = inner + r[i + a, j + b] * weight, norm + weight**2
        close((r * images[c]).sum(), inner)
        close((images[c] ** 2).sum(), norm)
        at_border = i in (0, SIZE - 1) or j in (0, SIZE - 1)
        assert (norm < full_norms[k] - 1e-6) == at_border  # 1e-6: far above rounding
    by_convolution = F.conv2d(r[None, None], prototypes[:, None], padding=margin).flatten()
    close(by_convolution, (r * images).sum(dim=(1, 2)))
