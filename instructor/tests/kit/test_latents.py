"""What the pictures of latents show: the way between two codes, and what single entries do."""

from types import SimpleNamespace

import pytest
import torch

import submission
from kit.settings import GenSettings, VAESettings
from kit.tasks import latents, make_task

ENTRIES, CATEGORIES = 6, 4
KINDS = ("float", "bernoulli", "categorical")
each_kind = pytest.mark.parametrize("kind", KINDS)


def linear_task(kind):
    """Entry j of a code puts its value, times j + 1, into pixel j."""

    def decode(code, labels):
        images = torch.zeros(len(code), 784)
        images[:, :ENTRIES] = code * torch.arange(1.0, ENTRIES + 1)
        return images.reshape(-1, 1, 28, 28)

    return SimpleNamespace(code_kind=kind, num_categories=CATEGORIES, decode=decode)


def codes_of(kind, count):
    if kind == "float":
        return torch.randn(count, ENTRIES)
    if kind == "bernoulli":
        return torch.randint(2, (count, ENTRIES)).float()
    return torch.randint(CATEGORIES, (count, ENTRIES))


@each_kind
def test_the_way_leads_from_one_code_to_the_other(kind):
    task, label = linear_task(kind), torch.tensor(3)
    start, end = codes_of(kind, 2)
    for there in (end, start):
        images = latents.interpolate(task, start, there, label, 10)
        assert images.shape == (10, 28, 28)
        torch.testing.assert_close(images[0], task.decode(start[None], None)[0, 0])
        torch.testing.assert_close(images[-1], task.decode(there[None], None)[0, 0])


def test_bits_with_a_small_effect_change_first():
    task = linear_task("bernoulli")
    images = latents.interpolate(task, torch.zeros(6), torch.ones(6), torch.tensor(0), 92)
    changed = (images.flatten(1)[:, :ENTRIES] > 0).int()  # effects 1, 4, 9, 16, 25, 36: 91 in all
    assert changed.sum(dim=1).tolist() == sorted(changed.sum(dim=1).tolist())
    first = [int(changed[:, j].argmax()) for j in range(ENTRIES)]
    assert first == [1, 5, 14, 30, 55, 91]


@each_kind
def test_the_strongest_entries_come_first(kind):
    codes, labels = torch.zeros_like(codes_of(kind, 5)), torch.zeros(5, dtype=torch.int64)
    assert latents.strongest(linear_task(kind), codes, labels, 3) == [5, 4, 3]
    assert len(latents.strongest(linear_task(kind), codes, labels, 10)) == ENTRIES


@each_kind
def test_one_entry_goes_through_its_values(kind):
    task, codes = linear_task(kind), codes_of(kind, 10)
    before = codes.clone()
    moves = latents.traverse(task, codes, torch.zeros(10), entry=2, count=10)
    assert torch.equal(codes, before)
    number = CATEGORIES if kind == "categorical" else 10
    assert moves.shape == (number, 2, 28, 28)
    shown, difference = moves.flatten(2)[:, 0], moves.flatten(2)[:, 1]
    if kind == "bernoulli":
        assert (shown[:, 2] == 3).all() and (difference[:, 2] == 3).all()
    else:
        values = {"float": torch.linspace(-2.5, 2.5, 10), "categorical": torch.arange(4.0)}[kind]
        torch.testing.assert_close(shown[:, 2], 3 * values)
        torch.testing.assert_close(difference[:, 2], 3 * (values - codes[0, 2]))
    others = [j for j in range(784) if j != 2]
    assert (difference[:, others] == 0).all()


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("kind", [VAESettings, GenSettings])
def test_reconstruction_and_kl_are_logged_apart(kind, likelihood):
    task = make_task(submission, kind(latent_dim=3, likelihood=likelihood))
    x, labels, index = torch.rand(4, 1, 28, 28), torch.arange(4), torch.arange(4)
    torch.manual_seed(5)
    loss, metrics = task.loss(x, labels, index)
    _, mu, log_var = task.model(x, task.seen(labels))
    kl = -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum(dim=1).mean()
    torch.testing.assert_close(metrics["kl"], kl.detach())
    torch.testing.assert_close(metrics["reconstruction"] + metrics["kl"], loss.detach())
    assert task.loss(x, labels, None)[1] == {}
    task.model.loss = lambda x, labels: (x**2).sum()
    assert task.loss(x, labels, index)[1] == {}
