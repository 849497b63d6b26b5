"""Pieces of student code, run on given inputs: arrays in, arrays out, never a verdict.

The only test file that touches `submission`. A probe is a function `(submission, **inputs)` that
returns a dict of arrays; `run(name, **inputs)` calls one. The tests judge what comes back.
"""

import importlib

import numpy as np
import torch
from torch import nn


def run(name: str, **inputs) -> dict[str, np.ndarray]:
    """Call the probe `name` on the student's submission, with arrays turned into tensors."""
    submission = importlib.import_module("submission")
    tensors = {
        key: torch.as_tensor(value) if isinstance(value, np.ndarray) else value
        for key, value in inputs.items()
    }
    outputs = globals()[f"probe_{name}"](submission, **tensors)
    return {key: value.detach().cpu().numpy() for key, value in outputs.items()}


# ----------------------------------------------------------------------------------------------
# Parts 2 and 3


def _network(submission, task: str, latent_dim: int, seed: int):
    torch.manual_seed(seed)
    network = submission.VAE if task == "VAEwolabel" else submission.GenModel
    return network(latent_dim=latent_dim).eval()


def probe_forward(submission, task, latent_dim, x, labels, seed=0):
    """`forward(x, labels)` of a freshly made network, twice."""
    network = _network(submission, task, latent_dim, seed)
    first, second = network(x, labels), network(x, labels)
    names = ("recon_x", "mu", "log_var")
    outputs = dict(zip(names, first, strict=True))
    return outputs | {f"{n}_again": v for n, v in zip(names, second, strict=True)}


def probe_decode(submission, task, latent_dim, z, labels, seed=0):
    """`decode(z, labels)` of a freshly made network, twice."""
    network = _network(submission, task, latent_dim, seed)
    return {"images": network.decode(z, labels), "again": network.decode(z, labels)}


def probe_vae_loss(submission, recon_x, x, mu, log_var, var, likelihood):
    return {"loss": submission.vae_loss(recon_x, x, mu, log_var, var=var, likelihood=likelihood)}


# ----------------------------------------------------------------------------------------------
# Part 4: tiny models whose networks are given, so that any architecture can be checked


def _linear(weight, bias):
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return nn.Sequential(nn.Flatten(), layer)


def _models(submission, model: dict):
    """The joint model and the proposal of a description (see `tiny_model` in conftest.py)."""
    arguments = {name: model[name] for name in ("latent", "num_categories", "likelihood", "sigma")}
    arguments["x_shape"] = tuple(model["x_shape"])
    p_net, q_net = (_linear(*map(torch.as_tensor, model[net])) for net in ("p_net", "q_net"))
    joint = submission.JointModel(model["latent_dim"], net=p_net, **arguments)
    proposal = submission.ProposalModel(model["latent_dim"], net=q_net, **arguments)
    return joint, proposal


def probe_built_nets(submission, latent_dim, latent, num_categories, hidden, x):
    """Output sizes of the networks that `build_net` makes."""
    arguments = {"latent": latent, "num_categories": num_categories, "hidden": hidden}
    joint = submission.JointModel(latent_dim, **arguments)
    proposal = submission.ProposalModel(latent_dim, **arguments)
    h = torch.zeros(len(x), joint.h_features)
    return {"p_net": joint.net(h), "q_net": proposal.net(x)}


def probe_log_probs(submission, model, x, h):
    """All log-probabilities at h [S, B, K] and x [B, ...], and those of single draws h[0]."""
    joint, proposal = _models(submission, model)
    return {
        "log_prior": joint.prior().log_prob(h),
        "log_likelihood": joint.likelihood(h).log_prob(x),
        "log_joint": joint.log_joint_prob(x, h),
        "log_joint_one": joint.log_joint_prob(x, h[0]),
        "log_q": proposal.log_conditional_prob(h, x),
        "log_q_one": proposal.log_conditional_prob(h[0], x),
        "log_w": submission.log_importance_weight(joint, proposal, x, h),
        "mean": joint.decode(h[0]),
        "code": proposal.encode(x),
    }


def probe_sample_latent(submission, model, x, num_samples, seed):
    _, proposal = _models(submission, model)
    torch.manual_seed(seed)
    return {"h": proposal.sample_latent(x, num_samples)}


def probe_mis_chain(submission, log_w, u):
    return {"rows": submission.mis_chain(log_w, u)}


def probe_sampler(submission, model, x, seed, num_steps, by_steps=False, h_init=None, idx=None):
    """MISampler run on examples x [B, ...] from h_init or, with idx, from a cache of len(x) + 5.

    by_steps: `num_steps` calls of `step` instead of one call of `sample`.
    """
    joint, proposal = _models(submission, model)
    sampler = submission.MISampler(joint, proposal, num_examples=len(x) + 5)
    torch.manual_seed(seed)
    if idx is not None and h_init is not None:
        sampler.update_cache(idx, h_init)
        h_init = None
    before = sampler.cache.clone()
    h = h_init
    if by_steps:
        for _ in range(num_steps):
            h = sampler.step(x, h, idx)
    else:
        h = sampler.sample(x, h_init, idx, num_steps)
    return {"h": h, "cache_before": before, "cache": sampler.cache}


def probe_jsa_loss(submission, model, x, h):
    """The two losses and the gradients of all four parameter tensors under their sum."""
    joint, proposal = _models(submission, model)
    loss_joint, loss_proposal = submission.jsa_loss(joint, proposal, x, h)
    (loss_joint + loss_proposal).backward()
    gradients = {}
    for name, network in (("p", joint.net), ("q", proposal.net)):
        for parameter, value in network.named_parameters():
            gradients[f"{name}.{parameter}"] = value.grad
    return {"loss_joint": loss_joint, "loss_proposal": loss_proposal, **gradients}
