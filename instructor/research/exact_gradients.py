"""Bias and root mean square error of JSA's gradients on the toy, where the exact ones are known.

A gradient of log p(x) with respect to p, or of -KL(p(h|x) || q(h|x)) with respect to q, is
sum_h v(h) grad log p(x, h), or sum_h v(h) grad log q(h|x), with v(h) = p(h|x). An estimator puts
other numbers in the place of v: for a state of a chain 1 at this state and 0 elsewhere.
"""

from collections.abc import Iterator

import torch

from kit import chains
from kit.tasks.toy import ToyTask

VISITS = (1, 5, 20)  # how often a cached chain has come by


class Estimators:
    """All estimators for one batch with fixed weights, many independent replicates of each at once.

    Args:
        task: a trained toy; x: [B, 2].
        samples: S, draws of q(h|x) per point and estimate.
        local: G, local steps after the proposals.
        replicates: R, each with chains of its own.
        cached: the checkpoint's states of these points, [B, K]; None where it has none.
    """

    def __init__(self, task: ToyTask, x, samples: int, local: int, replicates: int, cached=None):
        self.task, self.x, self.cached = task, x, cached
        self.samples, self.local, self.replicates = samples, local, replicates
        self.copies = x.repeat(replicates, 1)  # (R * B, 2): a chain for each point and replicate

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The name of each estimator, and its v, [R, S_all, B]; every column sums to 1."""
        yield "one exact draw of the posterior", self.exact_draws()
        yield "importance weights", self.importance_weights()
        start = self.task.proposal.sample_latent(self.copies, 1)[0]
        last, average = self.chain(start, self.samples - 1)
        yield "MIS from a draw of q, last state", last
        yield "MIS from a draw of q, all states", average
        for local in dict.fromkeys((0, self.local)):
            yield from self.visits(local)
        if self.cached is not None:
            frozen = self.cached.repeat(self.replicates, 1)
            yield "checkpoint's cache, frozen", self.counted(frozen.unsqueeze(0))
            yield f"checkpoint's cache, {self.samples} MIS steps", self.chain(frozen)[0]

    def counted(self, h, weight=None):
        """v of states h [M, R * B, K] that count with `weight` [M, R * B]; None: equally."""
        if weight is None:
            weight = torch.full(h.shape[:2], 1 / len(h))
        number = self.task.state_numbers(h)  # (M, R * B)
        v = torch.zeros(len(self.task.all_states()), len(self.copies))
        v.scatter_add_(0, number, weight)
        return v.reshape(len(v), self.replicates, -1).transpose(0, 1)  # (R, S_all, B)

    def exact_draws(self):
        probability = self.task.exact(self.x)[1].exp().T.repeat(self.replicates, 1)  # (R * B, S)
        drawn = torch.multinomial(probability, 1)[:, 0]
        return self.counted(self.task.all_states()[drawn].unsqueeze(0))

    def importance_weights(self):
        task = self.task
        h = task.proposal.sample_latent(self.copies, self.samples)  # (S, R * B, K)
        log_w = task.log_importance_weight(task.joint, task.proposal, self.copies, h)
        return self.counted(h, log_w.softmax(dim=0))

    def walk(self, h, num_steps=None):
        """All states of MIS chains from h [R * B, K], after each step: [T, R * B, K]."""
        sampler, steps = self.task.sampler, self.samples if num_steps is None else num_steps
        sampler.sample(self.copies, h_init=h, num_steps=steps)
        return sampler.states[sampler.rows, torch.arange(len(h))]

    def chain(self, h, num_steps=None):
        """v of the last state of MIS chains from h, and of all their states."""
        states = self.walk(h, num_steps)
        return self.counted(states[-1:]), self.counted(states)

    def visits(self, local):
        """Caches that grow from nothing, and what they give at some of their visits."""
        h = self.task.proposal.sample_latent(self.copies, 1)[0]
        for visit in range(1, max(VISITS) + 1):
            states = self.walk(h)
            if local > 0:
                moved, _ = chains.local_steps(self.task.joint, self.copies, states[-1], local)
                states = torch.cat([states, moved])
            h = states[-1]
            if visit in VISITS:
                name = f"own cache{f', {local} local steps' * (local > 0)}, visit {visit}"
                yield f"{name}, last state", self.counted(h.unsqueeze(0))
                if visit == max(VISITS):
                    yield f"{name}, all states", self.counted(states)


def gradients(log_probs, parameters, v) -> torch.Tensor:
    """sum_h v(h) grad log_probs(h), the mean over the batch: log_probs, v [S_all, B] -> [P]."""
    found = torch.autograd.grad(log_probs, parameters, v / v.shape[1], retain_graph=True)
    return torch.cat([part.flatten() for part in found]).double()


def error(log_probs, parameters, posterior, v) -> tuple[float, float]:
    """Bias and root mean square error of the gradients that v [R, S_all, B] gives.

    Both are lengths, in units of the exact gradient's.
    """
    exact = gradients(log_probs, parameters, posterior)
    off = torch.stack([gradients(log_probs, parameters, one) - exact for one in v])  # (R, P)
    # The squared length of a mean of R estimates is too large by its own variance.
    bias = off.mean(dim=0).square().sum() - off.var(dim=0).sum() / len(v)
    found = torch.stack([bias.clamp(min=0), off.square().sum(dim=1).mean()]).sqrt()
    return tuple((found / exact.norm()).tolist())


def report(task: ToyTask, estimators: Estimators) -> Iterator[tuple[str, list[float]]]:
    """Each estimator with bias and error of p's gradient, then of q's."""
    x = estimators.x
    with torch.enable_grad():
        log_p_x, log_posterior, log_q = task.exact(x)
        log_joint = log_posterior + log_p_x
    sides = [
        (log_joint, [p for p in task.joint.parameters() if p.requires_grad]),
        (log_q, [p for p in task.proposal.parameters() if p.requires_grad]),
    ]
    posterior = log_posterior.detach().exp()
    for name, v in estimators:
        yield name, [value for side in sides for value in error(*side, posterior, v)]
