"""Everything computed in double precision; the network's own weights stay float32."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

import submission  # the reference, above in the same module
from model import BaseMixturePrior


class VAE(nn.Module):
    def __init__(self, latent_dim=20, hidden=None):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU())
        self.encoder.append(nn.Linear(200, 2 * latent_dim))
        self.decoder = nn.Sequential(nn.Linear(latent_dim, 200), nn.ReLU(), nn.Linear(200, 784))
        self.double()

    def decode(self, z, labels=None):
        return torch.sigmoid(self.decoder(z.double())).float().reshape(-1, 1, 28, 28)

    def forward(self, x, labels=None):
        mu, log_var = self.encoder(x.double()).chunk(2, dim=1)
        z = mu + torch.exp(log_var / 2) * torch.randn_like(mu)
        return self.decode(z), mu.float(), log_var.float()


def vae_loss(recon_x, x, mu, log_var, var=0.5, likelihood="gaussian"):
    recon_x, x, mu, log_var = (t.double() for t in (recon_x, x, mu, log_var))
    if likelihood == "gaussian":
        error = (recon_x - x).square().sum() / (2 * var)
    else:
        error = -(torch.xlogy(x, recon_x + 1e-12) + torch.xlogy(1 - x, 1 - recon_x + 1e-12)).sum()
    return (error + 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum()) / x.shape[0]


def log_importance_weight(joint, proposal, x, h):
    return joint.log_joint_prob(x, h).double() - proposal.log_conditional_prob(h, x).double()


def mis_chain(log_w, u):
    log_w, u = log_w.double(), u.double()
    row = torch.zeros(log_w.shape[1], dtype=torch.int64)
    rows = []
    for t in range(u.shape[0]):
        now = log_w.gather(0, row[None])[0]
        row = torch.where(u[t].log() < log_w[t + 1] - now, t + 1, row)
        rows.append(row)
    return torch.stack(rows) if rows else torch.zeros(u.shape, dtype=torch.int64)


class JointModel(submission.JointModel):
    def prior(self):
        prior = super().prior() if self.mixture is None else self.mixture
        return SimpleNamespace(log_prob=lambda h: prior.log_prob(h).double(), sample=prior.sample)

    def log_joint_prob(self, x, h):
        terms = [self.prior().log_prob(h), self.likelihood(h).log_prob(x.double())]
        return sum(terms)


class MixturePrior(BaseMixturePrior):
    def log_prob(self, h):
        log_pi, logits = self.mixture_logits.double(), self.component_logits.double()
        if self.latent == "bernoulli":
            targets = h.double().unsqueeze(-2).expand(*h.shape[:-1], *logits.shape)
            losses = F.binary_cross_entropy_with_logits(
                logits.expand_as(targets), targets, reduction="none"
            )
            log_p = -losses.sum(dim=-1)
        else:
            one_hot = F.one_hot(h, self.num_categories).double()
            log_p = torch.einsum("...dc,mdc->...m", one_hot, logits.log_softmax(dim=-1))
        return torch.logsumexp(log_p + log_pi.log_softmax(dim=0), dim=-1)

    @torch.no_grad()
    def sample(self, sample_shape=()):
        def draw(logits):  # the inverse of the distribution function
            below = logits.double().softmax(dim=-1).cumsum(dim=-1)[..., :-1]
            return (torch.rand(*below.shape[:-1], 1, dtype=torch.float64) > below).sum(dim=-1)

        logits = self.component_logits[draw(self.mixture_logits.expand(*sample_shape, -1))]
        if self.latent == "bernoulli":
            return (torch.rand(logits.shape).double() < logits.double().sigmoid()).float()
        return draw(logits)
