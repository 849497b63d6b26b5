"""`encode(x, labels)` on flat input, one decoder for each digit, the mean decoded in eval mode."""

import torch
from torch import nn


class VAE(nn.Module):
    def __init__(self, latent_dim=20, hidden=(256,)):
        super().__init__()
        self.d = latent_dim
        self.f = nn.Sequential(nn.Linear(794, 256), nn.Tanh(), nn.Linear(256, 2 * latent_dim))
        self.g = nn.Sequential(nn.Linear(latent_dim + 10, 256), nn.Tanh(), nn.Linear(256, 784))

    def encode(self, x, labels):
        return self.f(torch.cat([x, torch.eye(10)[labels]], dim=1)).split(self.d, dim=1)

    def decode(self, z, labels):
        return torch.sigmoid(self.g(torch.cat([z, torch.eye(10)[labels]], dim=1)))

    def forward(self, x, labels):
        mu, log_var = self.encode(x.view(len(x), 784), labels)
        return (
            self.decode(torch.distributions.Normal(mu, (log_var / 2).exp()).rsample(), labels),
            mu,
            log_var,
        )


class GenModel(nn.Module):
    def __init__(self, latent_dim=20):
        super().__init__()
        self.q = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU())
        self.mu, self.log_var = nn.Linear(256, latent_dim), nn.Linear(256, latent_dim)
        self.hidden = nn.Linear(latent_dim, 256)
        self.label = nn.Parameter(torch.randn(10, 256))
        self.out = nn.Linear(256, 784)

    def decode(self, z, labels):
        return self.out(torch.relu(self.hidden(z) + self.label[labels])).sigmoid().view(-1, 28, 28)

    def forward(self, x, labels):
        features = self.q(x)
        mu, log_var = self.mu(features), self.log_var(features)
        z = mu + (log_var / 2).exp() * torch.randn_like(mu) if self.training else mu
        return self.decode(z, labels), mu, log_var
