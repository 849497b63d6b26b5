"""Pieces of student code, run on given inputs: arrays in, arrays out, never a verdict.

The only test file that touches `submission`. A probe is a function `(submission, **inputs)` that
returns a dict of tensors; `attempt(name, inputs)` calls one. The tests judge what comes back.
"""

import importlib
import re
import sys
import traceback

import numpy as np
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from model import BaseProposalModel, VAETask

Outputs = dict[str, np.ndarray]


def attempt(name: str, inputs: dict) -> tuple[Outputs | None, str]:
    """Run one probe on the importable `submission`.

    Returns:
        The outputs and "", or None and one line that says what went wrong.
    """
    try:
        submission = importlib.import_module("submission")
        outputs = PROBES[name](submission, **_tensors(inputs))
        return {key: _array(key, value) for key, value in outputs.items()}, ""
    except NotImplementedError as error:
        number = re.match(r"TODO [\d.]+", str(error))
        return None, f"{number.group() if number else 'a TODO'} is not implemented yet"
    except Exception as error:  # whatever student code raises is a result to report
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename.endswith("submission.py")]
        where = f" (submission.py, line {own[-1].lineno}, in {own[-1].name})" if own else ""
        return None, f"{type(error).__name__}: {error}{where}"


def _tensors(value):
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    return torch.as_tensor(value.copy()) if isinstance(value, np.ndarray) else value


def _array(name: str, value) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(value).__name__}")
    value = value.detach().cpu()
    if value.is_floating_point():
        return value.double().numpy()
    return value.to(torch.int64).numpy()


# ----------------------------------------------------------------------------------------------
# Parts 2 and 3


def _network(submission, task, latent_dim, seed):
    torch.manual_seed(seed)
    network = submission.VAE if task == "VAEwolabel" else submission.GenModel
    return network(latent_dim=latent_dim)


def _forward(network, x, labels):
    before = x.clone(), labels.clone()
    outputs = dict(zip(("recon_x", "mu", "log_var"), network(x, labels), strict=True))
    untouched = torch.equal(before[0], x) and torch.equal(before[1], labels)
    return outputs | {"inputs_untouched": torch.tensor(untouched)}


def probe_forward(submission, task, latent_dim, x, labels, seed):
    """`forward(x, labels)` of a freshly made network: twice in eval mode, once in train mode."""
    network = _network(submission, task, latent_dim, seed)
    outputs = {}
    for suffix, mode in (("", False), ("_again", False), ("_train", True)):
        network.train(mode)
        outputs |= {f"{k}{suffix}": v for k, v in _forward(network, x, labels).items()}
    return outputs


def probe_decode(submission, task, latent_dim, z, labels, seed):
    """`decode(z, labels)` of a freshly made network in eval mode, twice."""
    network = _network(submission, task, latent_dim, seed).eval()
    return {"images": network.decode(z, labels), "again": network.decode(z, labels)}


def probe_gradients(submission, task, latent_dim, x, labels, seed):
    """Whether a gradient from the reconstruction reaches mu, log_var and the parameters."""
    network = _network(submission, task, latent_dim, seed).train()
    recon_x, mu, log_var = network(x, labels)
    mu.retain_grad()
    log_var.retain_grad()
    (recon_x.reshape(len(x), -1) - x.reshape(len(x), -1)).pow(2).sum().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    largest = max((g.abs().max() for g in gradients), default=torch.tensor(0.0))
    names = {"mu": mu.grad, "log_var": log_var.grad}
    found = {k: torch.zeros(()) if g is None else g.abs().max() for k, g in names.items()}
    return found | {"parameters": largest}


def _train(network, x, labels, steps, batch_size, seed, var=0.1):
    """A few hundred steps of Adam on the network's own `loss`, or on a negative ELBO."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    network.train()
    for _ in range(steps):
        batch = torch.randint(len(x), (batch_size,), generator=generator)
        if hasattr(network, "loss"):
            loss = network.loss(x[batch], labels[batch])
        else:
            recon_x, mu, log_var = network(x[batch], labels[batch])
            q = Normal(mu, torch.exp(log_var) ** 0.5)
            error = (recon_x.reshape(batch_size, -1) - x[batch].reshape(batch_size, -1)) ** 2
            kl = kl_divergence(q, Normal(0.0, 1.0))
            loss = (error.sum() / (2 * var) + kl.sum()) / batch_size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()


def probe_train_vae(submission, latent_dim, x, labels, steps, seed):
    """Reconstructions before and after some training, and many draws for the first image.

    `draws` come from `forward`; `own_draws` from `decode` at draws of N(mu, diag(exp(log_var))).
    """
    network = _network(submission, "VAEwolabel", latent_dim, seed)
    with torch.no_grad():
        before = network.eval()(x, labels)[0]
    _train(network, x, labels, steps, 50, seed)
    with torch.no_grad():
        after = network(x, labels)[0]
        many = x[:1].expand(400, -1, -1, -1).contiguous()
        draws, mu, log_var = network(many, labels[:1].expand(400))
        z = Normal(mu, torch.exp(log_var) ** 0.5).sample()
        own_draws = network.decode(z, labels[:1].expand(400))
    return {"before": before, "after": after, "draws": draws, "own_draws": own_draws}


def probe_train_gen(submission, latent_dim, x, labels, steps, asked, seed):
    """Samples of a GenModel after some training, for the labels `asked` and, with the same z,
    for the next digit."""
    network = _network(submission, "Genwithlabel", latent_dim, seed)
    _train(network, x, labels, steps, 50, seed, var=0.3)
    task = VAETask(network, None, latent_dim, use_labels=True)
    with torch.no_grad():
        torch.manual_seed(seed)
        samples = task.generate(asked)
        torch.manual_seed(seed)
        others = task.generate((asked + 1) % 10)
    return {"samples": samples, "others": others}


def probe_vae_loss(submission, recon_x, x, mu, log_var, var, likelihood):
    """The loss and its gradients."""
    inputs = [t.requires_grad_() for t in (recon_x, mu, log_var)]
    loss = submission.vae_loss(recon_x, x, mu, log_var, var=var, likelihood=likelihood)
    gradients = torch.autograd.grad(loss.sum(), inputs, allow_unused=True)
    names = ("recon_x", "mu", "log_var")
    found = {
        f"d_{name}": torch.zeros_like(value) if gradient is None else gradient
        for name, value, gradient in zip(names, inputs, gradients, strict=True)
    }
    return {"loss": loss, **found}


# ----------------------------------------------------------------------------------------------
# Part 4 with given networks: the student's models, whatever their own architecture is


def _linear(weight, bias):
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return nn.Sequential(nn.Flatten(), layer)


def _arguments(model):
    names = ("latent", "num_categories", "likelihood", "sigma")
    return {name: model[name] for name in names} | {"x_shape": tuple(model["x_shape"])}


def _joint(submission, model):
    net = _linear(model["p_weight"], model["p_bias"])
    return submission.JointModel(model["latent_dim"], net=net, **_arguments(model))


def _proposal(submission, model):
    net = _linear(model["q_weight"], model["q_bias"])
    return submission.ProposalModel(model["latent_dim"], net=net, **_arguments(model))


def probe_built_nets(submission, latent_dim, latent, num_categories, hidden, x):
    """Outputs of the networks that `build_net` makes, their widths and their gradients."""
    arguments = {"latent": latent, "num_categories": num_categories, "hidden": hidden}
    outputs = {}
    for name, kind in (("p", submission.JointModel), ("q", submission.ProposalModel)):
        torch.manual_seed(0)
        module = kind(latent_dim, **arguments)
        net, features = module.net, module.h_features
        inputs = torch.rand(len(x), features) if name == "p" else x
        outputs[f"{name}_out"] = net(inputs)
        middle = (net(inputs) + net(1 - inputs)) / 2 - net(torch.full_like(inputs, 0.5))
        outputs[f"{name}_bend"] = middle.abs().max()  # 0 for a linear map
        outputs[f"{name}_out"].pow(2).sum().backward()
        gradients = [p.grad for p in net.parameters()]
        outputs[f"{name}_trained"] = torch.tensor([g is not None for g in gradients])
        widths = [m.out_features for m in net.modules() if isinstance(m, nn.Linear)]
        outputs[f"{name}_widths"] = torch.tensor(widths)
    return outputs


def probe_joint(submission, model, x, h):
    """The joint model at h [S, B, K] and x [B, ...], and at the single states h[0]."""
    joint = _joint(submission, model)
    return {
        "log_prior": joint.prior().log_prob(h),
        "log_likelihood": joint.likelihood(h).log_prob(x),
        "log_joint": joint.log_joint_prob(x, h),
        "log_joint_one": joint.log_joint_prob(x, h[0]),
        "mean": joint.decode(h[0]),
    }


def probe_prior_draws(submission, model, num_samples, seed):
    joint = _joint(submission, model)
    torch.manual_seed(seed)
    return {"h": joint.prior().sample((num_samples,))}


def probe_proposal(submission, model, x, h):
    """The proposal at h [S, B, K] and x [B, ...], at the single states h[0], and its mode."""
    proposal = _proposal(submission, model)
    return {
        "log_q": proposal.log_conditional_prob(h, x),
        "log_q_one": proposal.log_conditional_prob(h[0], x),
        "log_q_object": proposal.proposal(x).log_prob(h),
        "code": proposal.encode(x),
    }


def probe_sample_latent(submission, model, x, num_samples, seed):
    proposal = _proposal(submission, model)
    torch.manual_seed(seed)
    draws = proposal.sample_latent(x, num_samples)
    return {"h": draws, "by_default": proposal.sample_latent(x)}


# ----------------------------------------------------------------------------------------------
# Part 4 with given probabilities: tables in place of the student's models, so that a mistake in
# TODO 4.2 or 4.3 costs nothing in 4.4 to 4.6


class _Table:
    """Looks like a distribution: log-probabilities of all states for each row, [R, S]."""

    def __init__(self, owner, table, rows):
        self.owner, self.table, self.rows = owner, table, rows

    def log_prob(self, h):
        return self.table[self.rows.expand(h.shape[:-1]), self.owner.number(h)]

    def sample(self, sample_shape=()):
        probabilities = torch.softmax(self.table[self.rows].detach(), dim=-1)  # (B, S)
        numbers = torch.distributions.Categorical(probabilities).sample(sample_shape)
        return self.owner.states[numbers]


class _TableModel(BaseProposalModel):
    """Joint model and proposal given by tables [R, S]; x [B, 1] names the row of each example."""

    def __init__(self, model, table):
        kind = {name: model[name] for name in ("latent", "num_categories")}
        super().__init__(model["latent_dim"], x_shape=(1,), net=nn.Identity(), **kind)
        self.table = nn.Parameter(table.float())
        self.states = model["states"]  # (S, K)
        base = 2 if self.latent == "bernoulli" else self.num_categories
        self.powers = base ** torch.arange(self.latent_dim).flip(0)

    def number(self, h):
        return (h.long() * self.powers).sum(dim=-1)

    def rows(self, x):
        return x.reshape(len(x), -1)[:, 0].long()

    # The joint model's face
    def prior(self):
        flat = torch.zeros(1, len(self.states)).log_softmax(dim=-1)
        return _Table(self, flat, torch.zeros((), dtype=torch.int64))

    def log_joint_prob(self, x, h):
        return _Table(self, self.table, self.rows(x)).log_prob(h)

    def decode(self, h):
        return self.number(h).unsqueeze(-1).float()

    # The proposal's face
    def proposal(self, x):
        return _Table(self, self.table, self.rows(x))

    def log_conditional_prob(self, h, x):
        return self.proposal(x).log_prob(h)

    def sample_latent(self, x, num_samples=1):
        return self.proposal(x).sample((num_samples,))

    def encode(self, x):
        return self.states[self.table[self.rows(x)].argmax(dim=-1)]


def _tables(model):
    return _TableModel(model, model["log_p"]), _TableModel(model, model["log_q"])


def probe_log_importance_weight(submission, model, x, h):
    joint, proposal = _tables(model)
    one = submission.log_importance_weight(joint, proposal, x, h[0])
    return {"log_w": submission.log_importance_weight(joint, proposal, x, h), "log_w_one": one}


def probe_mis_chain(submission, log_w, u):
    before = log_w.clone(), u.clone()
    rows = submission.mis_chain(log_w, u)
    untouched = torch.equal(before[0], log_w) and torch.equal(before[1], u)
    return {"rows": rows, "inputs_untouched": torch.tensor(untouched)}


class _Given:
    """Replaces the functions of TODO 4.4 while the sampler of TODO 4.5 is looked at.

    `log_importance_weight` is read off the model's table; `mis_chain` returns the given rows and
    keeps what it was asked. So a mistake in TODO 4.4 costs nothing in 4.5.
    """

    def __init__(self, submission, model, rows=None):
        self.submission, self.model, self.rows = submission, model, rows
        self.log_w, self.u = torch.zeros(0, 0), torch.zeros(0, 0)

    def __enter__(self):
        self.own = {n: getattr(self.submission, n) for n in ("log_importance_weight", "mis_chain")}
        table = _TableModel(self.model, self.model["log_w"])
        self.submission.log_importance_weight = lambda joint, proposal, x, h: (
            table.log_conditional_prob(h, x).detach()
        )
        if self.rows is not None:
            self.submission.mis_chain = self._mis_chain
        return self

    def _mis_chain(self, log_w, u):
        self.log_w, self.u = log_w, u
        return self.rows

    def __exit__(self, *_):
        for name, function in self.own.items():
            setattr(self.submission, name, function)


def probe_log_acceptance_ratio(submission, model, x, h_new, h_old):
    joint, proposal = _tables(model)
    sampler = submission.MISampler(joint, proposal)
    with _Given(submission, model):
        return {"ratio": sampler.log_acceptance_ratio(joint, proposal, x, h_new, h_old)}


def probe_steps(submission, model, x, h_init, num_steps, seed, use_sample=False):
    """`num_steps` calls of `step`, or one of `sample`, from h_init, without a cache."""
    sampler = submission.MISampler(*_tables(model))
    torch.manual_seed(seed)
    with _Given(submission, model):
        if use_sample:
            return {"h": sampler.sample(x, h_init, None, num_steps)}
        h = h_init
        for _ in range(num_steps):
            h = sampler.step(x, h)
    return {"h": h}


def probe_sample_by_rows(submission, model, x, h_init, rows, seed):
    """`sample` while `mis_chain` returns given rows; `asked` is empty where it was not called."""
    sampler = submission.MISampler(*_tables(model))
    torch.manual_seed(seed)
    with _Given(submission, model, rows) as given:
        h = sampler.sample(x, h_init, None, len(rows))
    called = given.log_w.numel() > 0
    states = sampler.states if called and sampler.states is not None else torch.zeros(0)
    return {"h": h, "asked": given.log_w, "u": given.u, "states": states}


def probe_cache(submission, model, x, idx, cached, num_steps, use_sample, seed):
    """Start from cached states, change the models, and run: what was and what is in the cache.

    `fresh` is the result for examples that no chain has visited.
    """
    joint, proposal = _tables(model)
    sampler = submission.MISampler(joint, proposal, num_examples=len(x) + 5)
    empty = sampler.cache.clone()
    sampler.update_cache(idx, cached)
    written = sampler.cache.clone()
    torch.manual_seed(seed)

    def run():
        with _Given(submission, model):
            if use_sample:
                return sampler.sample(x, None, idx, num_steps)
            for _ in range(num_steps):
                h = sampler.step(x, None, idx)
            return h

    h = run()
    after = sampler.cache.clone()
    sampler.cache.copy_(empty)
    fresh = run()
    with _Given(submission, model):
        (sampler.sample if use_sample else sampler.step)(x)  # no idx: must leave the cache alone
    return {
        "h": h,
        "empty": empty,
        "written": written,
        "after": after,
        "fresh": fresh,
        "after_fresh": sampler.cache,
    }


def probe_jsa_loss(submission, model, x, h):
    """The two losses, and their gradients with respect to both tables."""
    joint, proposal = _tables(model)
    losses = submission.jsa_loss(joint, proposal, x, h)
    outputs = dict(zip(("loss_joint", "loss_proposal"), losses, strict=True))
    for name, loss in list(outputs.items()):
        tables = [joint.table, proposal.table]
        needs = loss.requires_grad
        gradients = torch.autograd.grad(loss, tables, allow_unused=True) if needs else (None, None)
        for other, gradient in zip(("p", "q"), gradients, strict=True):
            empty = torch.zeros_like(joint.table)
            outputs[f"d_{name}_by_{other}"] = empty if gradient is None else gradient
    return outputs


PROBES = {
    name.removeprefix("probe_"): function
    for name, function in vars(sys.modules[__name__]).items()
    if name.startswith("probe_")
}
