"""JSA on points in the plane, with so few latent states that everything is exact."""

import torch

from data_utils import JsaDataset, gaussian2d
from kit.assignment import CODE_KINDS
from kit.tasks.jsa import JSATask

GRID, CHAIN_STEPS = 120, 2000


class ToyTask(JSATask):
    """`--dataset gaussian2d`: `diagnostics` and the picture enumerate all states."""

    x_shape = (2,)
    has_images = False
    threads = 1  # tensors this small lose time when threads share them

    @staticmethod
    def load_data(settings, run):
        return JsaDataset(*gaussian2d(2000, seed=0)), JsaDataset(*gaussian2d(500, seed=1))

    def all_states(self) -> torch.Tensor:
        """Every value of h, [S, K]: S = 2^K bits or C^D categories."""
        kind = CODE_KINDS[self.joint.latent]
        values = torch.arange(kind.values or self.joint.num_categories)
        grid = torch.cartesian_prod(*[values] * self.joint.latent_dim)
        grid = grid.reshape(-1, self.joint.latent_dim)
        return grid.to(self.joint.device, getattr(torch, kind.in_model))

    def exact(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Enumerate: log p(x) [B], log p(h|x) [S, B] and log q(h|x) [S, B], in nats."""
        h = self.all_states().unsqueeze(1).expand(-1, len(x), -1)  # (S, B, K)
        log_joint = self.joint.log_joint_prob(x, h)  # (S, B)
        log_p_x = torch.logsumexp(log_joint, dim=0)  # (B,)
        return log_p_x, log_joint - log_p_x, self.proposal.log_conditional_prob(h, x)

    def diagnostics(self, x):
        """Exact log p(x), KL(p(h|x) || q(h|x)) and entropy of q(h|x), in nats."""
        log_p_x, log_posterior, log_q = self.exact(x)
        kl = (log_posterior.exp() * (log_posterior - log_q)).sum(dim=0)
        entropy = -(log_q.exp() * log_q).sum(dim=0)
        return {"log_p_x": log_p_x.mean(), "kl": kl.mean(), "entropy_q": entropy.mean()}

    def decode(self, code, labels):
        return self.joint.decode(code)

    def draw(self, dataset, folder, device):
        """toy.png: data, learned density, and posteriors of four points by sum and by chain."""
        from kit import pictures  # here, because matplotlib takes a while to load

        x = dataset.images.to(device)
        ticks = torch.linspace(0, 1, GRID, device=device)
        grid = torch.cartesian_prod(ticks, ticks)  # (GRID^2, 2), first coordinate slowest
        density = self.exact(grid)[0].exp().reshape(GRID, GRID)
        # Two points of the data and two between its clusters, where the posterior is shared.
        points = torch.stack([x[0], x[1], (x[0] + x[1]) / 2, x.mean(dim=0)])
        posterior = self.exact(points)[1].exp().T  # (4, S)
        with self.sampler.unrecorded():
            self.sampler.sample(points, num_steps=CHAIN_STEPS)
            rows = self.sampler.rows  # (T, 4)
            visited = self.sampler.states[rows, torch.arange(4, device=device)]  # (T, 4, K)
        matches = (visited.unsqueeze(2) == self.all_states()).all(dim=-1)  # (T, 4, S)
        visits = matches.float().mean(dim=0)  # (4, S)
        path = folder / "toy.png"
        return [pictures.save_toy(path, x, density, points, posterior, visits, CHAIN_STEPS)]
