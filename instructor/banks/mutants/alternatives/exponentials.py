"""Differences in exp, so that nothing overflows; log u and argmax from exponential numbers."""

import torch
import torch.nn.functional as F

from model import BaseMixturePrior, BaseSampler
from submission import log_importance_weight  # the reference, above in the same module


def mis_chain(log_w, u):
    state = torch.arange(log_w.shape[1])
    row = torch.zeros(log_w.shape[1], dtype=torch.long)
    rows = log_w.new_zeros(u.shape).long()
    for t, u_t in enumerate(u):
        difference = log_w[t + 1] - log_w[row, state]
        probability = torch.exp(torch.minimum(difference, torch.zeros(())))
        row[u_t < probability] = t + 1
        rows[t] = row
    return rows


class MISampler(BaseSampler):
    @staticmethod
    def log_acceptance_ratio(joint, proposal, x, h_new, h_old):
        pair = torch.stack([h_new, h_old])  # (2, B, K)
        new, old = joint.log_joint_prob(x, pair) - proposal.log_conditional_prob(pair, x)
        return new - old

    @torch.no_grad()
    def step(self, x, h_old=None, idx=None):
        if h_old is None:
            h_old = self.start_state(self.proposal.sample_latent(x)[0], idx)
        h_new = self.proposal.proposal(x).sample()
        log_ratio = self.log_acceptance_ratio(self.joint, self.proposal, x, h_new, h_old)
        minus_log_u = torch.empty_like(log_ratio).exponential_()
        h = h_old + (minus_log_u > -log_ratio)[:, None] * (h_new - h_old)
        if idx is not None:
            self.cache.put(idx, h)
        return h

    @torch.no_grad()
    def sample(self, x, h_init=None, idx=None, num_steps=10):
        draws = self.proposal.sample_latent(x, num_steps + 1)
        start = self.start_state(draws[0], idx) if h_init is None else h_init
        states = torch.cat([start[None].to(draws.dtype), draws[1:]])
        log_w = torch.stack(
            [log_importance_weight(self.joint, self.proposal, x, s) for s in states]
        )
        rows = mis_chain(log_w, torch.empty(num_steps, len(x)).uniform_())
        self.record(states, log_w, rows)
        h = start
        if num_steps:
            h = states.gather(0, rows[-1][None, :, None].expand(1, -1, states.shape[-1]))[0]
        if idx is not None:
            self.update_cache(idx, h)
        return h

    def update_cache(self, idx, h):
        self.cache.table.index_copy_(0, idx, h.to(self.cache.table.dtype))


class MixturePrior(BaseMixturePrior):
    def log_prob(self, h):
        if self.latent == "bernoulli":  # p(h_j|m) is the sigmoid of the logit or of minus the logit
            log_p = F.logsigmoid((2 * h.unsqueeze(-2) - 1) * self.component_logits).sum(dim=-1)
        else:
            weights = self.component_logits - self.component_logits.logsumexp(-1, keepdim=True)
            log_p = torch.einsum("...i,mi->...m", self.h_numbers(h), weights.flatten(1))
        top = log_p.detach().max(dim=-1, keepdim=True).values
        mean = ((log_p - top).exp() * self.mixture_logits.softmax(dim=0)).sum(dim=-1)
        return top.squeeze(-1) + mean.log()

    @torch.no_grad()
    def sample(self, sample_shape=()):
        def draw(logits):  # the first of several exponential clocks that rings
            return (torch.empty_like(logits).exponential_().log() - logits).argmin(dim=-1)

        m = draw(self.mixture_logits.expand(*sample_shape, -1))
        logits = self.component_logits.index_select(0, m.flatten())
        logits = logits.reshape(*sample_shape, *self.component_logits.shape[1:])
        if self.latent == "bernoulli":
            return draw(torch.stack([torch.zeros_like(logits), logits], dim=-1)).float()
        return draw(logits)
