"""Bits by torch.distributions, as the assignment's hint names them; its mixture too."""

import torch
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily, Normal

from model import (
    BaseJointModel,
    BaseMixturePrior,
    BaseProposalModel,
    conv_decoder,
    conv_encoder,
    mlp,
)


def independent(logits, latent):
    kind = Bernoulli if latent == "bernoulli" else Categorical
    return Independent(kind(logits=logits, validate_args=False), 1)


class JointModel(BaseJointModel):
    def build_net(self):
        if self.hidden is None:
            return conv_decoder(self.h_features, self.activation)
        return mlp([self.h_features, *reversed(self.hidden), self.x_features], self.activation)

    def prior(self):
        if self.mixture:
            return self.mixture
        categories = [self.num_categories] if self.latent == "categorical" else []
        logits = torch.zeros(self.latent_dim, *categories, device=self.device)
        return independent(logits, self.latent)

    def likelihood(self, h):
        logits = self.x_logits(h)
        if self.likelihood_kind == "gaussian":
            pixels = Normal(torch.sigmoid(logits), self.sigma, validate_args=False)
        else:
            pixels = Bernoulli(logits=logits, validate_args=False)
        return Independent(pixels, len(self.x_shape))

    def log_joint_prob(self, x, h):
        return self.prior().log_prob(h) + self.likelihood(h).log_prob(x)

    def decode(self, h):
        return torch.sigmoid(self.x_logits(h))


class ProposalModel(BaseProposalModel):
    def build_net(self):
        if self.hidden is None:
            return conv_encoder(self.h_features, self.activation)
        return mlp([self.x_features, *self.hidden, self.h_features], self.activation)

    def proposal(self, x):
        return independent(self.h_logits(x), self.latent)

    def log_conditional_prob(self, h, x):
        return self.proposal(x).log_prob(h)

    def sample_latent(self, x, num_samples=1):
        return self.proposal(x).sample((num_samples,))

    def encode(self, x):
        logits = self.h_logits(x)
        return (logits > 0).to(x.dtype) if self.latent == "bernoulli" else logits.argmax(dim=-1)


class MixturePrior(BaseMixturePrior):
    def distribution(self):
        each = independent(self.component_logits, self.latent)
        return MixtureSameFamily(Categorical(logits=self.mixture_logits), each)

    def log_prob(self, h):
        return self.distribution().log_prob(h)

    @torch.no_grad()
    def sample(self, sample_shape=()):
        return self.distribution().sample(sample_shape)
