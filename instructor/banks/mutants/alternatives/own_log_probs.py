"""Log-probabilities written out, without torch.distributions."""

import math

import torch
import torch.nn.functional as F

from model import (
    BaseJointModel,
    BaseMixturePrior,
    BaseProposalModel,
    conv_decoder,
    conv_encoder,
    mlp,
)


class Latent:
    """Independent bits or categories with the logits [..., K] or [..., D, C]."""

    def __init__(self, logits, bits):
        self.logits, self.bits = logits, bits

    def log_prob(self, h):
        if self.bits:
            return (F.logsigmoid(self.logits) * h + F.logsigmoid(-self.logits) * (1 - h)).sum(-1)
        log_p = self.logits.log_softmax(dim=-1)
        log_p = log_p.expand(*h.shape, log_p.shape[-1])
        return log_p.gather(-1, h.unsqueeze(-1)).squeeze(-1).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape=()):
        logits = self.logits.expand(*sample_shape, *self.logits.shape)
        if self.bits:
            return torch.bernoulli(torch.sigmoid(logits))
        gumbel = -torch.log(-torch.log(torch.rand_like(logits)))
        return (logits + gumbel).argmax(dim=-1)


class Pixels:
    def __init__(self, logits, sigma, dims):
        self.logits, self.sigma, self.dims = logits, sigma, dims

    def log_prob(self, x):
        if self.sigma is None:
            log_p = -F.binary_cross_entropy_with_logits(
                self.logits, x.expand_as(self.logits), reduction="none"
            )
        else:
            z = (x - torch.sigmoid(self.logits)) / self.sigma
            log_p = -0.5 * z**2 - torch.log(self.sigma) - 0.5 * math.log(2 * math.pi)
        return log_p.sum(dim=tuple(range(-self.dims, 0)))

    def sample(self, sample_shape=()):
        mean = torch.sigmoid(self.logits).expand(*sample_shape, *self.logits.shape)
        return torch.bernoulli(mean) if self.sigma is None else torch.normal(mean, self.sigma)


class JointModel(BaseJointModel):
    def build_net(self):
        if self.hidden is None:
            return conv_decoder(self.h_features)
        return mlp([self.h_features, *self.hidden[::-1], self.x_features], self.activation)

    def prior(self):
        if isinstance(self.mixture, BaseMixturePrior):
            return self.mixture
        shape = [self.latent_dim]
        if self.latent == "categorical":
            shape.append(self.num_categories)
        return Latent(torch.zeros(shape, device=self.device), self.latent == "bernoulli")

    def likelihood(self, h):
        sigma = self.sigma if self.likelihood_kind == "gaussian" else None
        return Pixels(self.x_logits(h), sigma, len(self.x_shape))

    def log_joint_prob(self, x, h):
        log_p = self.likelihood(h).log_prob(x)
        if self.mixture is not None:
            return log_p + self.mixture.log_prob(h)
        states = 2 if self.latent == "bernoulli" else self.num_categories
        return log_p - self.latent_dim * math.log(states)

    def decode(self, h):
        return 1 / (1 + torch.exp(-self.x_logits(h)))


class ProposalModel(BaseProposalModel):
    def build_net(self):
        if self.hidden is None:
            return conv_encoder(self.h_features)
        return mlp([self.x_features, *self.hidden, self.h_features], self.activation)

    def proposal(self, x):
        return Latent(self.h_logits(x), self.latent == "bernoulli")

    def log_conditional_prob(self, h, x):
        return Latent(self.h_logits(x), self.latent == "bernoulli").log_prob(h)

    def sample_latent(self, x, num_samples=1):
        q = self.proposal(x)
        return torch.stack([q.sample() for _ in range(num_samples)])

    def encode(self, x):
        if self.latent == "bernoulli":
            return torch.sigmoid(self.h_logits(x)).round()
        return self.h_logits(x).softmax(dim=-1).max(dim=-1).indices


class MixturePrior(BaseMixturePrior):
    """Every entry by every component, [..., M, K]."""

    def log_prob(self, h):
        components = Latent(self.component_logits, self.latent == "bernoulli")
        h = h.unsqueeze(-2).expand(*h.shape[:-1], len(self.mixture_logits), -1)
        log_p = components.log_prob(h)  # (..., M)
        normaliser = self.mixture_logits.logsumexp(dim=0)
        return (self.mixture_logits + log_p).logsumexp(dim=-1) - normaliser

    @torch.no_grad()
    def sample(self, sample_shape=()):
        pi = self.mixture_logits.softmax(dim=0)
        m = torch.multinomial(pi, math.prod(sample_shape), replacement=True)
        h = Latent(self.component_logits[m], self.latent == "bernoulli").sample()
        return h.reshape(*sample_shape, self.latent_dim)
