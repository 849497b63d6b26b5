"""u < exp(difference), written so that nothing overflows; a log u drawn as an exponential."""

import torch

from model import BaseSampler
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
