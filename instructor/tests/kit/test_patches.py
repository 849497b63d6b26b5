"""Part 5's reference, and the task objects around it."""

import itertools
from pathlib import Path

import pytest
import torch

import submission
import train
from instructor.handout.stubs import strip_solutions
from kit.settings import PatchSettings
from kit.tasks import make_task
from model import sample_categorical, split_choices

SIZE = 4


def place(choice: int, prototypes: torch.Tensor) -> torch.Tensor:
    """One prototype at its place, pixel by pixel."""
    k, i, j = (int(part) for part in split_choices(torch.tensor(choice), SIZE))
    image, width = torch.zeros(SIZE, SIZE), prototypes.shape[-1]
    for a, b in itertools.product(range(width), repeat=2):
        row, column = i + a - width // 2, j + b - width // 2
        if 0 <= row < SIZE and 0 <= column < SIZE:
            image[row, column] = prototypes[k, a, b]
    return image


@pytest.fixture
def prototypes():
    return torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def table(prototypes):
    """Every prototype at every place: [C, S, S]."""
    return torch.stack([place(choice, prototypes) for choice in range(2 * SIZE**2)])


def test_render_is_the_sum_of_placed_patches(prototypes, table):
    choices = torch.randint(len(table), (50, 3))
    expected = table[choices].sum(dim=1)
    assert torch.allclose(submission.render(choices, prototypes, SIZE)[:, 0], expected, atol=1e-6)


def test_scores_are_those_of_brute_force(prototypes, table):
    residual = torch.randn(7, 1, SIZE, SIZE)
    squares = ((residual - table) ** 2).sum(dim=(2, 3))  # (N, C)
    expected = torch.log_softmax(-1.7 * squares, dim=1)
    found = submission.patch_log_scores(residual, prototypes, 1.7)
    assert torch.allclose(found, expected, atol=1e-4)


def test_draws_have_their_probabilities():
    p = torch.tensor([[0.1, 0.0, 0.2, 0.3, 0.4, 0.0]])
    generator = torch.Generator().manual_seed(0)
    draws = sample_categorical(p.log().repeat(40_000, 1), generator)
    shares = torch.bincount(draws.flatten(), minlength=6) / len(draws)
    assert shares[1] == shares[5] == 0
    assert torch.allclose(shares, p[0], atol=6 * 0.5 / 200)  # six standard deviations


def test_conditionals_leave_the_posterior_as_it_is(prototypes, table):
    """p(h|x) by enumeration, pushed through the transition matrix that the scores make of a sweep.

    tests/test_part5.py checks the draws of `gibbs_sweep` itself, by frequencies.
    """
    x, beta = torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2)), 0.6
    number = len(table)
    images = table[:, None] + table[None]  # (C, C, S, S), two components
    posterior = torch.softmax(-beta * ((x[0] - images) ** 2).sum(dim=(2, 3)).flatten(), dim=0)
    posterior = posterior.reshape(number, number)
    step = []
    for other in range(number):
        residual = x - table[other]
        step.append(submission.patch_log_scores(residual, prototypes, beta)[0].exp())
    step = torch.stack(step)  # row: what the other component is; column: what this one becomes
    after_first = torch.einsum("ob,bn->nb", posterior, step)  # the first drawn given the second
    after_both = torch.einsum("no,nb->nb", after_first, step)  # then the second given the first
    assert torch.allclose(after_first.sum(), torch.tensor(1.0), atol=1e-5)
    assert torch.allclose(after_both, posterior, atol=1e-6)


@pytest.fixture
def small(sample):
    """200 digits as x, labels, and a Gibbs task on them."""
    x = torch.as_tensor(sample[0][:200]).float().div(255).unsqueeze(1)
    torch.manual_seed(0)
    return x, torch.zeros(200, dtype=torch.int64), make_task(submission, PatchSettings(), 200)


def test_choices_are_cached_and_validation_leaves_no_trace(small):
    x, labels, task = small
    index = torch.arange(100, 200)
    task.start_epoch(1, 10)
    _, metrics = task.loss(x[100:], labels[100:], index)
    assert 1 / 16 <= metrics["top_prototype"] <= 1 and 0 < metrics["top_place"] <= 1
    assert (task.cache.table[:100] == -1).all() and (task.cache.table[100:] >= 0).all()
    before = task.cache.table.clone()
    assert task.loss(x[:50], labels[:50], None)[1] == {}
    assert torch.equal(before, task.cache.table)
    task.start_epoch(2, 10)
    assert task.joint.counts.sum() == 100 * 14


def test_encoding_finds_what_was_rendered(small):
    """Patches far apart come back exactly."""
    _, labels, task = small
    with torch.no_grad():
        task.joint.prototypes.copy_(torch.rand(16, 7, 7))
    task.joint.latent_dim = 4
    places = torch.tensor([[5 * 28 + 5, 5 * 28 + 20, 20 * 28 + 5, 20 * 28 + 20]])
    choices = places + torch.tensor([[3, 7, 0, 15]]) * 784
    x = task.joint.decode(choices)
    assert torch.equal(task.encode(x, labels[:1]).sort().values, choices.sort().values)


def test_todos_that_are_missing(tmp_path, monkeypatch, capsys):
    (tmp_path / "stubs_of_part_5.py").write_text(
        strip_solutions(Path(submission.__file__).read_text())
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(train, "submission", __import__("stubs_of_part_5"))
    with pytest.raises(SystemExit) as end:
        train.main(["--task", "CGAE", "--save_dir", str(tmp_path / "run"), "--device", "cpu"])
    assert "in this order: TODO 5.1 (render), TODO 5.2" in str(end.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--patch_size 6", "an odd number"),
        ("--num_prototypes 42", "at most 41"),
        ("--val_metric nll", "only --sampler mis"),
        ("--sigma 0.1", "only for JSA"),
    ],
)
def test_flags_that_cannot_be(flags, message, capsys):
    with pytest.raises(SystemExit):
        train.main(["--task", "CGAE", *flags.split()])
    assert message in capsys.readouterr().err
