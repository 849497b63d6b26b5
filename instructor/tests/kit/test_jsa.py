"""JSA on models small enough to enumerate: the toy, the sampler, codes by draws."""

import math

import pytest
import torch

import submission
import train
from instructor.tests.kit.tools import read_log, small_task
from kit.settings import JSASettings
from kit.tasks import make_task
from kit.tasks.jsa import MEASURE_EVERY
from kit.tasks.toy import best_log_likelihood
from model import Bits


@pytest.mark.parametrize("cache_start_epoch", [1, 100])
@pytest.mark.parametrize("latent", ["categorical", "bernoulli"])
def test_toy_learns_by_exact_values(tmp_path, latent, cache_start_epoch):
    flags = ["--task", "JSA", "--dataset", "gaussian2d", "--save_dir", str(tmp_path / "toy")]
    flags += ["--latent", latent, "--latent_dim", "1" if latent == "categorical" else "3"]
    # A sigma that falls would make the posterior narrower, and so KL larger, as training goes on.
    flags += ["--cache_start_epoch", str(cache_start_epoch), "--epochs", "12"]
    train.main([*flags, "--sigma_start", "0.05"])
    log = read_log(tmp_path / "toy" / "log.csv")
    assert log[-1]["log_p_x"] > log[0]["log_p_x"] + 1
    assert log[-1]["kl"] < 0.75 * log[0]["kl"]
    assert all(row["log_p_x"] < row["log_p_x_ceiling"] for row in log)
    if latent == "categorical":  # with 12 states for 8 clusters it comes close
        assert log[-1]["log_p_x"] > log[-1]["log_p_x_ceiling"] - 0.03
    # No model beats the entropy of the data: 8 equal Gaussians that hardly overlap.
    entropy = math.log(8) + math.log(2 * math.pi * math.e * 0.04**2)
    assert log[-1]["log_p_x"] < -entropy + 0.1
    assert all(row["kl"] >= 0 and row["entropy_q"] >= 0 for row in log)
    assert ("moved" in log[-1]) == (cache_start_epoch == 1)
    assert (tmp_path / "toy" / "toy.png").stat().st_size > 10_000


def test_best_log_likelihood():
    """Eight clusters of four points each, at distance r from the centre of theirs."""
    angle, r, sigma = torch.arange(8).unsqueeze(1) * math.pi / 4, 0.04, 0.05
    centres = 0.5 + 0.35 * torch.cat([angle.cos(), angle.sin()], dim=1)  # (8, 2)
    around = r * torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    x = (centres.unsqueeze(1) + around).flatten(end_dim=1)  # (32, 2)
    best = -math.log(2 * math.pi * sigma**2) - r**2 / (2 * sigma**2)
    # Of 12 equal weights four clusters get two each and four get one; of 16 all get two.
    twelve = best + (math.log(2 / 12) + math.log(1 / 12)) / 2
    cases = [(12, False, twelve), (12, True, best - math.log(8)), (16, False, best - math.log(8))]
    for num_states, weights_learn, expected in cases:
        found = best_log_likelihood(x, sigma, num_states, weights_learn)
        assert found == pytest.approx(expected, abs=0.002)
    square = ((x - x.mean(dim=0)) ** 2).sum(dim=1).mean()
    expected = -math.log(2 * math.pi * sigma**2) - float(square) / (2 * sigma**2)
    assert best_log_likelihood(x, sigma, 1, False) == pytest.approx(expected, abs=1e-4)


def test_toy_with_too_many_states_is_refused(capsys):
    with pytest.raises(SystemExit):
        train.main(["--task", "JSA", "--dataset", "gaussian2d", "--latent_dim", "4"])
    assert "4096" in capsys.readouterr().err


@pytest.mark.parametrize("latent", ["bernoulli", "categorical"])
def test_enumeration_is_consistent(latent):
    task = small_task(latent)
    assert len(task.all_states()) == (8 if latent == "bernoulli" else 27)
    assert len(task.all_states().unique(dim=0)) == len(task.all_states())
    numbers = task.state_numbers(task.all_states())
    assert torch.equal(numbers, torch.arange(len(task.all_states())))
    with torch.no_grad():
        _, log_posterior, log_q = task.exact(torch.rand(7, 2))
    for log in (log_posterior, log_q):
        assert torch.allclose(log.logsumexp(dim=0), torch.zeros(7), atol=1e-5)
    grid = torch.cartesian_prod(*[torch.linspace(-3, 4, 141)] * 2)
    with torch.no_grad():
        total = float(task.exact(grid)[0].exp().sum()) * 0.05**2
    assert total == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("latent", ["bernoulli", "categorical"])
def test_loss_over_all_chain_states_weights_them_by_visits(latent):
    task = small_task(latent, chain_states="all")
    x = torch.rand(30, 2)
    task.sampler.sample(x, num_steps=6)
    states, rows = task.sampler.states, task.sampler.rows
    visited = states[rows, torch.arange(30)]  # (T, B, K): every step's state, with repeats
    expected = submission.jsa_loss(
        task.joint, task.proposal, x.repeat(6, 1), visited.flatten(end_dim=1)
    )
    found = task.chain_average_loss(x)
    assert torch.allclose(torch.stack(expected), torch.stack(found), rtol=1e-5)


def test_schedule_and_cache_start():
    settings = JSASettings(hidden=[], cache_start_epoch=6, sigma=0.1, sigma_start=0.4)
    task = make_task(submission, settings, num_examples=4)
    sigmas = []
    for epoch in range(1, 11):
        task.start_epoch(epoch, 10)
        sigmas.append(float(task.joint.sigma))
        assert task.use_cache == (epoch >= 6)
    assert sigmas[0] == pytest.approx(0.4) and sigmas[6:] == [pytest.approx(0.1)] * 4
    assert sigmas == sorted(sigmas, reverse=True)
    assert "joint.sigma" in task.state_dict()


def test_cache_is_untouched_before_its_start_and_in_validation():
    task = small_task()
    x, labels, index = torch.rand(5, 2), torch.zeros(5), torch.arange(5)
    task.start_epoch(1, 10)
    for use_cache, idx in ((False, index), (True, None)):
        task.use_cache = use_cache
        _, metrics = task.loss(x, labels, idx)
        assert "moved" not in metrics and len(task.cache.visited()) == 0
    _, metrics = task.loss(x, labels, index)
    assert metrics["moved"] == 1
    assert (task.cache.table[:5] <= 1).all() and (task.cache.table[5:] == 255).all()


def test_validation_leaves_no_trace_and_measures_nothing():
    task = small_task()
    x, labels, index = torch.rand(5, 2), torch.zeros(5), torch.arange(5)
    task.start_epoch(1, 10)
    task.loss(x, labels, index)
    sampler = task.sampler
    before = sampler.states, sampler.log_w, sampler.rows, task.batch
    assert task.loss(torch.rand(7, 2), torch.zeros(7), None)[1] == {}
    after = sampler.states, sampler.log_w, sampler.rows, task.batch
    assert all(one is other for one, other in zip(before, after, strict=True))


def test_codes_by_draws():
    x, labels = torch.rand(4000, 2), torch.zeros(4000)
    x[:] = x[0]
    task = small_task(code="mode")
    states = task.all_states()
    log_joint = task.joint.log_joint_prob(x[:1], states.unsqueeze(1))[:, 0]
    assert len(task.encode(x, labels).unique(dim=0)) == 1
    task = small_task(code="best", code_draws=200)
    assert torch.equal(task.encode(x[:3], labels), states[log_joint.argmax()].expand(3, -1))
    # Sampling-importance-resampling from 200 draws: close to the posterior.
    task = small_task(code="posterior", code_draws=200)
    codes = task.encode(x, labels)
    frequency = (codes.unsqueeze(1) == states).all(dim=-1).float().mean(dim=0)
    posterior = task.exact(x[:1])[1][:, 0].exp()
    # 6 standard deviations are at most 6 * 0.5 / sqrt(4000); 0.01 for the 200 draws' own bias.
    assert (frequency - posterior).abs().max() < 6 * 0.5 / 4000**0.5 + 0.01


def test_acceptance_rate_and_effective_sample_size():
    sampler = small_task().sampler
    log_w = torch.tensor([[0.0, 0.0], [0.0, 9.0], [0.0, -900.0], [0.0, -900.0]])
    rows = torch.tensor([[1, 1], [2, 1], [2, 1]])
    sampler.record(torch.zeros(4, 2, 3), log_w, rows)
    assert sampler.acceptance_rate() == pytest.approx(3 / 6)
    assert sampler.effective_sample_size() == pytest.approx((3 + 1) / 2)


def test_acceptance_and_sample_size_are_measured_in_some_batches():
    task = small_task()
    x, labels, index = torch.rand(5, 2), torch.zeros(5), torch.arange(5)
    for epoch in (1, 2):  # each epoch starts with a batch that is measured
        task.start_epoch(epoch, 10)
        measured = ["ess" in task.loss(x, labels, index)[1] for _ in range(MEASURE_EVERY + 1)]
        assert measured == [True, *[False] * (MEASURE_EVERY - 1), True]


@pytest.mark.parametrize(("shape", "event_dims"), [((5, 7), 1), ((3, 5, 1, 4, 4), 3)])
def test_bits_are_independent_bernoullis(shape, event_dims):
    logits = (10 * torch.randn(shape)).requires_grad_()
    bits = Bits(logits, event_dims)
    torch_bits = torch.distributions.Bernoulli(logits=logits, validate_args=False)
    torch_bits = torch.distributions.Independent(torch_bits, event_dims)
    draws = bits.sample((2000,))
    assert draws.shape == (2000, *shape) and not draws.requires_grad
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    # 2,000 draws a bit: 6 standard deviations of a mean are at most 6 * 0.5 / sqrt(2000).
    assert (draws.mean(dim=0) - logits.sigmoid()).abs().max() < 3 / 2000**0.5
    expected = torch_bits.log_prob(draws)
    torch.testing.assert_close(bits.log_prob(draws), expected, rtol=1e-5, atol=1e-4)
    gradients = [
        torch.autograd.grad(log_p.mean(), logits)[0] for log_p in (bits.log_prob(draws), expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_certain_bits_have_finite_log_probs():
    bits = Bits(torch.tensor([-1000.0, 1000.0]))
    assert bits.sample((100,)).eq(torch.tensor([0.0, 1.0])).all()
    assert bits.log_prob(torch.tensor([[0.0, 1.0], [1.0, 0.0]])).tolist() == [0.0, -2000.0]
