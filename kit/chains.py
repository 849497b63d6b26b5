"""Moves of one latent variable at a time, guided by the gradient of log p(x, h), and what theory
promises of MIS chains.

The proposal is that of Gibbs with gradients (Grathwohl et al., ICML 2021, arXiv 2102.04509): a
change of h that raises log p(x, h) is proposed more often. All changes are scored by one gradient,
as a first-order Taylor expansion. A Metropolis step makes up for its error, so `local_steps` leaves
p(h|x) as it is; so does MIS, and so does one after the other. Both take for granted that
log p(x, h) is a function: with Dropout in p's network it is another one at each call.

Changes of h are numbered: j flips bit j; j * C + c gives variable j the value c.
"""

import torch

from kit.tasks.base import TaskError

NO_GRADIENT = """log_joint_prob must have a gradient with respect to h (TODO 4.2); without one,
train with --local_steps 0 --code best"""


def score_changes(joint, x, h) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(x, h) in nats, [B], and about how much each change of h adds to it, [B, K or D * C].

    A change that changes nothing, to the value that a variable already has, counts -inf.
    """
    with torch.enable_grad():
        if joint.latent == "bernoulli":
            features = h.detach().clone().requires_grad_()
            log_p = joint.log_joint_prob(x, features)
        else:
            with joint.h_numbers.differentiable(h) as features:
                log_p = joint.log_joint_prob(x, h)
        gradient = None
        if log_p.requires_grad:
            (gradient,) = torch.autograd.grad(log_p.sum(), features, allow_unused=True)
    if gradient is None and joint.latent == "bernoulli":
        raise TaskError(NO_GRADIENT)
    if gradient is None:  # categories that went to the network in a way of the student's own:
        gradient = torch.zeros_like(features)  # all changes are equally likely to be proposed
    if joint.latent == "bernoulli":
        return log_p.detach(), gradient * (1 - 2 * h)  # a bit goes from h to 1 - h
    gradient = gradient.reshape(*h.shape, joint.num_categories)  # (B, D, C)
    now = h.unsqueeze(-1)  # (B, D, 1)
    gain = (gradient - gradient.gather(-1, now)).scatter(-1, now, -torch.inf)
    return log_p.detach(), gain.flatten(1)


def as_numbers(joint, h) -> torch.Tensor:
    """Bits as float32, of whatever type a student's samples are."""
    return h.to(joint.sigma.dtype) if joint.latent == "bernoulli" else h


def apply_changes(joint, h, change) -> tuple[torch.Tensor, torch.Tensor]:
    """h [B, K] after the changes with these numbers, [B], and the numbers that undo them."""
    new, example = h.clone(), torch.arange(len(h), device=h.device)
    if joint.latent == "bernoulli":
        new[example, change] = 1 - new[example, change]
        return new, change
    variable, value = change // joint.num_categories, change % joint.num_categories
    new[example, variable] = value
    return new, variable * joint.num_categories + h[example, variable]


@torch.no_grad()
def local_steps(joint, x, h, num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps of Gibbs with gradients, each a single change of h that is accepted or rejected.

    Args:
        joint: p(x, h); x: [B, ...]; h: [B, K], where the chains start.
        num_steps: G, at least 1.

    Returns:
        The states after each step, [G, B, K], and the share of changes that were accepted.
    """

    def proposal(gain):  # log of the probability of each change, [B, K or D * C]
        return torch.log_softmax(gain / 2, dim=1)

    h = as_numbers(joint, h)
    log_p, gain = score_changes(joint, x, h)
    log_q = proposal(gain)
    states, accepted = [], []
    for _ in range(num_steps):
        # A model that has diverged gives nan; the trainer will say so.
        change = torch.multinomial(log_q.exp().nan_to_num(1.0), 1).squeeze(1)  # (B,)
        new, undo = apply_changes(joint, h, change)
        new_log_p, gain = score_changes(joint, x, new)
        new_log_q = proposal(gain)
        there = log_q.gather(1, change.unsqueeze(1)).squeeze(1)
        back = new_log_q.gather(1, undo.unsqueeze(1)).squeeze(1)
        accept = torch.rand_like(log_p).log() < new_log_p - log_p + back - there  # (B,)
        h = torch.where(accept.unsqueeze(1), new, h)
        log_p = torch.where(accept, new_log_p, log_p)
        log_q = torch.where(accept.unsqueeze(1), new_log_q, log_q)
        states.append(h)
        accepted.append(accept)
    return torch.stack(states), torch.stack(accepted).float().mean()


@torch.no_grad()
def climb(joint, x, h, num_steps: int) -> torch.Tensor:
    """Greedy search: try the change that promises most, keep it where log p(x, h) grew, and so on.

    A change that did not help is not tried again before another one has.

    Args:
        joint: p(x, h); x: [B, ...]; h: [B, K], where the search starts.
        num_steps: changes to try; 0 leaves h as it is.

    Returns:
        [B, K], of at least the log p(x, h) of the start.
    """
    if num_steps == 0:
        return h
    h = as_numbers(joint, h)
    log_p, gain = score_changes(joint, x, h)
    for _ in range(num_steps):
        change = gain.argmax(dim=1)  # (B,)
        new, _ = apply_changes(joint, h, change)
        new_log_p, new_gain = score_changes(joint, x, new)
        better = new_log_p > log_p
        gain.scatter_(1, change.unsqueeze(1), -torch.inf)
        gain = torch.where(better.unsqueeze(1), new_gain, gain)
        h = torch.where(better.unsqueeze(1), new, h)
        log_p = torch.where(better, new_log_p, log_p)
    return h


def acceptance_floor(num_steps: int, epoch: int = 1) -> float:
    """The smallest expected share of proposals that an MIS chain accepts, for fixed p and q.

    A chain that started at a draw of q has seen n of them; the next is accepted for certain where
    its weight is the largest so far, which happens with probability 1 / (n + 1), by symmetry. In
    its first epoch a chain of T proposals thus accepts at least (H_{T+1} - 1) / T of them, with
    H_n = 1 + 1/2 + ... + 1/n.

    Args:
        num_steps: T, proposals per epoch.
        epoch: how often the chain has come by, this time included.
    """
    seen = (epoch - 1) * num_steps + 1  # draws of q before this epoch's
    return sum(1 / (seen + step) for step in range(1, num_steps + 1)) / num_steps


def moved_floor(num_steps: int, epoch: int = 1) -> float:
    """The smallest expected share of MIS chains that move in an epoch, for fixed p and q.

    A chain moves at least where the best of all tT + 1 draws is one of this epoch's T. That is so
    where no state is drawn twice, as with 200 bits; of a few states the same may come again.
    """
    return num_steps / (epoch * num_steps + 1)
