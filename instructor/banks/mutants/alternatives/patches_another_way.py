"""Part 5 by unfolding, padding and loops; components swept backwards; q scored one by one."""

import math

import torch
import torch.nn.functional as F

from model import BasePatchJoint, BasePatchProposal


def render(choices, prototypes, size=28, overwrite=False):
    width = prototypes.shape[-1]
    margin = width // 2
    flat = choices.reshape(-1, choices.shape[-1])
    if not overwrite:
        planes = torch.zeros(len(flat), len(prototypes) * size * size).to(prototypes)
        planes = planes.scatter_add(1, flat, torch.ones_like(flat, dtype=prototypes.dtype))
        planes = planes.reshape(-1, len(prototypes), size, size)
        image = F.conv_transpose2d(planes, prototypes.unsqueeze(1), padding=margin)
        return image.reshape(*choices.shape[:-1], 1, size, size)
    images = []
    for row in flat.tolist():
        canvas = torch.zeros(size + 2 * margin, size + 2 * margin)
        for choice in row:
            k, place = divmod(choice, size * size)
            i, j = divmod(place, size)
            canvas[i : i + width, j : j + width] = prototypes[k]
        images.append(canvas[margin : margin + size, margin : margin + size])
    return torch.stack(images).reshape(*choices.shape[:-1], 1, size, size)


def patch_log_scores(residual, prototypes, beta):
    count, _, size, _ = residual.shape
    width = prototypes.shape[-1]
    patches = F.unfold(residual, width, padding=width // 2)  # (N, R*R, S*S)
    inside = F.unfold(torch.ones(1, 1, size, size), width, padding=width // 2)
    flat = prototypes.flatten(1)
    score = beta * (2 * flat @ patches - flat**2 @ inside).reshape(count, -1)
    return score - score.logsumexp(dim=1, keepdim=True)


def gibbs_sweep(x, choices, prototypes, beta, generator=None):
    state = choices.clone()
    for h in reversed(range(state.shape[1])):
        others = torch.cat([state[:, :h], state[:, h + 1 :]], dim=1)
        residual = x - render(others, prototypes, x.shape[-1])
        log_p = patch_log_scores(residual, prototypes, beta)
        state[:, h] = torch.multinomial(log_p.exp(), 1, generator=generator)[:, 0]
    return state


class PatchJoint(BasePatchJoint):
    def decode(self, h):
        return render(h, self.prototypes, self.size)

    def log_joint_prob(self, x, h):
        squares = ((x - self.decode(h)) ** 2).flatten(-3).sum(dim=-1)
        constant = x[0].numel() / 2 * torch.log(self.beta / math.pi)
        return constant - self.beta * squares - h.shape[-1] * math.log(self.num_categories)


class PatchProposal(BasePatchProposal):
    def conditional(self, x, before):
        if before.shape[1] > 0:
            x = x - render(before, self.prototypes(), x.shape[-1])
        return torch.distributions.Categorical(logits=self.choice_log_probs(x))

    def sample_latent(self, x, num_samples=1):
        draws = []
        for _ in range(num_samples):
            h = torch.empty(len(x), 0, dtype=torch.int64)
            for _ in range(self.latent_dim):
                h = torch.cat([h, self.conditional(x, h).sample().unsqueeze(1)], dim=1)
            draws.append(h)
        return torch.stack(draws)

    def log_conditional_prob(self, h, x):
        if h.ndim == 3:
            return torch.stack([self.log_conditional_prob(one, x) for one in h])
        terms = [self.conditional(x, h[:, :n]).log_prob(h[:, n]) for n in range(h.shape[1])]
        return torch.stack(terms).sum(dim=0)
