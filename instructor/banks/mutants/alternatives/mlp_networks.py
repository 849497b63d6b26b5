"""Fully connected networks with BatchNorm and dropout; pictures come back flat."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

import submission  # the reference, above in the same module


def dense(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_in, 300), nn.BatchNorm1d(300), nn.ReLU(), nn.Linear(300, n_out)
    )


class VAE(nn.Module):
    def __init__(self, latent_dim=20, hidden=None):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 300), nn.BatchNorm1d(300), nn.ReLU()
        )
        self.drop = nn.Dropout(0.05)
        self.to_mu, self.to_log_var = nn.Linear(300, latent_dim), nn.Linear(300, latent_dim)
        self.to_x = dense(latent_dim, 784)

    def encode(self, x):
        features = self.drop(self.trunk(x))
        return self.to_mu(features), self.to_log_var(features)

    def decode(self, z, labels=None):
        return self.to_x(z).sigmoid()

    def forward(self, x, labels=None):
        mu, log_var = self.encode(x)
        z = mu + torch.randn(mu.shape, device=mu.device) * log_var.div(2).exp()
        return self.decode(z), mu, log_var


class GenModel(nn.Module):
    def __init__(self, latent_dim=20):
        super().__init__()
        self.q, self.p = dense(784 + 10, 2 * latent_dim), dense(latent_dim + 10, 784)

    def decode(self, z, labels):
        return self.p(torch.cat([F.one_hot(labels, 10).float(), z], dim=1)).sigmoid()

    def forward(self, x, labels):
        inputs = torch.cat([x.flatten(1), F.one_hot(labels, 10).float()], dim=1)
        mu, log_var = self.q(inputs).tensor_split(2, dim=1)
        z = mu + torch.randn_like(mu) * log_var.div(2).exp()
        return self.decode(z, labels), mu, log_var


class JointModel(submission.JointModel):
    def build_net(self):
        widths = [self.h_features, *(self.hidden or [300])[::-1], self.x_features]
        if self.hidden == []:
            widths = [self.h_features, self.x_features]
        layers = []
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.GELU()]
        return nn.Sequential(*layers[:-1])
