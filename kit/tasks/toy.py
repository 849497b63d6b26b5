"""JSA on points in the plane, with so few latent states that everything is exact."""

import math

import torch
import torch.nn.functional as F

from data_utils import JsaDataset, gaussian2d
from kit.assignment import CODE_KINDS
from kit.tasks.base import annealed
from kit.tasks.jsa import JSATask

GRID, CHAIN_STEPS = 120, 2000
EM_STARTS, EM_STEPS, EM_STATES = 40, 60, 64
SMALLEST_SIGMA = 0.04  # below, single points count, of which EM would need many more states


def best_log_likelihood(
    x: torch.Tensor, sigma: float, num_states: int, weights_learn: bool, starts: int = EM_STARTS
) -> float:
    """The largest mean log p(x), in nats, that EM finds for a model with so many states.

    Fits a mixture of round Gaussians of standard deviation sigma to the points, with free means and
    free or equal weights, and takes the best of some random starts. The standard deviation falls
    from that of the points, so that means spread out before they settle. EM finds local optima, so
    the true ceiling may lie a little higher. Where sigma is at least SMALLEST_SIGMA, more than
    EM_STATES states gain next to nothing, and equal weights come to the same as free ones.

    Args:
        x: [N, 2]; sigma: of p(x|h).
        num_states: S; weights_learn: whether p(h) may be any, or must be uniform.
        starts: R, all fitted at once.
    """
    weights_learn = weights_learn or num_states > EM_STATES
    num_states = min(num_states, EM_STATES)
    x = x.detach().cpu().double()
    spread = max(sigma, float(x.std()))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(starts, num_states, 2, generator=generator, dtype=x.dtype)
    means = x.mean(dim=0) + 0.01 * noise  # (R, S, 2)
    log_weight = torch.full((starts, 1, num_states), -math.log(num_states), dtype=x.dtype)

    def log_joint(width):  # log p(x, h), (R, N, S)
        square = torch.cdist(x, means).square()
        return log_weight - square / (2 * width**2) - math.log(2 * math.pi * width**2)

    for step in range(1, EM_STEPS + 1):
        posterior = log_joint(annealed(spread, sigma, step, EM_STEPS)).softmax(dim=-1)
        count = posterior.sum(dim=1).clamp(min=1e-30)  # (R, S)
        means = (posterior.mT @ x) / count.unsqueeze(-1)
        if weights_learn:
            log_weight = (count / len(x)).log().unsqueeze(1)
    return float(log_joint(sigma).logsumexp(dim=-1).mean(dim=1).max())


class ToyTask(JSATask):
    """`--dataset gaussian2d`: `diagnostics` and the picture enumerate all states."""

    x_shape = (2,)
    has_images = False
    states_repeat = True
    threads = 1  # tensors this small lose time when threads share them
    best: tuple[torch.Tensor, float] | None = None  # points, and what `ceiling` found

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

    def state_numbers(self, h: torch.Tensor) -> torch.Tensor:
        """The places of states h [..., K] among `all_states`, int64 [...]."""
        values = CODE_KINDS[self.joint.latent].values or self.joint.num_categories
        places = torch.arange(self.joint.latent_dim - 1, -1, -1, device=h.device)
        return (h.long() * values**places).sum(dim=-1)

    def exact(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Enumerate: log p(x) [B], log p(h|x) [S, B] and log q(h|x) [S, B], in nats."""
        h = self.all_states().unsqueeze(1).expand(-1, len(x), -1)  # (S, B, K)
        log_joint = self.joint.log_joint_prob(x, h)  # (S, B)
        log_p_x = torch.logsumexp(log_joint, dim=0)  # (B,)
        return log_p_x, log_joint - log_p_x, self.proposal.log_conditional_prob(h, x)

    def ceiling(self, x: torch.Tensor) -> float:
        """The best that EM finds for these points, states and last sigma, in nats."""
        if self.best is None or not torch.equal(self.best[0], x):
            learn = self.settings.prior == "mixture"
            num_states = len(self.all_states())
            found = best_log_likelihood(x, self.settings.sigma, num_states, learn)
            self.best = x, found
        return self.best[1]

    def diagnostics(self, x):
        """Exact log p(x) and its ceiling, KL(p(h|x) || q(h|x)) and entropy of q(h|x), in nats."""
        log_p_x, log_posterior, log_q = self.exact(x)
        kl = (log_posterior.exp() * (log_posterior - log_q)).sum(dim=0)
        entropy = -(log_q.exp() * log_q).sum(dim=0)
        values = {"log_p_x": log_p_x.mean()}
        if self.settings.likelihood == "gaussian" and self.settings.sigma >= SMALLEST_SIGMA:
            values["log_p_x_ceiling"] = x.new_tensor(self.ceiling(x))
        return values | {"kl": kl.mean(), "entropy_q": entropy.mean()}

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
        matches = F.one_hot(self.state_numbers(visited), posterior.shape[1])  # (T, 4, S)
        visits = matches.float().mean(dim=0)  # (4, S)
        exact = self.diagnostics(x)
        title = f"learned density\nlog p(x) {exact['log_p_x']:.3f}"
        if "log_p_x_ceiling" in exact:
            title += f", EM finds {exact['log_p_x_ceiling']:.3f}"
        path = folder / "toy.png"
        return [pictures.save_toy(path, x, density, title, points, posterior, visits, CHAIN_STEPS)]
