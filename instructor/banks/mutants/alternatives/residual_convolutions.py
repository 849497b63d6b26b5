"""Deeper networks with BatchNorm2d, SiLU and skip connections, and upsampling."""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + F.silu(self.norm(self.conv(x)))


def down(channels: int, n_out: int) -> nn.Sequential:
    first = nn.Conv2d(channels, 16, 4, stride=2, padding=1)
    second = nn.Conv2d(16, 32, 4, stride=2, padding=1)
    last = nn.Linear(32 * 49, n_out)
    return nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), Block(32), nn.Flatten(), last)


def up(n_in: int) -> nn.Sequential:
    first = nn.Conv2d(32, 16, 3, padding=1)
    return nn.Sequential(
        nn.Linear(n_in, 32 * 49),
        nn.Unflatten(1, (32, 7, 7)),
        Block(32),
        nn.Upsample(scale_factor=2),
        first,
        nn.SiLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(16, 1, 3, padding=1),
        nn.Sigmoid(),
    )


class VAE(nn.Module):
    def __init__(self, latent_dim=20, **_):
        super().__init__()
        self.mean_net, self.spread_net = down(1, latent_dim), down(1, latent_dim)
        self.generator = up(latent_dim)

    def decode(self, z, labels=None):
        return self.generator(z).squeeze(1)  # (B, 28, 28)

    def forward(self, x, labels=None):
        mu, log_var = self.mean_net(x), self.spread_net(x).clamp(-8, 8)
        return (
            self.decode(
                torch.normal(mu, torch.exp(log_var / 2))
                if not self.training
                else mu + torch.exp(log_var / 2) * torch.randn_like(mu)
            ),
            mu,
            log_var,
        )


class GenModel(nn.Module):
    """The label is an embedding that the decoder sees; the encoder does without."""

    def __init__(self, latent_dim=20):
        super().__init__()
        self.encoder, self.generator = down(1, 2 * latent_dim), up(latent_dim + 16)
        self.embedding = nn.Embedding(10, 16)

    def decode(self, z, labels):
        return self.generator(torch.cat([z, self.embedding(labels)], dim=1))

    def forward(self, x, labels):
        mu, log_var = self.encoder(x).chunk(2, dim=1)
        z = mu + torch.exp(log_var / 2) * torch.randn_like(mu)
        return self.decode(z, labels), mu, log_var
