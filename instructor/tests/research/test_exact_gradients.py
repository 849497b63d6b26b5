"""Bias and error of gradients on a toy small enough to enumerate."""

import pytest
import torch

from instructor.research import gradient_noise
from instructor.research.exact_gradients import Estimators, report
from instructor.tests.kit.tools import small_task
from kit.settings import RunSettings, to_config


@pytest.fixture(params=["bernoulli", "categorical"])
def task(request):
    return small_task(request.param)


def measured(task, x, cached=None, replicates=200):
    torch.manual_seed(1)
    estimators = Estimators(task, x, samples=3, local=2, replicates=replicates, cached=cached)
    with torch.no_grad():
        return {name: errors for name, errors in report(task, estimators)}


def test_every_estimator_counts_each_point_once(task):
    x = torch.rand(4, 2)
    cached = task.proposal.sample_latent(x, 1)[0]
    with torch.no_grad():
        found = dict(Estimators(task, x, 3, 2, 5, cached))
    assert len(found) == 14
    for v in found.values():
        assert v.shape == (5, len(task.all_states()), 4)
        torch.testing.assert_close(v.sum(dim=1), torch.ones(5, 4))


def test_exact_gradient_is_that_of_log_p_x(task):
    x = torch.rand(4, 2)
    parameters = list(task.joint.parameters())
    log_p_x, log_posterior, _ = task.exact(x)
    expected = torch.autograd.grad(log_p_x.mean(), parameters, retain_graph=True)
    log_joint, v = log_posterior + log_p_x, log_posterior.detach().exp()
    found = torch.autograd.grad(log_joint, parameters, v / len(x))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_exact_draws_have_no_bias_and_a_frozen_state_has_nothing_else(task):
    torch.manual_seed(2)
    x = torch.rand(4, 2)
    # The least likely state of each point: a chain that froze in the wrong place.
    wrong = task.all_states()[task.exact(x)[1].argmin(dim=0)]
    found = measured(task, x, wrong)
    exact = found["one exact draw of the posterior"]
    biases, errors = exact[::2], exact[1::2]
    # The bias of R = 200 estimates is known up to error / sqrt(R); 3 of these for both sides.
    assert all(bias < 3 * error / 200**0.5 for bias, error in zip(biases, errors, strict=True))
    bias_p, error_p, bias_q, error_q = found["checkpoint's cache, frozen"]
    assert bias_p == pytest.approx(error_p, rel=1e-4) and bias_q == pytest.approx(error_q, rel=1e-4)
    assert bias_p > max(errors) / 200**0.5 and bias_p > 0.5 and bias_q > 0.5


def test_chains_lose_their_bias_with_each_visit(task):
    torch.manual_seed(2)
    found = measured(task, torch.rand(4, 2), replicates=300)
    for local in ("", ", 2 local steps"):
        first, last = (found[f"own cache{local}, visit {v}, last state"] for v in (1, 20))
        # Up to 3 times the resolution of 300 estimates; see above.
        assert all(last[i] < first[i] + 3 * last[i + 1] / 300**0.5 for i in (0, 2))
        assert all(last[i] < 3 * last[i + 1] / 300**0.5 for i in (0, 2))


def test_the_command(task, tmp_path, capsys):
    task.cache.put(torch.arange(40), task.proposal.sample_latent(torch.rand(40, 2), 1)[0])
    checkpoint = {
        "config": to_config(task.settings, RunSettings()),
        "model_state_dict": task.state_dict(),
        "sampler_state_dict": task.cache.state_dict(),
    }
    torch.save(checkpoint, tmp_path / "toy.pth")
    gradient_noise.main([f"{tmp_path}/toy.pth", "--repeats", "2", "--images", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert "| gradient | p: bias | p: error | q: bias | q: error |" in lines
    assert lines[-1].startswith("| checkpoint's cache, 3 MIS steps | ")
