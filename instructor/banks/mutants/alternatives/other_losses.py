"""`vae_loss` from torch.distributions and means of sums; `jsa_loss` without detach."""

import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence


def vae_loss(recon_x, x, mu, log_var, var=0.5, likelihood="gaussian"):
    kl = kl_divergence(Normal(mu, torch.exp(log_var / 2)), Normal(0.0, 1.0)).sum(dim=1)  # (B,)
    if likelihood == "gaussian":
        error = F.mse_loss(recon_x, x, reduction="none").flatten(1).sum(dim=1) / (2 * var)  # (B,)
    else:
        p = recon_x.clamp(1e-7, 1 - 1e-7)
        error = -(x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(dim=1)  # (B,)
    return torch.mean(error + kl)


def jsa_loss(joint, proposal, x, h):
    log_p, log_q = joint.log_joint_prob(x, h), proposal.log_conditional_prob(h, x)
    return -log_p.sum() / len(x), torch.neg(log_q).mean()
