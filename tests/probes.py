"""Pieces of student code, run on given inputs: arrays in, arrays out, never a verdict.

The only test file that touches `submission`. A probe is a function `(submission, **inputs)` that
returns a dict of tensors; `attempt(name, inputs, folder)` calls one. The tests judge what comes
back.
"""

import contextlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from data_utils import set_seed
from kit.settings import GenSettings
from kit.tasks.vae import GenTask
from model import BaseMixturePrior, BasePatchJoint, BaseProposalModel

Outputs = dict[str, np.ndarray]


def load_submission(folder: Path):
    """Import `folder`/submission.py, and nothing else from there: a model.py or tests/ beside it
    must not take the place of the kit's own."""
    path = folder / "submission.py"
    loaded = sys.modules.get("submission")
    if loaded is not None and loaded.__file__ == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location("submission", path)
    module = sys.modules["submission"] = importlib.util.module_from_spec(spec)
    set_seed(0)  # for what the module may sample while it is imported
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules["submission"]
        raise
    return module


@contextlib.contextmanager
def one_thread():
    """Inside the block torch computes on one thread.

    Tensors this small are slower on several, and far slower where other processes want the cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def attempt(name: str, inputs: dict, folder: Path) -> tuple[Outputs | None, str]:
    """Run one probe on `folder`/submission.py, with all global generators seeded.

    The seed is the probe's own, if it has one. So a result depends neither on the probes before,
    nor on the process in which it runs.

    Returns:
        The outputs and "", or None and one line that says what went wrong.
    """
    try:
        submission = load_submission(folder)
        tensors = _tensors(inputs)
        set_seed(inputs.get("seed", 0))
        outputs = PROBES[name](submission, **tensors)
        if changed := _changed(inputs, tensors):
            return None, f"{changed} was changed in place; leave what you are given as it is"
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


def _changed(inputs: dict, tensors: dict) -> str:
    """The name of an input that no longer has the value it was given with, or ""."""
    for key, value in inputs.items():
        if isinstance(value, dict):
            changed = _changed(value, tensors[key])
        elif isinstance(value, np.ndarray):
            same = np.array_equal(value, tensors[key].detach().numpy(), equal_nan=True)
            changed = "" if same else key
        else:
            continue
        if changed:
            return changed
    return ""


def _reseeds(run) -> torch.Tensor:
    """Whether `run()` sets the global generator: its state afterwards forgets the seed before."""
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        run()
        states.append(torch.get_rng_state())
    return torch.tensor(torch.equal(*states))


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
    """What `forward` returns, which must be three tensors."""
    found = network(x, labels)
    if not (isinstance(found, tuple | list) and len(found) == 3):
        kind = f"{len(found)}" if isinstance(found, tuple | list) else type(found).__name__
        raise TypeError(f"forward must return recon_x, mu and log_var, three tensors, not {kind}")
    return found


def probe_forward(submission, task, latent_dim, x, labels, seed):
    """`forward(x, labels)` of a freshly made network: twice in eval mode, once in train mode.

    A single example has no train mode: BatchNorm rightly refuses it.
    """
    network = _network(submission, task, latent_dim, seed)
    outputs = {}
    for suffix, mode in (("", False), ("_again", False), ("_train", True)):
        if len(x) == 1 and mode:
            continue
        network.train(mode)
        found = zip(("recon_x", "mu", "log_var"), _forward(network, x, labels), strict=True)
        outputs |= {f"{name}{suffix}": value for name, value in found}
    return outputs | {"reseeds": _reseeds(lambda: network(x, labels))}


def probe_decode(submission, task, latent_dim, z, labels, seed):
    """`decode(z, labels)` of a freshly made network in eval mode: twice, and of one z alone."""
    network = _network(submission, task, latent_dim, seed).eval()
    images, again = network.decode(z, labels), network.decode(z, labels)
    return {"images": images, "again": again, "alone": network.decode(z[:1], labels[:1])}


def probe_gradients(submission, task, latent_dim, x, labels, seed):
    """Whether a gradient from the reconstruction reaches the network through mu and log_var.

    Seen at the parameters, because the mu returned need not be the tensor that z was made from.
    """
    network = _network(submission, task, latent_dim, seed).train()
    recon_x, mu, log_var = _forward(network, x, labels)
    parameters = list(network.parameters())

    def gradient(value):
        if not value.requires_grad:
            return torch.zeros(sum(p.numel() for p in parameters))
        found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        pairs = zip(found, parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])

    error = gradient((recon_x.reshape(len(x), -1) - x.reshape(len(x), -1)).pow(2).sum()).abs()
    # Random weights: the plain sum of a normalised mu would have no gradient at all.
    touches = {
        k: gradient((v * torch.randn_like(v)).sum()) != 0
        for k, v in (("mu", mu), ("log_var", log_var))
    }
    outputs = {"parameters": error.max()}
    for name, other in (("mu", "log_var"), ("log_var", "mu")):
        alone = touches[name] & ~touches[other]  # such as the rows of log_var in the last layer
        seen = error[alone if alone.any() else touches[name]]
        outputs[name] = seen.max() if len(seen) else torch.zeros(())
    return outputs


def _train(network, x, labels, steps, seed, var, lr, batch_size=32):
    """A few hundred steps of Adam on the network's own `loss`, or on a negative ELBO."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    network.train()
    for _ in range(steps):
        batch = torch.randint(len(x), (batch_size,), generator=generator)
        if hasattr(network, "loss"):
            loss = network.loss(x[batch], labels[batch])
        else:
            recon_x, mu, log_var = _forward(network, x[batch], labels[batch])
            q = Normal(mu, torch.exp(log_var) ** 0.5)
            error = (recon_x.reshape(batch_size, -1) - x[batch].reshape(batch_size, -1)) ** 2
            kl = kl_divergence(q, Normal(0.0, 1.0))
            loss = (error.sum() / (2 * var) + kl.sum()) / batch_size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()


def probe_train_vae(submission, latent_dim, x, labels, steps, num_images, num_samples, seed):
    """Reconstructions before and after some training, and many samples for the first images.

    `samples` come from `forward`; `own_samples` from `decode` at z ~ N(mu, diag(exp(log_var))).
    """
    network = _network(submission, "VAEwolabel", latent_dim, seed)
    with torch.no_grad():
        before = network.eval()(x, labels)[0]
    _train(network, x, labels, steps, seed, var=0.1, lr=4e-3)
    with torch.no_grad():
        after = _forward(network, x, labels)[0]
        many, zeros = (t[:num_images].repeat_interleave(num_samples, dim=0) for t in (x, labels))
        samples, mu, log_var = _forward(network, many, zeros)
        z = Normal(mu, torch.exp(log_var) ** 0.5).sample()
        own_samples = network.decode(z, zeros)
    return {"before": before, "after": after, "samples": samples, "own_samples": own_samples}


def probe_train_gen(submission, latent_dim, x, labels, steps, asked, seed):
    """Samples of a GenModel after some training, for the labels `asked` and, with the same z,
    for the next digit; reconstructions of the first 200 images, by forward and from mu."""
    network = _network(submission, "Genwithlabel", latent_dim, seed)
    _train(network, x, labels, steps, seed, var=1.0, lr=5e-3)
    task = GenTask(network, None, GenSettings(latent_dim=latent_dim))
    with torch.no_grad():
        torch.manual_seed(seed)
        samples = task.generate(asked)
        torch.manual_seed(seed)
        others = task.generate((asked + 1) % 10)
        recon_x, mu, _ = _forward(network, x[:200], labels[:200])
        from_mu = network.decode(mu, labels[:200])
    return {"samples": samples, "others": others, "recon_x": recon_x, "from_mu": from_mu}


def probe_vae_loss(submission, recon_x, x, mu, log_var, var, likelihood, gradients=False):
    """The loss and, where asked for, its gradients."""
    inputs = [t.requires_grad_() for t in (recon_x, mu, log_var)]
    loss = submission.vae_loss(recon_x, x, mu, log_var, var=var, likelihood=likelihood)
    if not gradients:
        return {"loss": loss}
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


def _joint(submission, model, **more):
    net = _linear(model["p_weight"], model["p_bias"])
    return submission.JointModel(model["latent_dim"], net=net, **_arguments(model), **more)


def _proposal(submission, model):
    net = _linear(model["q_weight"], model["q_bias"])
    return submission.ProposalModel(model["latent_dim"], net=net, **_arguments(model))


def probe_built_nets(submission, latent_dim, latent, num_categories, hidden, x):
    """Outputs of the networks that `build_net` makes, their widths, gradients and range."""
    arguments = {"latent": latent, "num_categories": num_categories, "hidden": hidden}
    arguments["x_shape"] = tuple(x.shape[1:])
    outputs = {}
    for name, kind in (("p", submission.JointModel), ("q", submission.ProposalModel)):
        torch.manual_seed(0)
        module = kind(latent_dim, **arguments)
        net, widths = module.net, []
        inputs = torch.rand(len(x), module.h_features) if name == "p" else x
        layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
        hooks = [
            layer.register_forward_hook(lambda layer, *_, w=widths: w.append(layer.out_features))
            for layer in layers
        ]
        outputs[f"{name}_out"] = net(inputs)
        for hook in hooks:
            hook.remove()
        outputs[f"{name}_widths"] = torch.tensor(widths)  # in the order of use
        middle = (net(inputs) + net(1 - inputs)) / 2 - net(torch.full_like(inputs, 0.5))
        outputs[f"{name}_bend"] = middle.abs().max()  # 0 for a linear map
        if outputs[f"{name}_out"].requires_grad:
            outputs[f"{name}_out"].pow(2).sum().backward()
        trained = [p.grad is not None for p in net.parameters()]
        outputs[f"{name}_trained"] = torch.tensor(trained)
        # Logits may be any numbers: with large parameters they are large, of either sign.
        large = []
        with torch.no_grad():
            for _ in range(max(5, 40 // outputs[f"{name}_out"][0].numel())):
                net = kind(latent_dim, **arguments).net
                for parameter in net.parameters():
                    parameter.mul_(100)
                large.append(net(inputs).flatten())
        outputs[f"{name}_large"] = torch.cat(large)
    return outputs


def _gradients(value, net):
    """The gradient of `value.sum()` for all parameters of `net`, flattened into one vector; 0 for
    those that it does not reach."""
    net.zero_grad()
    if value.requires_grad:
        value.sum().backward(retain_graph=True)
    each = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
    return torch.cat([gradient.flatten() for gradient in each])


def probe_joint(submission, model, x, h, wanted=None):
    """The joint model at h [S, B, K] and x [B, ...], and at the single states h[0].

    wanted: which outputs to compute (None: all), so that one unfinished method costs its own
    points only.
    """
    joint = _joint(submission, model)
    outputs = {
        "log_prior": lambda: joint.prior().log_prob(h),
        "log_likelihood": lambda: joint.likelihood(h).log_prob(x),
        "log_joint": lambda: joint.log_joint_prob(x, h),
        "gradient": lambda: _gradients(joint.log_joint_prob(x, h), joint.net),
        "log_joint_one": lambda: joint.log_joint_prob(x, h[0]),
        "mean": lambda: joint.decode(h[0]),
    }
    return {name: outputs[name]() for name in wanted or outputs}


def probe_prior_samples(submission, model, num_samples, seed):
    joint = _joint(submission, model)
    torch.manual_seed(seed)
    return {"h": joint.prior().sample((num_samples,))}


class _GivenMixture(BaseMixturePrior):
    """Stands for the student's MixturePrior while JointModel is looked at: no distribution, but a
    function of h with gradients, and samples that cannot come from anywhere else."""

    def log_prob(self, h):
        return self.h_numbers(h) @ self.component_logits[0].flatten() - self.mixture_logits[0]

    def sample(self, sample_shape=()):
        return torch.full((*sample_shape, self.latent_dim), 7)


def _mixture(kind, model):
    sizes = {name: model[name] for name in ("latent", "num_categories")}
    mixture = kind(len(model["mixture_logits"]), model["latent_dim"], **sizes)
    for name in ("mixture_logits", "component_logits"):
        getattr(mixture, name).data.copy_(model[name])
    return mixture


def _gradient_of_h(log_prob, h):
    """The gradient of `log_prob(h).sum()` with respect to bits h, 0 where there is none."""
    h = h.clone().requires_grad_()
    value = log_prob(h)
    if not value.requires_grad:
        return torch.zeros_like(h)
    (gradient,) = torch.autograd.grad(value.sum(), h, allow_unused=True)
    return torch.zeros_like(h) if gradient is None else gradient


def probe_joint_with_mixture(submission, model, x, h):
    """The joint model whose prior is `_GivenMixture`, at h [S, B, K] and x [B, ...]."""
    mixture = _mixture(_GivenMixture, model)
    joint = _joint(submission, model, mixture=mixture)
    outputs = {
        "log_prior": joint.prior().log_prob(h),
        "samples": joint.prior().sample((2,)),
        "log_joint": joint.log_joint_prob(x, h),
        "gradient": _gradients(joint.log_joint_prob(x, h), mixture),
    }
    if h.is_floating_point():
        outputs["d_h"] = _gradient_of_h(lambda h: joint.log_joint_prob(x, h), h)
    return outputs


def probe_mixture(submission, model, h, wanted=None):
    """MixturePrior at h [S, B, K] and at one h [K]; wanted: as in `probe_joint`."""
    mixture = _mixture(submission.MixturePrior, model)
    outputs = {
        "log_p": lambda: mixture.log_prob(h),
        "log_p_one": lambda: mixture.log_prob(h[0, 0]),
        "gradient": lambda: _gradients(mixture.log_prob(h), mixture),
    }
    if h.is_floating_point():
        outputs["d_h"] = lambda: _gradient_of_h(mixture.log_prob, h)
    return {name: outputs[name]() for name in wanted or outputs if name in outputs}


def probe_mixture_samples(submission, model, num_samples, seed):
    mixture = _mixture(submission.MixturePrior, model)
    torch.manual_seed(seed)
    return {
        "h": mixture.sample((num_samples,)),
        "one": mixture.sample(),
        "several": mixture.sample((2, 3)),
        "floats": torch.tensor(mixture.sample((2,)).is_floating_point()),
        "reseeds": _reseeds(lambda: mixture.sample((2,))),
    }


def probe_proposal(submission, model, x, h, wanted=None):
    """The proposal at h [S, B, K] and x [B, ...], at the single states h[0], and its mode.

    wanted: as in `probe_joint`.
    """
    proposal = _proposal(submission, model)
    outputs = {
        "log_q": lambda: proposal.log_conditional_prob(h, x),
        "gradient": lambda: _gradients(proposal.log_conditional_prob(h, x), proposal.net),
        "log_q_one": lambda: proposal.log_conditional_prob(h[0], x),
        "log_q_object": lambda: proposal.proposal(x).log_prob(h),
        "code": lambda: proposal.encode(x),
    }
    return {name: outputs[name]() for name in wanted or outputs}


def probe_sample_latent(submission, model, x, num_samples, seed):
    proposal = _proposal(submission, model)
    torch.manual_seed(seed)
    samples = proposal.sample_latent(x, num_samples)
    return {
        "h": samples,
        "by_default": proposal.sample_latent(x),
        "of_proposal": proposal.proposal(x).sample((7,)),
        "reseeds": _reseeds(lambda: proposal.sample_latent(x)),
    }


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
        self.table = nn.Parameter(table.float().clone())
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
        return _Table(self, self.table, self.rows(x)).log_prob(h)

    def sample_latent(self, x, num_samples=1):
        return _Table(self, self.table, self.rows(x)).sample((num_samples,))

    def encode(self, x):
        return self.states[self.table[self.rows(x)].argmax(dim=-1)]


def _tables(model):
    return _TableModel(model, model["log_p"]), _TableModel(model, model["log_q"])


def probe_log_importance_weight(submission, model, x, h):
    joint, proposal = _tables(model)
    one = submission.log_importance_weight(joint, proposal, x, h[0])
    return {"log_w": submission.log_importance_weight(joint, proposal, x, h), "log_w_one": one}


def probe_mis_chain(submission, log_w, u):
    return {"rows": submission.mis_chain(log_w, u)}


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
        return self.rows[: len(u)]

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
        return {"h": h, "reseeds": _reseeds(lambda: sampler.step(x[:2], h[:2]))}


def probe_sample_by_rows(submission, model, x, h_init, rows, seed):
    """`sample` while `mis_chain` returns given rows; `asked` is empty where it was not called.

    `recorded_...` is what `self.record` was given; `h_zero_steps` is the result for T = 0.
    """
    sampler = submission.MISampler(*_tables(model))
    torch.manual_seed(seed)
    with _Given(submission, model, rows) as given:
        h = sampler.sample(x, h_init, None, len(rows))
        outputs = {"h": h, "asked": given.log_w, "u": given.u}
        for name in ("states", "log_w", "rows"):
            value = getattr(sampler, name)
            outputs[f"recorded_{name}"] = torch.zeros(0) if value is None else value
        outputs["reseeds"] = _reseeds(lambda: sampler.sample(x, h_init, None, len(rows)))
        outputs["h_zero_steps"] = sampler.sample(x, h_init, None, 0)
    return outputs


def probe_cache(submission, model, later, x, idx, cached, other, rows, num_steps, use_sample, seed):
    """Run from cached states, under the models `model` and `later`: results and cache after each.

    `later_asked`: row 0 of the log_w that mis_chain got under `later`, empty where it got none.
    `given`: the result where the states `cached` are handed over while `other` is cached.
    `fresh`: the result for examples that no chain has visited.
    """
    joint, proposal = _tables(model)
    sampler = submission.MISampler(joint, proposal, num_examples=len(x) + 5)
    torch.manual_seed(seed)
    outputs = {"cache_empty": sampler.cache.table.clone()}

    def run(name, tables, h=None):
        joint.table.data.copy_(tables["log_p"])
        proposal.table.data.copy_(tables["log_q"])
        with _Given(submission, tables, rows) as given:
            if use_sample:
                h = sampler.sample(x, h, idx, num_steps)
            else:
                for step in range(num_steps):
                    h = sampler.step(x, h if step == 0 else None, idx)
        outputs[name], outputs[f"{name}_asked"] = h, given.log_w[:1]
        outputs[f"cache_{name}"] = sampler.cache.table.clone()

    sampler.update_cache(idx, cached)
    outputs["cache_written"] = sampler.cache.table.clone()
    run("first", model)
    run("later", later)
    sampler.update_cache(idx, other)
    run("given", model, cached)
    sampler.cache.table.copy_(outputs["cache_empty"])
    run("fresh", model)
    with _Given(submission, model, rows):  # no idx: must leave the cache alone
        sampler.sample(x, None, None, num_steps) if use_sample else sampler.step(x)
    outputs["cache_without_idx"] = sampler.cache.table
    return outputs


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


# ----------------------------------------------------------------------------------------------
# Part 5


class _Patches:
    """Replaces the functions of TODO 5.1 and 5.2 while those that use them are looked at.

    `spread` [C, S*S, K*R*R] says for each choice which entry of the prototypes comes to which
    pixel. The full table of placed prototypes is what part 5 does without: it is for tiny images.
    """

    names = ("render", "patch_log_scores")

    def __init__(self, submission, spread):
        self.submission, self.spread = submission, spread

    def __enter__(self):
        self.own = {name: getattr(self.submission, name) for name in self.names}
        for name in self.names:
            setattr(self.submission, name, getattr(self, name))
        return self

    def __exit__(self, *_):
        for name, function in self.own.items():
            setattr(self.submission, name, function)

    def render(self, choices, prototypes, size=28, overwrite=False):
        placed = self.spread @ prototypes.flatten()  # (C, S*S)
        return placed[choices].sum(dim=-2).reshape(*choices.shape[:-1], 1, size, size)

    def patch_log_scores(self, residual, prototypes, beta):
        placed = self.spread @ prototypes.flatten()
        squares = (residual.flatten(1).unsqueeze(1) - placed) ** 2  # (N, C, S*S)
        return (-beta * squares.sum(dim=2)).log_softmax(dim=1)


def probe_render(submission, choices, prototypes, size, weight, overwrite=False):
    """The image, and the gradient of its sum, weighted by `weight`, for the prototypes."""
    prototypes.requires_grad_()
    image = submission.render(choices, prototypes, size, overwrite)
    outputs = {"image": image}
    if image.requires_grad:
        (outputs["gradient"],) = torch.autograd.grad((image * weight).sum(), prototypes)
    return outputs | {"gradient": outputs.get("gradient", torch.zeros_like(prototypes))}


def probe_patch_log_scores(submission, residual, prototypes, beta):
    return {"log_p": submission.patch_log_scores(residual, prototypes, beta)}


def probe_gibbs_sweep(submission, x, choices, prototypes, beta, spread, num_sweeps, seed):
    """The state after `num_sweeps`; one sweep twice by equal generators, once by another one."""

    def sweep(seed, state, images):
        generator = torch.Generator().manual_seed(seed)
        return submission.gibbs_sweep(images, state, prototypes, beta, generator)

    with _Patches(submission, spread):
        generator = torch.Generator().manual_seed(seed)
        state = choices
        for _ in range(num_sweeps):
            state = submission.gibbs_sweep(x, state, prototypes, beta, generator)
        before = torch.get_rng_state()
        first, again, other = (sweep(s, choices[:500], x[:500]) for s in (seed, seed, seed + 1))
        untouched = torch.equal(before, torch.get_rng_state())
        without = submission.gibbs_sweep(x[:2], choices[:2], prototypes, beta)
    outputs = {"state": state, "first": first, "again": again, "other": other, "without": without}
    return outputs | {"untouched": torch.tensor(untouched)}


def _patch_arguments(prototypes, size, beta):
    k, r, _ = prototypes.shape
    return {"num_prototypes": k, "patch_size": r, "size": size, "beta": beta}


def probe_patch_joint(submission, x, h, prototypes, size, beta, spread):
    """PatchJoint at h [S, B, H] and x [B, 1, S, S], and at the single states h[0]."""
    joint = submission.PatchJoint(h.shape[-1], **_patch_arguments(prototypes, size, beta))
    joint.prototypes.data.copy_(prototypes)
    with _Patches(submission, spread):
        log_joint = joint.log_joint_prob(x, h)
        return {
            "mean": joint.decode(h),
            "log_joint": log_joint,
            "log_joint_one": joint.log_joint_prob(x, h[0]),
            "gradient": _gradients(log_joint, joint),
        }


class _PlacedJoint(BasePatchJoint):
    """A joint model whose images are made by `_Patches`."""

    def decode(self, h):
        return self.patches.render(h, self.prototypes, self.size)


def _patch_proposal(submission, num_patches, prototypes, size, weight, bias, patches):
    joint = _PlacedJoint(num_patches, **_patch_arguments(prototypes, size, 1.0))
    joint.prototypes.data.copy_(prototypes)
    joint.patches = patches
    return submission.PatchProposal(joint, net=_linear(weight, bias))


def probe_patch_proposal(submission, x, h, prototypes, size, weight, bias, spread):
    with _Patches(submission, spread) as patches:
        model = (h.shape[-1], prototypes, size, weight, bias, patches)
        proposal = _patch_proposal(submission, *model)
        log_q = proposal.log_conditional_prob(h, x)
        return {
            "log_q": log_q,
            "log_q_one": proposal.log_conditional_prob(h[0], x),
            "gradient": _gradients(log_q, proposal.net),
        }


def probe_patch_samples(
    submission, x, num_patches, num_samples, prototypes, size, weight, bias, spread, seed
):
    with _Patches(submission, spread) as patches:
        model = (num_patches, prototypes, size, weight, bias, patches)
        proposal = _patch_proposal(submission, *model)
        torch.manual_seed(seed)
        with torch.no_grad():
            samples = proposal.sample_latent(x, num_samples)
            by_default = proposal.sample_latent(x)
            reseeds = _reseeds(lambda: proposal.sample_latent(x))
    return {"h": samples, "by_default": by_default, "reseeds": reseeds}


PROBES = {
    name.removeprefix("probe_"): function
    for name, function in vars(sys.modules[__name__]).items()
    if name.startswith("probe_")
}
