"""A GenModel that trains and draws by methods of its own: `loss` and `generate`."""

import torch
import torch.nn.functional as F
from torch import nn


class GenModel(nn.Module):
    def __init__(self, latent_dim=20):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 300), nn.LeakyReLU(), nn.Linear(300, 2 * latent_dim)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim + 10, 300), nn.LeakyReLU(), nn.Linear(300, 784)
        )

    def logits(self, z, labels):
        return self.decoder(torch.cat([z, F.one_hot(labels, 10).float()], dim=1))

    def decode(self, z, labels):
        return torch.sigmoid(self.logits(z, labels)).reshape(-1, 1, 28, 28)

    def forward(self, x, labels):
        mu, log_var = self.encoder(x).chunk(2, dim=1)
        z = mu + torch.exp(log_var / 2) * torch.randn_like(mu)
        return self.decode(z, labels), mu, log_var

    def loss(self, x, labels):
        """Cross entropy of the pixels and the KL term, a mean over all pixels of the batch."""
        mu, log_var = self.encoder(x).chunk(2, dim=1)
        z = mu + torch.exp(log_var / 2) * torch.randn_like(mu)
        pixels = F.binary_cross_entropy_with_logits(self.logits(z, labels), x.flatten(1))
        kl = (mu**2 + log_var.exp() - log_var - 1).sum(dim=1).mean() / 2
        return pixels + kl / 784

    def generate(self, z, labels):
        """Less of z than the prior has: cleaner digits."""
        return self.decode(0.7 * z, labels)
