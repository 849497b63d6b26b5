"""Provided parts of the models (do not modify): builders, base classes and task objects.

`submission.py` derives its networks from the base classes here; `trainer.py` sees a model only
through its task object: `loss`, `encode`, `decode`, `generate`, `state_dict` and a few switches.
"""

import ast
import contextlib
import inspect
import itertools
import math
import re

import torch
import torch.nn.functional as F
from torch import nn

ANNEAL = 0.6  # share of the epochs in which sigma (or beta) goes from its start to its end
MEASURE_EVERY = 5  # batches from one look at acceptance rate and sample size to the next
ENCODING_BETAS = (3.0, 30.0, 1e4)  # of the sweeps over the patches of an image that is encoded
ACTIVATIONS = {
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}

# ----------------------------------------------------------------------------------------------
# Network builders: a demo that a student may use, copy or replace


def mlp(sizes: list[int], activation: str = "leaky_relu") -> nn.Sequential:
    """Fully connected layers sizes[0] -> ... -> sizes[-1] on flattened input; two sizes: linear.

    Input [N, ...] with sizes[0] entries an example, output [N, sizes[-1]].
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        if i > 0:
            layers.append(ACTIVATIONS[activation]())
        layers.append(nn.Linear(n_in, n_out))
    return nn.Sequential(*layers)


def conv_encoder(
    out_features: int, activation: str = "leaky_relu", in_channels: int = 1, width: int = 32
) -> nn.Sequential:
    """A small convolutional network: [N, in_channels, 28, 28] -> [N, out_features]."""
    act = ACTIVATIONS[activation]
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 4, stride=2, padding=1),  # (N, 32, 14, 14)
        act(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),  # (N, 64, 7, 7)
        act(),
        nn.Flatten(),  # (N, 3136)
        nn.Linear(2 * width * 7 * 7, out_features),
    )


def conv_decoder(
    in_features: int, activation: str = "leaky_relu", width: int = 32
) -> nn.Sequential:
    """The mirror image of `conv_encoder`: [N, in_features] -> pixel logits [N, 1, 28, 28].

    A single linear layer before the convolutions lets every latent bit touch the picture from
    the first step on; with one more layer between, JSA learns three times slower.
    """
    act = ACTIVATIONS[activation]
    return nn.Sequential(
        nn.Linear(in_features, 2 * width * 7 * 7),  # (N, 3136)
        act(),
        nn.Unflatten(1, (2 * width, 7, 7)),  # (N, 64, 7, 7)
        nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),  # (N, 32, 14, 14)
        act(),
        nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),  # (N, 1, 28, 28)
    )


# ----------------------------------------------------------------------------------------------
# Base classes of part 4


class Bits:
    """Independent bits: `log_prob` and `sample` of torch.distributions' Bernoulli, with less work.

    Args:
        logits: log of p / (1 - p) of each bit, [..., K] where `event_dims` is 1.
        event_dims: how many of the last dimensions belong to one example, at least 1.
    """

    def __init__(self, logits: torch.Tensor, event_dims: int = 1):
        self.logits, self.event_dims = logits, event_dims

    def log_prob(self, bits: torch.Tensor) -> torch.Tensor:
        """Nats, summed over one example: log p(b) = b * logit - log(1 + exp(logit)) for each bit.

        The second term, the costly one, is worked out once for draws that share their logits.
        """
        log_p = bits * self.logits - F.softplus(self.logits)
        return log_p.sum(dim=tuple(range(-self.event_dims, 0)))

    def sample(self, sample_shape: tuple[int, ...] = ()) -> torch.Tensor:
        """Draws of 0 and 1, [*sample_shape, ..., K]; no gradient flows through them."""
        p = torch.sigmoid(self.logits.detach())
        u = torch.rand(*sample_shape, *p.shape, dtype=p.dtype, device=p.device)  # in [0, 1)
        return u.lt_(p)  # u < p as 0 and 1, in the place of u


class LatentModel(nn.Module):
    """What the joint model and the proposal share: the kind of latent, sizes and the network.

    Args:
        latent_dim: K bits (Bernoulli) or D categorical variables.
        latent: "bernoulli" (h float32 of 0/1, [..., K]) or "categorical" (h int64, [..., D]).
        num_categories: C, values of one categorical variable; unused for bits.
        likelihood: "gaussian" or "bernoulli", the family of p(x|h).
        sigma: standard deviation of the Gaussian likelihood; a buffer, so it may be annealed and
            is stored in checkpoints.
        x_shape: shape of one example.
        hidden: widths of the MLP's hidden layers, seen from x; [] is a linear map, None leaves
            the choice (a convolutional network) to `build_net`.
        activation: one of ACTIVATIONS.
        net: use this network instead of `build_net()`.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        latent: str = "bernoulli",
        num_categories: int = 10,
        likelihood: str = "gaussian",
        sigma: float = 0.1,
        x_shape: tuple[int, ...] = (1, 28, 28),
        hidden: list[int] | None = None,
        activation: str = "leaky_relu",
        net: nn.Module | None = None,
    ):
        super().__init__()
        if latent not in ("bernoulli", "categorical"):
            raise ValueError(f"latent must be 'bernoulli' or 'categorical', not {latent!r}")
        if likelihood not in ("gaussian", "bernoulli"):
            raise ValueError(f"likelihood must be 'gaussian' or 'bernoulli', not {likelihood!r}")
        self.latent_dim = latent_dim
        self.latent = latent
        self.num_categories = num_categories
        self.likelihood_kind = likelihood
        self.x_shape = tuple(x_shape)
        self.hidden = hidden
        self.activation = activation
        self.x_features = math.prod(self.x_shape)
        # How many numbers describe h to a network: K bits, or D one-hot vectors of length C.
        self.h_features = latent_dim * (num_categories if latent == "categorical" else 1)
        self.register_buffer("sigma", torch.tensor(float(sigma)))
        self.net = net or self.build_net()

    def build_net(self) -> nn.Module:
        raise NotImplementedError("a subclass builds the network")


class BaseJointModel(LatentModel):
    """p(x, h) = p(h) p(x|h); `self.net` maps h (one-hot if categorical) to logits of x."""

    def x_logits(self, h: torch.Tensor) -> torch.Tensor:
        """Run the network: h [..., K] -> logits of the mean of x, [..., *x_shape]."""
        if self.latent == "categorical":
            h = F.one_hot(h.long(), self.num_categories)  # (..., D, C)
            h = h.flatten(-2)  # (..., D * C)
        lead = h.shape[:-1]
        logits = self.net(h.reshape(-1, self.h_features).to(self.sigma.dtype))
        return logits.reshape(*lead, *self.x_shape)


class BaseProposalModel(LatentModel):
    """q(h|x); `self.net` maps x to logits of h."""

    shared = None  # (x, what the network made of it), inside `run_once`

    def h_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network: x [B, *x_shape] -> logits [B, K], or [B, D, C] if categorical."""
        if self.shared and self.shared[0] is x:
            logits = self.shared[1].clone()  # so that no caller can change another's
            logits = logits if torch.is_grad_enabled() else logits.detach()
        else:
            logits = self.net(x)
        if self.latent == "categorical":
            return logits.reshape(len(x), self.latent_dim, self.num_categories)
        return logits.reshape(len(x), self.latent_dim)

    @contextlib.contextmanager
    def run_once(self, x: torch.Tensor):
        """Inside the block the network runs once for the batch `x`, however often it is asked.

        The chain draws from q(h|x) and the loss scores its states, both with the same weights.
        """
        if type(self).h_logits is BaseProposalModel.h_logits:  # else it is the student's own affair
            self.shared = x, self.net(x)
        try:
            yield
        finally:
            self.shared = None


class BaseSampler:
    """Owns the cache of latent states: one row an example of the training split.

    It is no nn.Module: it holds the very models that are being trained, not copies, so an
    optimiser step is seen at once and a checkpoint has every weight only once.

    Args:
        joint, proposal: the models, p(x, h) and q(h|x).
        num_examples: rows of the cache; 0 for a sampler without one.
        device: where the cache lives.
    """

    def __init__(self, joint, proposal, num_examples: int = 0, device: str | torch.device = "cpu"):
        self.joint = joint
        self.proposal = proposal
        shape = (num_examples, joint.latent_dim)
        # 255 and -1 mark entries that no chain has visited yet.
        if joint.latent == "categorical":
            self.cache = torch.full(shape, -1, dtype=torch.int16, device=device)
        else:
            self.cache = torch.full(shape, 255, dtype=torch.uint8, device=device)
        self.not_visited = int(self.cache.new_full((), -1))  # -1 wraps to 255 in uint8
        self.states = self.log_w = self.rows = None

    def start_state(self, fresh: torch.Tensor, idx: torch.Tensor | None) -> torch.Tensor:
        """Where the chains start: the cached states, and `fresh` where there is none.

        Args:
            fresh: draws of q, [B, K].
            idx: int64 [B], positions of the examples in the cache; None: use no cache.
        """
        if idx is None:
            return fresh
        cached = self.cache.index_select(0, idx)  # faster than self.cache[idx]
        visited = cached[:, :1] != self.not_visited  # (B, 1): a state is stored as a whole
        return torch.where(visited, cached.to(fresh.dtype), fresh)

    def record(self, states: torch.Tensor, log_w: torch.Tensor, rows: torch.Tensor) -> None:
        """Keep the last call's chain for the diagnostics and for `--chain_states all`.

        Args:
            states: [T+1, B, K], the starting state and the T proposals.
            log_w: [T+1, B], their log importance weights in nats.
            rows: int64 [T, B], the row of `states` each chain is at after each step.
        """
        self.states, self.log_w, self.rows = states, log_w, rows

    def acceptance_rate(self) -> torch.Tensor:
        """Share of accepted proposals in the last call of `sample`, a scalar in [0, 1]."""
        # Step t proposes row t + 1, so after it a chain is there only if it has just accepted it.
        proposed = torch.arange(1, len(self.rows) + 1, device=self.rows.device)
        return (self.rows == proposed.unsqueeze(1)).float().mean()

    def effective_sample_size(self) -> torch.Tensor:
        """Mean over examples of (sum w)^2 / sum w^2 of the last call's T proposals, in [1, T].

        The usual measure of how evenly importance weights are spread (Kong 1992).
        """
        w = torch.softmax(self.log_w[1:], dim=0)  # (T, B); row 0 is no draw of q
        return w.square().sum(dim=0).reciprocal().mean()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"cache": self.cache}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Copy a cache in, from whatever device it was saved on."""
        cache = state["cache"]
        if cache.shape != self.cache.shape or cache.dtype != self.cache.dtype:
            raise ValueError(
                f"the checkpoint's cache is {cache.dtype} {list(cache.shape)}, this run needs "
                f"{self.cache.dtype} {list(self.cache.shape)}: other data or another latent"
            )
        self.cache.copy_(cache)


# ----------------------------------------------------------------------------------------------
# Base classes and helpers of part 5


def split_choices(choices: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """Prototype k, row i and column j of choices (k * size + i) * size + j, each [...]."""
    place = choices % (size * size)
    return choices // (size * size), place // size, place % size


def draw(log_p: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """One draw a row of log-probabilities [N, C]: int64 [N, 1], by one uniform number a row.

    The draw is the first category at which the cumulative probability exceeds the number.
    """
    cumulative = log_p.exp().cumsum(dim=1)  # (N, C)
    u = torch.rand(len(log_p), 1, generator=generator, device=log_p.device)
    found = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)
    return found.clamp(max=log_p.shape[1] - 1)  # where rounding took u * sum up to the sum


class BasePatchJoint(nn.Module):
    """p(x, h) of part 5: its prototypes, and how often each choice was taken in training.

    Args:
        latent_dim: H, patches an image.
        num_prototypes: K.
        patch_size: R, odd.
        size: S, height and width of the image.
        beta: 1 / (2 sigma^2) of the Gaussian likelihood; a buffer, since it follows a schedule.
    """

    latent = "categorical"

    def __init__(
        self,
        latent_dim: int,
        *,
        num_prototypes: int = 16,
        patch_size: int = 7,
        size: int = 28,
        beta: float = 30.0,
    ):
        super().__init__()
        self.latent_dim, self.size = latent_dim, size
        self.num_categories = num_prototypes * size * size
        self.prototypes = nn.Parameter(0.5 * torch.rand(num_prototypes, patch_size, patch_size))
        self.register_buffer("beta", torch.tensor(float(beta)))
        self.register_buffer("counts", torch.ones(self.num_categories))

    def prior(self):
        """p(h), uniform; `log_prob(h)` sums over the patches."""
        logits = self.prototypes.new_zeros(self.latent_dim, self.num_categories)
        each = torch.distributions.Categorical(logits=logits, validate_args=False)
        return torch.distributions.Independent(each, 1)

    def decode(self, h: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("a subclass renders the choices")

    def log_joint_prob(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("a subclass scores the image")


class BasePatchProposal(nn.Module):
    """q(h|x) of part 5: one small network for all components.

    Args:
        joint: whose prototypes place the patches; they are no parameters of q.
        net: residual [N, 1, S, S] -> logits [N, K * S * S]; None: two convolutions.
    """

    def __init__(self, joint: BasePatchJoint, net: nn.Module | None = None, width: int = 16):
        super().__init__()
        self.latent_dim = joint.latent_dim
        # A function, not the joint model itself, whose parameters would become q's.
        self.prototypes = lambda: joint.prototypes.detach()
        k, r, _ = joint.prototypes.shape
        self.net = net or nn.Sequential(
            nn.Conv2d(1, width, r, padding=r // 2),  # (N, 16, S, S)
            nn.LeakyReLU(),
            nn.Conv2d(width, k, 1),  # (N, K, S, S)
            nn.Flatten(),
        )

    def choice_log_probs(self, residual: torch.Tensor) -> torch.Tensor:
        """log q of every choice for the next component: [N, 1, S, S] -> [N, K * S * S]."""
        return torch.log_softmax(self.net(residual), dim=1)

    def proposal(self, x: torch.Tensor) -> "PatchDistribution":
        """q(h|x) as the sampler of part 4 wants it."""
        return PatchDistribution(self, x)

    def run_once(self, x: torch.Tensor):
        """As in BaseProposalModel; here the network sees residuals, which differ every time."""
        return contextlib.nullcontext()

    def sample_latent(self, x: torch.Tensor, num_samples: int = 1) -> torch.Tensor:
        raise NotImplementedError("a subclass draws component by component")

    def log_conditional_prob(self, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("a subclass scores the choices")


class PatchDistribution:
    """q(h|x) for given images."""

    def __init__(self, proposal: BasePatchProposal, x: torch.Tensor):
        self.model, self.x = proposal, x

    def sample(self, sample_shape: tuple[int, ...] = ()) -> torch.Tensor:
        h = self.model.sample_latent(self.x, math.prod(sample_shape))
        return h.reshape(*sample_shape, *h.shape[1:])

    def log_prob(self, h: torch.Tensor) -> torch.Tensor:
        return self.model.log_conditional_prob(h, self.x)


# ----------------------------------------------------------------------------------------------
# Task objects: all that the trainer and the inference know of a task


class Task:
    """One model with its loss, code and pictures. Subclasses say what the words mean.

    Attributes:
        model: nn.Module with all weights.
        sampler: a BaseSampler whose cache belongs into a checkpoint, or None.
        code_kind: "float", "bernoulli" or "categorical", the entries of one code.
    """

    code_kind = "float"
    num_categories = 0  # of one entry, where code_kind is "categorical"
    sampler: BaseSampler | None = None
    draws_at_once = 10_000  # in `log_marginal`

    def __init__(self, model: nn.Module):
        self.model = model

    def loss(self, x, labels, index) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The training loss of a batch (nats, batch mean) and metrics to log.

        `index` None: a validation batch, which leaves no trace in the task's state.
        """
        raise NotImplementedError

    def encode(self, x, labels) -> torch.Tensor:
        """x [N, 1, 28, 28] and labels [N] -> codes [N, latent_dim]."""
        raise NotImplementedError

    def decode(self, code, labels) -> torch.Tensor:
        """Codes [N, latent_dim] and labels [N] -> images in [0, 1], [N, 1, 28, 28]."""
        raise NotImplementedError

    def generate(self, labels) -> torch.Tensor:
        """Draw one image a label, [N, 1, 28, 28]; unconditional models ignore the labels."""
        raise NotImplementedError

    def log_weights(self, x, labels, num_samples) -> torch.Tensor:
        """log p(x, h) - log q(h|x) for `num_samples` draws h of q(h|x), in nats: [S, B]."""
        raise ValueError("-log p(x) is estimated by draws of q(h|x), which this model has not")

    def log_marginal(self, x, labels, num_samples) -> torch.Tensor:
        """log p(x) by importance sampling from q(h|x), in nats: [B].

        log (1/S) sum_s p(x, h_s) / q(h_s|x). Its expectation is at most log p(x) and grows with
        S (Burda et al., ICLR 2016, theorem 1). The draws come in chunks, which limits the memory.
        """
        total = torch.full((len(x),), -torch.inf, device=x.device)
        chunk = max(1, self.draws_at_once // len(x))
        for start in range(0, num_samples, chunk):
            log_w = self.log_weights(x, labels, min(chunk, num_samples - start))
            total = torch.logaddexp(total, torch.logsumexp(log_w, dim=0))
        return total - math.log(num_samples)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Set what follows a schedule; epochs count from 1."""

    def diagnostics(self, x) -> dict[str, torch.Tensor]:
        """Further figures of a validation batch for the log, each a batch mean."""
        return {}

    def param_groups(self) -> list[dict]:
        """Parameter groups for the optimiser."""
        return [{"params": self.model.parameters()}]

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.model.load_state_dict(state)


def as_images(images: torch.Tensor, what: str) -> torch.Tensor:
    """Bring what the student's method `what` returned to [N, 1, 28, 28]."""
    if not isinstance(images, torch.Tensor) or images.shape[1:].numel() != 784:
        found = list(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
        raise ValueError(f"{what} must return images [N, 1, 28, 28] (or [N, 784]), not {found}")
    return images.reshape(-1, 1, 28, 28)


class VAETask(Task):
    """VAEwolabel and Genwithlabel: a network with `forward(x, labels)` and `decode(z, labels)`.

    Args:
        model: the student's VAE or GenModel.
        vae_loss: the student's loss, used unless the model has a method `loss(x, labels)`.
        latent_dim: length of z.
        use_labels: False hands over labels that are all 0.
        var: variance of the Gaussian likelihood.
        likelihood: "gaussian" or "bernoulli".
    """

    def __init__(self, model, vae_loss, latent_dim, *, use_labels, var=0.5, likelihood="gaussian"):
        super().__init__(model)
        self.vae_loss = vae_loss
        self.latent_dim = latent_dim
        self.use_labels = use_labels
        self.var = var
        self.likelihood = likelihood

    def _labels(self, labels):
        return labels if self.use_labels else torch.zeros_like(labels)

    def loss(self, x, labels, index):
        labels = self._labels(labels)
        if hasattr(self.model, "loss"):
            return self.model.loss(x, labels), {}
        recon_x, mu, log_var = self.model(x, labels)
        recon_x = as_images(recon_x, "forward")
        loss = self.vae_loss(recon_x, x, mu, log_var, var=self.var, likelihood=self.likelihood)
        return loss, {}

    def encode(self, x, labels):
        _, mu, _ = self.model(x, self._labels(labels))
        return mu

    def decode(self, code, labels):
        return as_images(self.model.decode(code, self._labels(labels)), "decode")

    def log_weights(self, x, labels, num_samples):
        labels = self._labels(labels)
        _, mu, log_var = self.model(x, labels)
        q = torch.distributions.Normal(mu, torch.exp(0.5 * log_var))
        prior = torch.distributions.Normal(0.0, 1.0)
        z = q.sample((num_samples,))  # (S, B, K)
        images = self.model.decode(z.flatten(0, 1), labels.repeat(num_samples))
        mean = as_images(images, "decode").reshape(num_samples, *x.shape)
        if self.likelihood == "bernoulli":
            target = x.expand_as(mean)
            log_p_x = -F.binary_cross_entropy(mean, target, reduction="none").flatten(2).sum(dim=2)
        else:
            likelihood = torch.distributions.Normal(mean, self.var**0.5)
            log_p_x = likelihood.log_prob(x).flatten(2).sum(dim=2)
        return log_p_x + (prior.log_prob(z) - q.log_prob(z)).sum(dim=2)

    def generate(self, labels):
        z = torch.randn(len(labels), self.latent_dim, device=labels.device)
        if hasattr(self.model, "generate"):
            return as_images(self.model.generate(z, self._labels(labels)), "generate")
        return self.decode(z, labels)


class JSATask(Task):
    """JSA: p(x, h) and q(h|x) learned from latent states that an MIS chain draws.

    Args:
        joint, proposal: the student's models.
        sampler: the student's MISampler over these two.
        jsa_loss: the student's loss, (joint, proposal, x, h) -> (-log p, -log q) batch means.
        log_importance_weight: the student's, (joint, proposal, x, h) -> log p(x, h) - log q(h|x).
        num_mis_steps: T, proposals an example and batch.
        cache_start_epoch: first epoch (counted from 1) that reads and writes the cache.
        chain_states: "last" trains on the chain's last state; "all" on the average over its T
            states, which lowers the variance and costs time.
        sigma, sigma_start: standard deviation of the Gaussian likelihood in the last epochs and
            in the first.
        lr_joint, lr_proposal: learning rates.
        code: "mode" encodes x as the mode of q(h|x); "best" as the candidate of largest log p(x, h)
            among the mode and `code_draws` draws of q; "posterior" as one of `code_draws` draws,
            taken in proportion to its importance weight.
    """

    def __init__(
        self,
        joint,
        proposal,
        sampler,
        jsa_loss,
        log_importance_weight,
        *,
        num_mis_steps=10,
        cache_start_epoch=1,
        chain_states="last",
        sigma=0.1,
        sigma_start=None,
        lr_joint=1e-3,
        lr_proposal=1e-3,
        code="mode",
        code_draws=20,
    ):
        super().__init__(nn.ModuleDict({"joint": joint, "proposal": proposal}))
        self.joint, self.proposal, self.sampler = joint, proposal, sampler
        self.jsa_loss, self.log_importance_weight = jsa_loss, log_importance_weight
        self.num_mis_steps = num_mis_steps
        self.cache_start_epoch = cache_start_epoch
        self.chain_states = chain_states
        self.sigma = sigma
        self.sigma_start = sigma if sigma_start is None else sigma_start
        self.lr_joint, self.lr_proposal = lr_joint, lr_proposal
        self.code, self.code_draws = code, code_draws
        self.use_cache = False
        self.batch = 0  # calls of `loss` since the epoch began
        self.code_kind = joint.latent
        self.num_categories = joint.num_categories

    def start_epoch(self, epoch, num_epochs):
        self.batch = 0
        self.use_cache = epoch >= self.cache_start_epoch
        progress = min(1.0, (epoch - 1) / max(1, ANNEAL * num_epochs))
        self.joint.sigma.fill_(self.sigma_start * (self.sigma / self.sigma_start) ** progress)

    def param_groups(self):
        return [
            {"params": self.joint.parameters(), "lr": self.lr_joint},
            {"params": self.proposal.parameters(), "lr": self.lr_proposal},
        ]

    def loss(self, x, labels, index):
        idx = index if self.use_cache else None
        before = self.sampler.cache.index_select(0, idx) if idx is not None else None
        with self.proposal.run_once(x):
            with torch.no_grad():
                h = self.sampler.sample(x, idx=idx, num_steps=self.num_mis_steps)
            if self.chain_states == "all":
                loss_joint, loss_proposal = self.chain_average_loss(x)
            else:
                loss_joint, loss_proposal = self.jsa_loss(self.joint, self.proposal, x, h)
        metrics = {"loss_joint": loss_joint.detach(), "loss_proposal": loss_proposal.detach()}
        if self.batch % MEASURE_EVERY == 0:
            metrics["acceptance"] = self.sampler.acceptance_rate()
            metrics["ess"] = self.sampler.effective_sample_size()
        self.batch += 1
        if idx is not None:
            changed = self.sampler.cache.index_select(0, idx) != before  # (B, K)
            metrics["moved"] = changed.any(dim=-1).float().mean()
        return loss_joint + loss_proposal, metrics

    def chain_average_loss(self, x):
        """`jsa_loss` averaged over the T states of each chain, not at its last state alone.

        A chain stays at most states for several steps, so each row it visited is scored by p once,
        with its share of the T steps as weight. q scores all rows: its cost is the encoder's, which
        runs once an image.
        """
        states, rows = self.sampler.states, self.sampler.rows  # (T+1, B, K), (T, B)
        weight = F.one_hot(rows, len(states)).sum(dim=0).T / rows.numel()  # (T+1, B), sums to 1
        row, example = weight.nonzero(as_tuple=True)  # (M,) each, M >= B
        log_p = self.joint.log_joint_prob(x[example], states[row, example])  # (M,)
        log_q = self.proposal.log_conditional_prob(states, x)[row, example]  # (M,)
        weight = weight[row, example]
        return -(weight * log_p).sum(), -(weight * log_q).sum()

    def log_weights(self, x, labels, num_samples):
        h = self.proposal.sample_latent(x, num_samples)  # (S, B, K)
        return self.log_importance_weight(self.joint, self.proposal, x, h)

    def diagnostics(self, x):
        """A one-draw estimate of the entropy of q(h|x), in nats."""
        h = self.proposal.sample_latent(x, 1)
        return {"entropy_q": -self.proposal.log_conditional_prob(h, x).mean()}

    def encode(self, x, labels):
        mode = self.proposal.encode(x)
        if self.code == "mode":
            return mode
        h = self.proposal.sample_latent(x, self.code_draws)  # (n, B, K)
        if self.code == "best":
            h = torch.cat([mode.unsqueeze(0), h])
            chosen = self.joint.log_joint_prob(x, h).argmax(dim=0)  # (B,)
        else:
            log_w = self.joint.log_joint_prob(x, h) - self.proposal.log_conditional_prob(h, x)
            chosen = torch.distributions.Categorical(logits=log_w.T).sample()  # (B,)
        return h[chosen, torch.arange(len(x), device=x.device)]

    def decode(self, code, labels):
        return as_images(self.joint.decode(code), "JointModel.decode")

    def generate(self, labels):
        h = self.joint.prior().sample((len(labels),))
        return self.decode(h, labels)


class ToyTask(JSATask):
    """JSA on points in the plane, with so few latent states that everything is exact.

    `--dataset gaussian2d` trains it; `diagnostics` and the picture enumerate all states.
    """

    def all_states(self) -> torch.Tensor:
        """Every value of h, [S, K]: S = 2^K bits or C^D categories."""
        num_values = 2 if self.joint.latent == "bernoulli" else self.joint.num_categories
        grid = torch.cartesian_prod(*[torch.arange(num_values)] * self.joint.latent_dim)
        grid = grid.reshape(-1, self.joint.latent_dim).to(self.joint.sigma.device)
        return grid.float() if self.joint.latent == "bernoulli" else grid

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

    def draw(self, dataset, folder, device, num_steps: int = 2000) -> None:
        """toy.png: data, learned density, and posteriors of four points by sum and by chain."""
        from matplotlib.figure import Figure

        x = dataset.images.to(device)
        ticks = torch.linspace(0, 1, 120, device=device)
        grid = torch.cartesian_prod(ticks, ticks)  # (14400, 2), first coordinate slowest
        density = self.exact(grid)[0].exp().reshape(120, 120).T.cpu().numpy()
        # Two points of the data and two between its clusters, where the posterior is shared.
        points = torch.stack([x[0], x[1], (x[0] + x[1]) / 2, x.mean(dim=0)])
        posterior = self.exact(points)[1].exp().T.cpu().numpy()  # (4, S)
        self.sampler.sample(points, num_steps=num_steps)
        visited = self.sampler.states[
            self.sampler.rows, torch.arange(4, device=device)
        ]  # (T, 4, K)
        matches = (visited.unsqueeze(2) == self.all_states()).all(dim=-1)  # (T, 4, S)
        histogram = matches.float().mean(dim=0).cpu().numpy()  # (4, S)

        figure = Figure(figsize=(12, 6), layout="constrained")
        axes = figure.subplots(2, 3).ravel()
        axes[0].scatter(*x.T.cpu().numpy(), s=3, alpha=0.5)
        axes[0].set_title("data")
        axes[3].imshow(density, origin="lower", extent=(0, 1, 0, 1), cmap="magma")
        axes[3].set_title("learned density p(x)")
        for axis in (axes[0], axes[3]):
            axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
            for number, point in enumerate(points.cpu().tolist(), start=1):
                axis.text(*point, str(number), color="red", ha="center", va="center", weight="bold")
        states = range(posterior.shape[1])
        for number, axis in enumerate(axes[[1, 2, 4, 5]]):
            axis.bar([s - 0.2 for s in states], posterior[number], 0.4, label="exact p(h|x)")
            axis.bar(
                [s + 0.2 for s in states], histogram[number], 0.4, label=f"MIS, {num_steps} steps"
            )
            axis.set_title(f"point {number + 1}")
            axis.set_xlabel("number of the state h")
        axes[1].legend()
        figure.savefig(folder / "toy.png", dpi=80)


class PatchTask(Task):
    """CGAE: prototypes learned from choices that one Gibbs sweep a batch draws.

    Args:
        joint: the student's PatchJoint.
        sampler: keeps the choices of every training image from one epoch to the next.
        gibbs_sweep: the student's function.
        beta, beta_start: inverse temperature in the last epochs and in the first.
        lr: learning rate of the prototypes.
    """

    code_kind = "categorical"

    def __init__(self, joint, sampler, gibbs_sweep, *, beta=30.0, beta_start=1.0, lr=2e-2):
        super().__init__(nn.ModuleDict({"joint": joint}))
        self.joint, self.sampler, self.gibbs_sweep = joint, sampler, gibbs_sweep
        self.beta, self.beta_start, self.lr = beta, beta_start, lr
        self.num_categories = joint.num_categories

    def start_epoch(self, epoch, num_epochs):
        progress = min(1.0, (epoch - 1) / max(1, ANNEAL * num_epochs))
        self.joint.beta.fill_(self.beta_start * (self.beta / self.beta_start) ** progress)
        taken = self.sampler.cache[(self.sampler.cache >= 0).all(dim=1)]
        if len(taken):
            count = torch.bincount(taken.flatten().long(), minlength=self.num_categories)
            self.joint.counts.copy_(count)

    def param_groups(self):
        return [{"params": self.joint.parameters(), "lr": self.lr}]

    def loss(self, x, labels, index):
        start = self.first_choices(x, index)
        choices = self.gibbs_sweep(x, start, self.joint.prototypes.detach(), self.joint.beta)
        if index is not None:
            self.sampler.cache[index] = choices.to(self.sampler.cache.dtype)
        loss = -self.joint.log_joint_prob(x, choices).mean()
        return loss, {"moved": (choices != start).float().mean(), **self.shares(choices)}

    def first_choices(self, x, index):
        """The cached choices; without, the faintest prototype in the upper left corner."""
        faintest = self.joint.prototypes.detach().square().sum(dim=(1, 2)).argmin()
        fresh = (faintest * self.joint.size**2).expand(len(x), self.joint.latent_dim)
        return self.sampler.start_state(fresh, index)

    def shares(self, choices):
        """The share of the most used prototype, and of the most used place, among the choices."""
        k, i, j = split_choices(choices, self.joint.size)
        count = [torch.bincount(used.flatten()).max() for used in (k, i * self.joint.size + j)]
        return {"top_prototype": count[0] / k.numel(), "top_place": count[1] / k.numel()}

    def encode(self, x, labels):
        """A few sweeps at falling temperature; the last one takes nearly always the best choice.

        In the limit of temperature 0 that is iterated conditional modes (Besag 1986).
        """
        choices = self.first_choices(x, None)
        for beta in ENCODING_BETAS:
            choices = self.gibbs_sweep(x, choices, self.joint.prototypes.detach(), beta)
        return choices

    def decode(self, code, labels):
        return as_images(self.joint.decode(code), "PatchJoint.decode").clamp(0, 1)

    def generate(self, labels):
        """Independent choices, each as often as it was taken in the epoch before."""
        shape = len(labels), self.joint.latent_dim
        choices = torch.multinomial(self.joint.counts, math.prod(shape), replacement=True)
        return self.decode(choices.reshape(shape), labels)

    def draw(self, dataset, folder, device) -> None:
        """patches.png: the prototypes, and four images put together patch by patch."""
        from matplotlib import colormaps
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle

        x = torch.stack([dataset[i][0] for i in range(min(4, len(dataset)))]).to(device)
        choices = self.encode(x, None)
        _, i, j = (part.cpu() for part in split_choices(choices, self.joint.size))
        prototypes = self.joint.prototypes.detach().cpu()
        num_patches, width = choices.shape[1], prototypes.shape[-1]
        steps = sorted({max(1, num_patches * s // 6) for s in range(1, 7)})
        columns = len(steps) + 2
        figure = Figure(figsize=(1.5 * columns, 1.6 * (len(x) + 1)), layout="constrained")
        upper, lower = figure.subfigures(2, 1, height_ratios=[1, len(x)])
        upper.suptitle("prototypes (red adds ink, blue takes it away)", fontsize=9)
        limit = prototypes.abs().max()
        places = upper.subplots(2, -(-len(prototypes) // 2), squeeze=False).flat
        for axis, prototype in zip(places, prototypes, strict=False):
            axis.imshow(prototype.numpy(), cmap="berlin", vmin=-limit, vmax=limit)
        colors = colormaps["hsv"](torch.linspace(0, 0.9, num_patches).numpy())
        rows = lower.subplots(len(x), columns, squeeze=False)
        for n, row in enumerate(rows):
            pictures = [x[n], *(self.decode(choices[n : n + 1, :s], None)[0] for s in steps)]
            titles = ["image", *(f"{s} patches" for s in steps)]
            for axis, picture, title in zip(row, pictures, titles, strict=False):
                axis.imshow(picture[0].cpu().numpy(), cmap="gray", vmin=0, vmax=1)
                axis.set_title(title if n == 0 else "", fontsize=8)
            row[-1].imshow(x[n, 0].cpu().numpy(), cmap="gray", vmin=0, vmax=2)
            row[-1].set_title("where they are" if n == 0 else "", fontsize=8)
            for h, color in enumerate(colors):
                corner = j[n, h] - width / 2, i[n, h] - width / 2
                row[-1].add_patch(Rectangle(corner, width, width, fill=False, color=color))
        for axis in figure.axes:
            axis.axis("off")
        figure.savefig(folder / "patches.png", dpi=80)


class AmortisedPatchTask(PatchTask):
    """CGAE with a proposal network: MIS in place of the Gibbs sweep, and JSA's two losses.

    Args:
        jsa: part 4's task object over PatchJoint and PatchProposal.
    """

    draws_at_once = 200  # each has H residuals, and each of these the logits of all choices

    def __init__(self, jsa, *, beta, beta_start, lr):
        names = {"beta": beta, "beta_start": beta_start, "lr": lr}
        super().__init__(jsa.joint, jsa.sampler, None, **names)
        self.jsa, self.model = jsa, jsa.model

    def start_epoch(self, epoch, num_epochs):
        super().start_epoch(epoch, num_epochs)
        self.jsa.use_cache = epoch >= self.jsa.cache_start_epoch
        self.jsa.batch = 0

    def param_groups(self):
        return self.jsa.param_groups()

    def loss(self, x, labels, index):
        loss, metrics = self.jsa.loss(x, labels, index)
        last = self.sampler.rows[-1], torch.arange(len(x), device=x.device)
        return loss, metrics | self.shares(self.sampler.states[last])

    def log_weights(self, x, labels, num_samples):
        return self.jsa.log_weights(x, labels, num_samples)

    def diagnostics(self, x):
        return self.jsa.diagnostics(x)

    def encode(self, x, labels):
        """The best by log p(x, h) of three draws of q(h|x)."""
        h = self.jsa.proposal.sample_latent(x, 3)  # (3, B, H)
        best = self.joint.log_joint_prob(x, h).argmax(dim=0)  # (B,)
        return h[best, torch.arange(len(x), device=x.device)]


# ----------------------------------------------------------------------------------------------
# From settings to a task object

TASKS = ("VAEwolabel", "Genwithlabel", "JSA", "CGAE")
VAE_DEFAULTS = {
    "latent_dim": 20,
    "likelihood": "gaussian",
    "binarize": "none",
    "epochs": 50,
    "batch_size": 50,
    "lr": 1e-3,
    "var": 0.05,
}
DEFAULTS = {
    "VAEwolabel": VAE_DEFAULTS | {"hidden": None},
    "Genwithlabel": VAE_DEFAULTS | {"var": 0.3},
    "JSA": {
        "dataset": "images",
        "latent_dim": 200,
        "latent": "bernoulli",
        "num_categories": 10,
        "likelihood": "gaussian",
        "hidden": None,
        "activation": "leaky_relu",
        "binarize": "none",
        "epochs": 45,
        "batch_size": 50,
        "lr_joint": 3e-3,
        "lr_proposal": 3e-3,
        "sigma": 0.25,
        "sigma_start": 0.5,
        "num_mis_steps": 10,
        "cache_start_epoch": None,  # train.py: the last third of the epochs
        "chain_states": "last",
        "code": "best",
        "code_draws": 20,
    },
    "CGAE": {
        "latent_dim": 14,
        "num_prototypes": 16,
        "patch_size": 7,
        "sampler": "gibbs",
        "binarize": "none",
        "epochs": 12,
        "batch_size": 100,
        "lr": 2e-2,
        "beta": 30.0,
        "beta_start": 1.0,
        "lr_proposal": 1e-3,
        "num_mis_steps": 2,
        "cache_start_epoch": 1,
    },
}
TOY_DEFAULTS = DEFAULTS["JSA"] | {
    "dataset": "gaussian2d",
    "latent": "categorical",
    "latent_dim": 1,
    "num_categories": 12,
    "hidden": [50, 50],
    "epochs": 40,
    "num_mis_steps": 5,
    "lr_joint": 1e-3,
    "lr_proposal": 1e-3,
    "code": "mode",
    "sigma": 0.05,
    "sigma_start": 0.05,
    "cache_start_epoch": 1,
}


def available_tasks(submission) -> tuple[str, ...]:
    """The tasks for which `submission` has a place: a course may leave parts out."""
    names = ("VAE", "GenModel", "JointModel", "PatchJoint")
    return tuple(task for task, name in zip(TASKS, names, strict=True) if hasattr(submission, name))


def make_task(submission, settings: dict, num_examples: int = 0, device="cpu") -> Task:
    """Build the task object from the student's classes and functions.

    Args:
        submission: the module (or any object) with the student's names.
        settings: values for the keys of DEFAULTS[settings["task"]].
        num_examples: size of the training split, for JSA's cache; 0 for inference.
        device: where the model goes.
    """
    if settings["task"] == "JSA":
        toy = settings["dataset"] == "gaussian2d"
        names = ("latent_dim", "latent", "num_categories", "likelihood", "hidden", "activation")
        arguments = {name: settings[name] for name in names}
        arguments["x_shape"] = (2,) if toy else (1, 28, 28)
        joint = submission.JointModel(sigma=settings["sigma"], **arguments).to(device)
        proposal = submission.ProposalModel(**arguments).to(device)
        sampler = submission.MISampler(joint, proposal, num_examples, device)
        names = ("num_mis_steps", "cache_start_epoch", "chain_states", "sigma", "sigma_start")
        names += ("lr_joint", "lr_proposal", "code", "code_draws")
        arguments = {name: settings[name] for name in names}
        kind = ToyTask if toy else JSATask
        functions = submission.jsa_loss, submission.log_importance_weight
        return kind(joint, proposal, sampler, *functions, **arguments)
    if settings["task"] == "CGAE":
        return make_patch_task(submission, settings, num_examples, device)
    use_labels = settings["task"] == "Genwithlabel"
    network = submission.GenModel if use_labels else submission.VAE
    arguments = {"latent_dim": settings["latent_dim"]}
    if settings.get("hidden") is not None:
        arguments["hidden"] = settings["hidden"]
    return VAETask(
        network(**arguments).to(device),
        submission.vae_loss,
        settings["latent_dim"],
        use_labels=use_labels,
        var=settings["var"],
        likelihood=settings["likelihood"],
    )


def make_patch_task(submission, settings: dict, num_examples: int, device) -> PatchTask:
    names = ("num_prototypes", "patch_size", "beta")
    arguments = {name: settings[name] for name in names}
    joint = submission.PatchJoint(settings["latent_dim"], **arguments).to(device)
    schedule = {name: settings[name] for name in ("beta", "beta_start", "lr")}
    if settings["sampler"] == "gibbs":
        sampler = BaseSampler(joint, None, num_examples, device)
        return PatchTask(joint, sampler, submission.gibbs_sweep, **schedule)
    proposal = submission.PatchProposal(joint).to(device)
    jsa = JSATask(
        joint,
        proposal,
        submission.MISampler(joint, proposal, num_examples, device),
        submission.jsa_loss,
        submission.log_importance_weight,
        num_mis_steps=settings["num_mis_steps"],
        cache_start_epoch=settings["cache_start_epoch"],
        lr_joint=settings["lr"],
        lr_proposal=settings["lr_proposal"],
    )
    return AmortisedPatchTask(jsa, **schedule)


# ----------------------------------------------------------------------------------------------
# What is still to do


def missing_todos(submission, task: str) -> list[str]:
    """The TODOs of a task whose functions still raise NotImplementedError, in their order.

    Read off the source text, so that all of them are found and not only the first that stops.
    """
    parts = {"VAEwolabel": ("2",), "Genwithlabel": ("2.3", "3"), "JSA": ("4",), "CGAE": ("5",)}
    parts = parts[task]
    if task == "Genwithlabel" and hasattr(submission.GenModel, "loss"):
        parts = ("3",)  # its own loss takes the place of vae_loss
    found = []
    for outer in ast.parse(inspect.getsource(submission)).body:
        prefix = f"{outer.name}." if isinstance(outer, ast.ClassDef) else ""
        for function in outer.body if prefix else [outer]:
            if not isinstance(function, ast.FunctionDef):
                continue
            code = ast.unparse(function)  # without comments
            for todo in re.findall(r"raise NotImplementedError\(.TODO (\d+(?:\.\d+)*)", code):
                if f"{todo}.".startswith(tuple(f"{part}." for part in parts)):
                    number = [int(n) for n in todo.split(".")]
                    found.append((number, f"TODO {todo} ({prefix}{function.name})"))
    return list(dict.fromkeys(text for _, text in sorted(found, key=lambda pair: pair[0])))


def todo_message(error: NotImplementedError, submission, task: str | None = None) -> str:
    """One line for a student whose unfinished `submission.py` raised `error`.

    Lists all that the task still needs; without a task, only where it stopped. An error that
    names no TODO is none of ours and goes on.
    """
    if not str(error).startswith("TODO "):
        raise error
    missing = missing_todos(submission, task) if task else []
    if not missing:
        return f"submission.py is not complete; it stopped at {error}"
    listed = ", ".join(missing)
    return f"submission.py is not complete for --task {task}; still to do, in this order: {listed}"
