"""Random numbers from generators of one's own, in numpy and torch."""

import numpy as np
import torch

import submission  # the reference, above in the same module

RNG = np.random.default_rng(2024)
GENERATOR = torch.Generator().manual_seed(2024)


def reparameterize(mu, log_var):
    eps = torch.as_tensor(RNG.standard_normal(tuple(mu.shape)), dtype=mu.dtype)
    return mu + torch.exp(0.5 * log_var) * eps


class ProposalModel(submission.ProposalModel):
    @torch.no_grad()
    def sample_latent(self, x, num_samples=1):
        logits = self.h_logits(x).expand(num_samples, *[-1] * (2 + (self.latent == "categorical")))
        if self.latent == "bernoulli":
            return (torch.rand(logits.shape, generator=GENERATOR) < logits.sigmoid()).float()
        u = torch.rand(logits.shape[:-1], generator=GENERATOR, dtype=torch.float64)
        below = logits.double().softmax(dim=-1).cumsum(dim=-1)[..., :-1] < u.unsqueeze(-1)
        return below.sum(dim=-1)  # the inverse of the distribution function


class MISampler(submission.MISampler):
    @torch.no_grad()
    def step(self, x, h_old=None, idx=None):
        draws = self.proposal.proposal(x).sample((2,))
        h_old = self.start_state(draws[0], idx) if h_old is None else h_old
        log_ratio = self.log_acceptance_ratio(self.joint, self.proposal, x, draws[1], h_old)
        u = torch.as_tensor(RNG.uniform(size=len(x)))
        accept = u.log() < log_ratio
        h = torch.where(accept[:, None], draws[1], h_old)
        if idx is not None:
            self.update_cache(idx, h)
        return h


class MixturePrior(submission.MixturePrior):
    @torch.no_grad()
    def sample(self, sample_shape=()):
        pi = self.mixture_logits.double().softmax(dim=0).numpy()
        m = RNG.choice(len(pi), size=tuple(sample_shape), p=pi / pi.sum())
        logits = self.component_logits[torch.as_tensor(m)]
        if self.latent == "bernoulli":
            u = torch.rand(logits.shape, generator=GENERATOR)
            return (u < logits.sigmoid()).to(logits.dtype)
        gumbel = torch.as_tensor(RNG.gumbel(size=tuple(logits.shape)))
        return (logits + gumbel).argmax(dim=-1)
