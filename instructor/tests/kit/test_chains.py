"""Local steps: exact on models that can be enumerated; the floors of MIS; the search for a code."""

import numpy as np
import pytest
import torch

import submission
from kit import chains
from kit.settings import JSASettings, ToySettings
from kit.tasks import TaskError, make_task
from tests.tools import all_states, check_frequencies

LATENTS = ["bernoulli", "categorical"]
each_latent = pytest.mark.parametrize("latent", LATENTS)
CHAINS = 20_000
SIZES = {"bernoulli": (4, 1), "categorical": (2, 3)}  # 16 and 9 states


def make_joint(latent, components=3):
    """A JointModel with a mixture and a network that is far from linear."""
    latent_dim, num_categories = SIZES[latent]
    kind = {"latent": latent, "num_categories": num_categories}
    mixture = submission.MixturePrior(components, latent_dim, **kind)
    joint = submission.JointModel(
        latent_dim, mixture=mixture, hidden=[6], x_shape=(2,), sigma=0.4, **kind
    )
    for parameter in joint.parameters():
        parameter.data.normal_(0, 1.5)
    return joint


def every_state(latent):
    return torch.as_tensor(all_states(latent, *SIZES[latent]))


def posterior_of(joint, x):
    """p(h|x) of one x [1, 2] by enumeration."""
    states = every_state(joint.latent)
    with torch.no_grad():
        return torch.softmax(joint.log_joint_prob(x.expand(len(states), -1), states), dim=0)


def numbers_of(joint, h):
    states = every_state(joint.latent)
    return (h.unsqueeze(-2) == states).all(dim=-1).float().argmax(dim=-1).numpy()


@each_latent
def test_scores_are_the_first_order_changes(latent):
    """The gradient is that of a path from h to its neighbour, by finite differences."""
    joint = make_joint(latent)
    states, x = every_state(latent), torch.rand(1, 2)
    many = x.expand(len(states), -1)
    log_p, gain = chains.score_changes(joint, many, states)
    assert torch.equal(log_p, joint.log_joint_prob(many, states).detach())
    for change in range(gain.shape[1]):
        new, undo = chains.apply_changes(joint, states, torch.full((len(states),), change))
        same = (new == states).all(dim=1)
        assert torch.equal(same, gain[:, change] == -torch.inf)
        assert ((new != states).sum(dim=1) == (~same).int()).all()
        back, _ = chains.apply_changes(joint, new, undo)
        assert torch.equal(back, states)
        if latent == "bernoulli":
            step = 1e-3 * (new - states)
            ahead, behind = (joint.log_joint_prob(many, states + s) for s in (step, -step))
            slope = (ahead - behind).detach() / 2e-3
            torch.testing.assert_close(gain[:, change], slope, rtol=0.02, atol=0.05)


def test_scores_of_categories_see_prior_and_likelihood():
    """With a linear network and one component the first order is exact for the prior."""
    joint = make_joint("categorical", components=1)
    states = every_state("categorical")
    x = torch.rand(1, 2).expand(len(states), -1)
    log_prior = joint.mixture.log_prob(states).detach()
    for parameter in joint.net.parameters():
        parameter.data.zero_()  # p(x|h) is the same for all h
    _, gain = chains.score_changes(joint, x, states)
    for change in range(gain.shape[1]):
        new, _ = chains.apply_changes(joint, states, torch.full((len(states),), change))
        there = joint.mixture.log_prob(new).detach() - log_prior
        moved = gain[:, change] > -torch.inf
        torch.testing.assert_close(gain[moved, change], there[moved], rtol=1e-4, atol=1e-4)


@each_latent
def test_local_steps_keep_the_posterior(latent):
    joint, x = make_joint(latent), torch.rand(1, 2)
    p = posterior_of(joint, x)
    start = every_state(latent)[torch.multinomial(p, CHAINS, replacement=True)]
    states, accepted = chains.local_steps(joint, x.expand(CHAINS, -1), start, 3)
    assert states.shape == (3, *start.shape)
    assert states.dtype == start.dtype
    assert 0 < accepted < 1
    for h in states:
        check_frequencies(numbers_of(joint, h), p.double().numpy(), "local steps")


@each_latent
def test_detailed_balance(latent):
    """From the posterior, a step from a to b is as frequent as one from b to a.

    The difference of the two counts has variance at most their sum; 6 sigma (+ 6 for rare pairs)
    fail with a probability below 1e-8 for each of at most 120 pairs.
    """
    joint, x = make_joint(latent), torch.rand(1, 2)
    p = posterior_of(joint, x)
    start = every_state(latent)[torch.multinomial(p, CHAINS, replacement=True)]
    end = chains.local_steps(joint, x.expand(CHAINS, -1), start, 1)[0][-1]
    a, b, size = numbers_of(joint, start), numbers_of(joint, end), len(p)
    counts = np.bincount(a * size + b, minlength=size**2).reshape(size, size)
    assert np.trace(counts) < CHAINS  # some did move
    assert (np.abs(counts - counts.T) <= 6 * np.sqrt(counts + counts.T) + 6).all()


@each_latent
def test_local_steps_and_mis_reach_the_posterior(latent):
    """From one state, MIS and local steps in turn, as the task runs them."""
    joint, x = make_joint(latent), torch.rand(1, 2)
    kind = {"latent": latent, "num_categories": SIZES[latent][1], "x_shape": (2,), "hidden": []}
    sampler = submission.MISampler(joint, submission.ProposalModel(joint.latent_dim, **kind))
    many = x.expand(CHAINS, -1)
    h = every_state(latent)[:1].expand(CHAINS, -1)
    for _ in range(30):
        h = sampler.sample(many, h_init=h, num_steps=3)
        h = chains.local_steps(joint, many, h, 2)[0][-1]
    p = posterior_of(joint, x).double().numpy()
    check_frequencies(numbers_of(joint, h), p, "MIS and local steps")


@each_latent
def test_climb_reaches_a_local_maximum_and_never_falls(latent):
    joint, x = make_joint(latent), torch.rand(1, 2)
    states = every_state(latent)
    many = x.expand(len(states), -1)
    log_p = joint.log_joint_prob(many, states).detach()
    assert chains.climb(joint, many, states, 0) is states
    before = log_p
    for num_steps in (1, 2, 60):
        h = chains.climb(joint, many, states, num_steps)
        now = joint.log_joint_prob(many, h).detach()
        assert (now >= before - 1e-5).all()
        before = now
    neighbours = (states.unsqueeze(1) != states).sum(dim=-1) == 1  # (S, S)
    best_beside = torch.where(neighbours, log_p, -torch.inf).max(dim=1).values
    assert (now >= best_beside[numbers_of(joint, h)] - 1e-5).all()


def test_a_model_without_gradient_is_named():
    joint = make_joint("bernoulli")
    own = joint.log_joint_prob
    joint.log_joint_prob = lambda x, h: own(x, h.detach())
    with pytest.raises(TaskError, match=r"gradient with respect to h \(TODO 4.2\)"):
        chains.score_changes(joint, torch.rand(1, 2), every_state("bernoulli")[:1])


def test_categories_that_the_kit_cannot_watch_are_changed_blindly():
    """A network that is fed in another way than by `self.h_numbers` is right, too."""
    joint, x = make_joint("categorical"), torch.rand(1, 2)
    own = joint.log_joint_prob
    joint.log_joint_prob = lambda x, h: own(x, h.clone())
    p = posterior_of(joint, x)
    start = every_state("categorical")[torch.multinomial(p, CHAINS, replacement=True)]
    states, _ = chains.local_steps(joint, x.expand(CHAINS, -1), start, 2)
    check_frequencies(numbers_of(joint, states[-1]), p.double().numpy(), "blind local steps")


@each_latent
def test_a_model_that_has_diverged_is_left_to_the_trainer(latent):
    joint, x = make_joint(latent), torch.rand(1, 2)
    for parameter in joint.net.parameters():
        parameter.data.fill_(torch.nan)
    start = every_state(latent)[:5]
    states, accepted = chains.local_steps(joint, x.expand(5, -1), start, 2)
    assert accepted == 0 and torch.equal(states[-1], start)
    assert torch.equal(chains.climb(joint, x.expand(5, -1), start, 3), start)


def test_bits_of_another_type_are_taken():
    joint, x = make_joint("bernoulli"), torch.rand(1, 2)
    start = every_state("bernoulli")[:5].bool()
    states, _ = chains.local_steps(joint, x.expand(5, -1), start, 2)
    assert states.dtype == torch.float32
    assert chains.climb(joint, x.expand(5, -1), start, 2).dtype == torch.float32


def simulated(spread, num_steps, epochs):
    """MIS chains with log weights N(0, spread^2): shares accepted and moved, by epoch."""
    current = spread * torch.randn(CHAINS)
    shares = []
    for _ in range(epochs):
        log_w = torch.cat([current.unsqueeze(0), spread * torch.randn(num_steps, CHAINS)])
        rows = submission.mis_chain(log_w, torch.rand(num_steps, CHAINS))  # (T, CHAINS)
        before = torch.cat([torch.zeros_like(rows[:1]), rows[:-1]])
        shares.append(
            [(rows != before).float().mean().item(), (rows[-1] > 0).float().mean().item()]
        )
        current = log_w.gather(0, rows[-1:]).squeeze(0)
    return shares


@pytest.mark.parametrize("num_steps", [1, 5, 10])
def test_floors_of_mis(num_steps):
    """No chain falls below the floors, and one whose weights differ by thousands lies on them.

    6 sigma of a share of 20,000 chains: at most 0.0212, which a correct floor exceeds by chance
    with a probability below 1e-8. Steps of one chain are no more than that for their mean.
    """
    slack = 6 * 0.5 / CHAINS**0.5
    floors = [
        (chains.acceptance_floor(num_steps, epoch), chains.moved_floor(num_steps, epoch))
        for epoch in (1, 2, 3)
    ]
    for found, least in zip(simulated(1.0, num_steps, 3), floors, strict=True):
        assert all(share > floor - slack for share, floor in zip(found, least, strict=True))
    for found, least in zip(simulated(1e4, num_steps, 3), floors, strict=True):
        assert found == pytest.approx(least, abs=slack)


def test_floors_are_those_of_the_page():
    assert chains.acceptance_floor(10) == pytest.approx(0.202, abs=5e-4)
    assert chains.moved_floor(10, 3) == 10 / 31


def make_jsa(x, **changed):
    settings = JSASettings(latent_dim=6, hidden=[8], **changed)
    return make_task(submission, settings, len(x))


@pytest.mark.parametrize("chain_states", ["last", "all"])
@each_latent
def test_task_stores_what_the_local_steps_reach(latent, chain_states):
    x, index = torch.rand(5, 1, 28, 28), torch.arange(5)
    changed = {"latent": latent, "num_categories": 3, "chain_states": chain_states}
    task = make_jsa(x, local_steps=4, cache_start_epoch=2, **changed)
    task.start_epoch(1, 3)
    loss, metrics = task.loss(x, None, index)
    assert {"acceptance_local", "acceptance_floor"} <= metrics.keys()
    assert len(task.cache.visited()) == 0
    task.start_epoch(2, 3)
    loss, metrics = task.loss(x, None, index)
    loss.backward()
    assert all(p.grad is not None for p in task.model.parameters())
    assert {"acceptance_local", "moved"} <= metrics.keys()
    assert not {"acceptance_floor", "moved_floor"} & metrics.keys()  # no promise of MIS alone
    ends = task.sampler.states[task.sampler.rows[-1], torch.arange(5)]
    away = (task.cache.rows(index).to(ends.dtype) != ends).sum(dim=1)
    assert (away <= 4).all() and away.any()
    before = task.cache.rows(index)
    task.loss(x, None, None)
    assert torch.equal(before, task.cache.rows(index))  # validation leaves no trace


def test_floors_are_logged_with_mis_alone():
    x, index = torch.rand(5, 1, 28, 28), torch.arange(5)
    task = make_jsa(x, local_steps=0, num_mis_steps=10, cache_start_epoch=2)
    found = {}
    for epoch in (1, 2, 3):
        task.start_epoch(epoch, 3)
        found[epoch] = task.loss(x, None, index)[1]
    assert found[1]["acceptance_floor"].item() == pytest.approx(chains.acceptance_floor(10, 1))
    assert "moved_floor" not in found[1]
    assert found[3]["acceptance_floor"].item() == pytest.approx(chains.acceptance_floor(10, 2))
    assert found[3]["moved_floor"].item() == pytest.approx(chains.moved_floor(10, 2))


def test_few_states_have_no_floor_for_moving():
    """A state of the toy that is drawn again is no move."""
    task = make_task(submission, ToySettings(prior="uniform"), 5)
    task.start_epoch(3, 9)
    metrics = task.loss(torch.rand(5, 2), None, torch.arange(5))[1]
    assert "acceptance_floor" in metrics and "moved_floor" not in metrics


@each_latent
def test_local_codes_fit_better(latent):
    x = torch.rand(20, 1, 28, 28)
    tasks = {
        code: make_jsa(x, code=code, latent=latent, num_categories=3) for code in ("best", "local")
    }
    tasks["best"].load_state_dict(tasks["local"].state_dict())
    log_p = {}
    with torch.no_grad():
        for code, task in tasks.items():
            torch.manual_seed(1)
            h = task.encode(x, None)
            assert ((h == 0) | (h == 1) | (h == 2)).all()
            log_p[code] = task.joint.log_joint_prob(x, h)
    assert (log_p["local"] >= log_p["best"]).all()
    assert (log_p["local"] > log_p["best"]).any()


def test_uniform_prior_has_no_mixture():
    task = make_jsa(torch.rand(2, 1, 28, 28), prior="uniform")
    assert task.joint.mixture is None
    assert len(task.param_groups()) == 2
    learned = make_jsa(torch.rand(2, 1, 28, 28), prior_components=7).param_groups()
    assert [group["lr"] for group in learned] == [3e-3, 3e-3, JSASettings().lr_prior]
    assert sum(p.numel() for p in learned[2]["params"]) == 7 + 7 * 6
