"""VAEwolabel and Genwithlabel: a network with `forward(x, labels)` and `decode(z, labels)`."""

import torch
import torch.nn.functional as F
from torch.distributions import Normal

from kit.settings import GenSettings, VAESettings
from kit.tasks.base import Task, as_images


class GenTask(Task):
    """Genwithlabel: the network knows the label.

    Args:
        model: the student's GenModel.
        vae_loss: the student's loss, used unless the model has a method `loss(x, labels)`.
        settings: latent_dim, var, likelihood, lr.
    """

    def __init__(self, model, vae_loss, settings: GenSettings):
        super().__init__(model, settings)
        self.vae_loss = vae_loss

    @classmethod
    def make(cls, submission, settings, num_examples, device):
        network = submission.GenModel(latent_dim=settings.latent_dim)
        return cls(network.to(device), submission.vae_loss, settings)

    def param_groups(self):
        return [{"params": self.model.parameters(), "lr": self.settings.lr}]

    def seen(self, labels):
        """The labels as the network sees them."""
        return labels

    def loss(self, x, labels, index):
        labels = self.seen(labels)
        if hasattr(self.model, "loss"):
            return self.model.loss(x, labels), {}
        recon_x, mu, log_var = self.model(x, labels)
        recon_x = as_images(recon_x, "forward")
        arguments = {"var": self.settings.var, "likelihood": self.settings.likelihood}
        loss = self.vae_loss(recon_x, x, mu, log_var, **arguments)
        if index is None:
            return loss, {}
        with torch.no_grad():  # of a perfect reconstruction only the KL is left
            kl = self.vae_loss(x, x, mu, log_var, likelihood="gaussian")
            return loss, {"reconstruction": loss - kl, "kl": kl}

    def encode(self, x, labels):
        _, mu, _ = self.model(x, self.seen(labels))
        return mu

    def decode(self, code, labels):
        return as_images(self.model.decode(code, self.seen(labels)), "decode")

    def generate(self, labels):
        z = torch.randn(len(labels), self.settings.latent_dim, device=labels.device)
        if hasattr(self.model, "generate"):
            return as_images(self.model.generate(z, self.seen(labels)), "generate")
        return self.decode(z, labels)

    def log_weights(self, x, labels, num_samples):
        labels = self.seen(labels)
        _, mu, log_var = self.model(x, labels)
        q, prior = Normal(mu, torch.exp(0.5 * log_var)), Normal(0.0, 1.0)
        z = q.sample((num_samples,))  # (S, B, K)
        images = self.model.decode(z.flatten(0, 1), labels.repeat(num_samples))
        mean = as_images(images, "decode").reshape(num_samples, *x.shape)
        if self.settings.likelihood == "bernoulli":
            target = x.expand_as(mean)
            log_p_x = -F.binary_cross_entropy(mean, target, reduction="none").flatten(2).sum(dim=2)
        else:
            likelihood = Normal(mean, self.settings.var**0.5)
            log_p_x = likelihood.log_prob(x).flatten(2).sum(dim=2)
        return log_p_x + (prior.log_prob(z) - q.log_prob(z)).sum(dim=2)


class VAETask(GenTask):
    """VAEwolabel: as `GenTask`, but the network sees labels that are all 0.

    Args:
        model: the student's VAE.
        vae_loss: as in `GenTask`.
        settings: those of GenTask, and hidden.
    """

    @classmethod
    def make(cls, submission, settings: VAESettings, num_examples, device):
        arguments = {"latent_dim": settings.latent_dim}
        if settings.hidden is not None:
            arguments["hidden"] = list(settings.hidden)
        return cls(submission.VAE(**arguments).to(device), submission.vae_loss, settings)

    def seen(self, labels):
        return torch.zeros_like(labels)
