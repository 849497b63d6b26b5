"""One chain, step and component after the other, in plain Python; `sample` has no mis_chain."""

import math

import torch
import torch.nn.functional as F

from model import BaseMixturePrior, BaseSampler


def mis_chain(log_w, u):
    rows = torch.zeros(u.shape, dtype=torch.int64)
    for b in range(u.shape[1]):
        current = 0
        for t in range(u.shape[0]):
            new, old = float(log_w[t + 1, b]), float(log_w[current, b])
            log_u = math.log(u[t, b]) if u[t, b] > 0 else -math.inf
            if log_u < new - old:
                current = t + 1
            rows[t, b] = current
    return rows


class MISampler(BaseSampler):
    @staticmethod
    def log_acceptance_ratio(joint, proposal, x, h_new, h_old):
        p_ratio = joint.log_joint_prob(x, h_new) - joint.log_joint_prob(x, h_old)
        q_ratio = proposal.log_conditional_prob(h_new, x) - proposal.log_conditional_prob(h_old, x)
        return (p_ratio - q_ratio).detach()

    def propose(self, x):
        return self.proposal.sample_latent(x)[0]

    def start(self, x, h, idx):
        return self.start_state(self.propose(x), idx) if h is None else h

    def move(self, x, h_old, h_new):
        """Which proposals are accepted."""
        log_ratio = self.log_acceptance_ratio(self.joint, self.proposal, x, h_new, h_old)
        return torch.rand(len(x)) < log_ratio.clamp(max=0).exp()

    def step(self, x, h_old=None, idx=None):
        with torch.no_grad():
            h, h_new = self.start(x, h_old, idx).clone(), self.propose(x)
            accept = self.move(x, h, h_new)
            h[accept] = h_new[accept]
            if idx is not None:
                self.update_cache(idx, h)
            return h

    def sample(self, x, h_init=None, idx=None, num_steps=10):
        with torch.no_grad():
            h = self.start(x, h_init, idx)
            states, row, rows = [h], torch.zeros(len(x), dtype=torch.int64), []
            for t in range(1, num_steps + 1):
                states.append(self.propose(x))
                accept = self.move(x, h, states[t])
                h = torch.where(accept[:, None], states[t], h)
                row = torch.where(accept, t, row)
                rows.append(row)
            log_w = [
                self.joint.log_joint_prob(x, s) - self.proposal.log_conditional_prob(s, x)
                for s in states
            ]
            rows = torch.stack(rows) if rows else torch.zeros((0, len(x)), dtype=torch.int64)
            self.record(torch.stack(states), torch.stack(log_w), rows)
            if idx is not None:
                self.update_cache(idx, h)
            return h

    def update_cache(self, idx, h):
        for i, state in zip(idx, h, strict=True):
            self.cache.put(i, state)


class MixturePrior(BaseMixturePrior):
    def log_prob(self, h):
        total = torch.tensor(-math.inf)
        log_pi = self.mixture_logits.log_softmax(dim=0)
        for log_p, logits in zip(log_pi, self.component_logits, strict=True):
            for j in range(self.latent_dim):
                if self.latent == "bernoulli":
                    one, zero = F.logsigmoid(logits[j]), F.logsigmoid(-logits[j])
                    log_p = log_p + h[..., j] * one + (1 - h[..., j]) * zero
                else:
                    log_p = log_p + logits[j].log_softmax(dim=0)[h[..., j]]
            total = torch.logaddexp(total, log_p)
        return total

    @torch.no_grad()
    def sample(self, sample_shape=()):
        count = math.prod(sample_shape)
        m = torch.multinomial(self.mixture_logits.softmax(dim=0), count, replacement=True)
        bits = self.latent == "bernoulli"
        h = torch.empty(count, self.latent_dim, dtype=torch.float32 if bits else torch.int64)
        for component, logits in enumerate(self.component_logits):
            mine = (m == component).nonzero().squeeze(1)
            for j in range(self.latent_dim if len(mine) else 0):
                if bits:
                    h[mine, j] = torch.bernoulli(logits[j].sigmoid().expand(len(mine)))
                else:
                    h[mine, j] = torch.multinomial(logits[j].softmax(0), len(mine), True)
        return h.reshape(*sample_shape, self.latent_dim)
