"""What submission.py derives from: network builders and base classes (provided: do not modify)."""

import contextlib
import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

ACTIVATIONS = {
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}

# Standard deviation of the first component logits of a mixture prior. While codes are still like
# coin flips, a component far from these loses all examples to others, and never gets them back.
INITIAL_SPREAD = 0.05

# ----------------------------------------------------------------------------------------------
# Network builders: a demo that a student may use, copy or replace


def mlp(sizes: list[int], activation: str = "leaky_relu") -> nn.Sequential:
    """Fully connected layers sizes[0] -> ... -> sizes[-1] on flattened input; two sizes: linear.

    Input [N, ...] with sizes[0] entries per example, output [N, sizes[-1]].
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
        nn.Conv2d(in_channels, width, 4, stride=2, padding=1),  # (N, width, 14, 14)
        act(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),  # (N, 2 * width, 7, 7)
        act(),
        nn.Flatten(),  # (N, 2 * width * 49)
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
        nn.Linear(in_features, 2 * width * 7 * 7),  # (N, 2 * width * 49)
        act(),
        nn.Unflatten(1, (2 * width, 7, 7)),  # (N, 2 * width, 7, 7)
        nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),  # (N, width, 14, 14)
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


class Features:
    """The numbers that stand for h in a network or a matrix product: bits as they are, categories
    one-hot.

    Inside `differentiable` those of one h have a gradient, which tells how log p(x, h) changes
    with each entry of h (kit/chains.py).
    """

    def __init__(self, latent: str, num_categories: int):
        self.latent, self.num_categories = latent, num_categories
        self.watched: tuple[torch.Tensor, torch.Tensor] | None = None  # inside `differentiable`

    def __call__(self, h: torch.Tensor) -> torch.Tensor:
        """h [..., K] -> [..., K] for bits; h [..., D] -> [..., D * C] for categories; floats."""
        if self.watched is not None and self.watched[0] is h:
            return self.watched[1]
        if self.latent == "bernoulli":
            return h
        one_hot = F.one_hot(h.long(), self.num_categories)  # (..., D, C)
        return one_hot.flatten(-2).to(torch.get_default_dtype())  # (..., D * C)

    @contextlib.contextmanager
    def differentiable(self, h: torch.Tensor):
        """Inside the block `self(h)` is the tensor that the block gets, which takes a gradient."""
        features = self(h).detach().clone().requires_grad_()
        self.watched = h, features
        try:
            yield features
        finally:
            self.watched = None


class LatentModel(nn.Module):
    """What the joint model and the proposal share: the kind of latent, sizes and the network.

    Args:
        latent_dim: K bits (Bernoulli) or D categorical variables.
        latent: "bernoulli" (h float32 of 0/1, [..., K]) or "categorical" (h int64, [..., D]).
        num_categories: C, values of one categorical variable; unused for bits.
        likelihood: "gaussian" or "bernoulli", the family of p(x|h).
        sigma: standard deviation of the Gaussian likelihood; a buffer, so that it may be annealed
            and is stored in checkpoints.
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
        sigma: float = 1.0,
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
        self.net = net if net is not None else self.build_net()

    @property
    def device(self) -> torch.device:
        """Where the model is; what it makes anew has to be there too."""
        return self.sigma.device

    def build_net(self) -> nn.Module:
        raise NotImplementedError("a subclass builds the network")


class BaseMixturePrior(nn.Module):
    """The parameters of a prior that learns: p(h) = sum_m pi_m prod_j p(h_j|m).

    Args:
        num_components: M.
        latent_dim, latent, num_categories: as in LatentModel.

    Attributes:
        mixture_logits: [M]; pi is their softmax.
        component_logits: of p(h_j = 1|m), [M, K], for bits; of p(h_j = c|m), [M, D, C], for
            categories.
        h_numbers: what turns h into numbers, see `Features`.
    """

    def __init__(
        self,
        num_components: int,
        latent_dim: int,
        *,
        latent: str = "bernoulli",
        num_categories: int = 10,
    ):
        super().__init__()
        self.latent_dim, self.latent, self.num_categories = latent_dim, latent, num_categories
        self.h_numbers = Features(latent, num_categories)
        values = [num_categories] if latent == "categorical" else []
        self.mixture_logits = nn.Parameter(torch.zeros(num_components))
        # Equal components would have equal gradients, and so stay equal.
        start = INITIAL_SPREAD * torch.randn(num_components, latent_dim, *values)
        self.component_logits = nn.Parameter(start)

    def log_prob(self, h: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("a subclass sums over the components")

    def sample(self, sample_shape: tuple[int, ...] = ()) -> torch.Tensor:
        raise NotImplementedError("a subclass draws a component, then h")


class BaseJointModel(LatentModel):
    """p(x, h) = p(h) p(x|h); `self.net` maps h (one-hot if categorical) to logits of x.

    Args:
        mixture: the prior that learns, whose parameters become a part of this model; None where
            the prior is uniform.
        others: see LatentModel.
    """

    def __init__(self, latent_dim: int, *, mixture: BaseMixturePrior | None = None, **others):
        super().__init__(latent_dim, **others)
        self.mixture = mixture
        # The mixture's own, where there is one, so that one gradient sees both terms.
        own = Features(self.latent, self.num_categories)
        self.h_numbers = own if mixture is None else mixture.h_numbers

    def x_logits(self, h: torch.Tensor) -> torch.Tensor:
        """Run the network: h [..., K] -> logits of the mean of x, [..., *x_shape]."""
        features = self.h_numbers(h).to(self.sigma.dtype)  # (..., h_features)
        logits = self.net(features.reshape(-1, self.h_features))
        return logits.reshape(*features.shape[:-1], *self.x_shape)


class Remembered(NamedTuple):
    """What the proposal's network gave for one batch."""

    x: torch.Tensor
    logits: torch.Tensor


class BaseProposalModel(LatentModel):
    """q(h|x); `self.net` maps x to logits of h."""

    remembered: Remembered | None = None  # inside `run_once`

    def h_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network: x [B, *x_shape] -> logits [B, K], or [B, D, C] if categorical."""
        if self.remembered is not None and self.remembered.x is x:
            logits = self.remembered.logits.clone()  # so that no caller can change another's
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
            self.remembered = Remembered(x, self.net(x))
        try:
            yield
        finally:
            self.remembered = None


class StateCache:
    """One latent state for each example of the training split.

    All access goes through the methods here, so that nobody else has to know how a state is stored
    and which entries no chain has visited yet.

    Args:
        num_examples: N rows; 0 for a sampler without a cache.
        latent_dim: K or D.
        latent: "bernoulli" (stored as uint8) or "categorical" (as int16).
        device: where the table lives.
    """

    def __init__(self, num_examples: int, latent_dim: int, latent: str, device="cpu"):
        dtype = torch.int16 if latent == "categorical" else torch.uint8
        # -1 marks entries that no chain has visited; in uint8 it wraps to 255.
        self.not_visited = int(torch.tensor(-1).to(dtype))
        shape = num_examples, latent_dim
        self.table = torch.full(shape, self.not_visited, dtype=dtype, device=device)

    def get(self, fresh: torch.Tensor, idx: torch.Tensor) -> torch.Tensor:
        """The states of the examples idx [B], and `fresh` [B, K] where there is none: [B, K]."""
        cached = self.rows(idx)
        visited = cached[:, :1] != self.not_visited  # (B, 1): a state is stored as a whole
        return torch.where(visited, cached.to(fresh.dtype), fresh)

    def put(self, idx: torch.Tensor, h: torch.Tensor) -> None:
        """Store the states h [B, K] of the examples idx [B]."""
        self.table[idx] = h.to(self.table.dtype)

    def rows(self, idx: torch.Tensor) -> torch.Tensor:
        """A copy of what is stored for the examples idx [B], for `moved`: [B, K]."""
        return self.table.index_select(0, idx)  # faster than self.table[idx]

    def moved(self, idx: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """The share of the examples idx whose state is another than in `before`, of `rows`."""
        return (self.rows(idx) != before).any(dim=-1).float().mean()

    def visited(self) -> torch.Tensor:
        """All states that some chain has left here, [n, K] with n <= N."""
        return self.table[(self.table != self.not_visited).all(dim=1)]

    def share(self, processes) -> None:
        """Give every one of the processes that train together all rows; each knows its own."""
        processes.share_rows(self.table)

    # Submissions of version 1.0 index the cache like the tensor that it was.
    def __getitem__(self, idx: torch.Tensor) -> torch.Tensor:
        return self.table[idx]

    def __setitem__(self, idx: torch.Tensor, h: torch.Tensor) -> None:
        self.table[idx] = h

    @property
    def dtype(self) -> torch.dtype:
        return self.table.dtype

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"cache": self.table}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Copy a table in, from whatever device it was saved on.

        Raises:
            ValueError: it has another size or type.
        """
        table = state["cache"]
        if table.shape != self.table.shape or table.dtype != self.table.dtype:
            raise ValueError(
                f"the checkpoint's cache is {table.dtype} {list(table.shape)}, this run needs "
                f"{self.table.dtype} {list(self.table.shape)}: other data or another latent"
            )
        self.table.copy_(table)


class BaseSampler:
    """Runs chains, and owns the cache of their states.

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
        self.cache = StateCache(num_examples, joint.latent_dim, joint.latent, device)
        self.states = self.log_w = self.rows = None

    def start_state(self, fresh: torch.Tensor, idx: torch.Tensor | None) -> torch.Tensor:
        """Where the chains start: the cached states, and `fresh` where there is none.

        Args:
            fresh: draws of q, [B, K].
            idx: int64 [B], positions of the examples in the cache; None: use no cache.
        """
        return fresh if idx is None else self.cache.get(fresh, idx)

    def record(self, states: torch.Tensor, log_w: torch.Tensor, rows: torch.Tensor) -> None:
        """Keep the last call's chain for the diagnostics and for `--chain_states all`.

        Args:
            states: [T+1, B, K], the starting state and the T proposals.
            log_w: [T+1, B], their log importance weights in nats.
            rows: int64 [T, B], the row of `states` each chain is at after each step.
        """
        self.states, self.log_w, self.rows = states, log_w, rows

    @contextlib.contextmanager
    def unrecorded(self):
        """What `record` keeps inside the block is forgotten after it."""
        before = self.states, self.log_w, self.rows
        try:
            yield
        finally:
            self.states, self.log_w, self.rows = before

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


# ----------------------------------------------------------------------------------------------
# Base classes and helpers of part 5


def split_choices(choices: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """Prototype k, row i and column j of choices (k * size + i) * size + j, each [...]."""
    place = choices % (size * size)
    return choices // (size * size), place // size, place % size


def sample_categorical(
    log_p: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """One draw per row of log-probabilities [N, C]: int64 [N, 1], by one uniform number per row.

    The draw is the first category at which the cumulative probability exceeds the number.
    """
    cumulative = log_p.exp().cumsum(dim=1)  # (N, C)
    u = torch.rand(len(log_p), 1, generator=generator, device=log_p.device)
    found = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)
    return found.clamp(max=log_p.shape[1] - 1)  # where rounding took u * sum up to the sum


draw = sample_categorical  # its name in version 1.0, for submissions of that time


class BasePatchJoint(nn.Module):
    """p(x, h) of part 5: its prototypes, and how often each choice was taken in training.

    Args:
        latent_dim: H, patches per image.
        num_prototypes: K.
        patch_size: R, odd.
        beta: 1 / (2 sigma^2) of the Gaussian likelihood; a buffer, since it follows a schedule.
        size: S, height and width of the image.
    """

    latent = "categorical"

    def __init__(
        self,
        latent_dim: int,
        *,
        num_prototypes: int,
        patch_size: int,
        beta: float,
        size: int = 28,
    ):
        super().__init__()
        self.latent_dim, self.size = latent_dim, size
        self.num_categories = num_prototypes * size * size
        self.prototypes = nn.Parameter(0.5 * torch.rand(num_prototypes, patch_size, patch_size))
        self.register_buffer("beta", torch.tensor(float(beta)))
        self.register_buffer("counts", torch.ones(self.num_categories))

    def prior(self):
        """p(h), uniform; `log_prob(h)` sums over the patches."""
        logits = torch.zeros(self.latent_dim, self.num_categories, device=self.prototypes.device)
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
        # As an attribute of its own the joint model would become a part of this one, and its
        # prototypes parameters of q. In a dictionary nn.Module does not look for modules.
        self.others = {"joint": joint}
        k, r, _ = joint.prototypes.shape
        if net is None:
            net = nn.Sequential(
                nn.Conv2d(1, width, r, padding=r // 2),  # (N, width, S, S)
                nn.LeakyReLU(),
                nn.Conv2d(width, k, 1),  # (N, K, S, S)
                nn.Flatten(),  # (N, K * S * S)
            )
        self.net = net

    def prototypes(self) -> torch.Tensor:
        """The joint model's prototypes of this moment, [K, R, R], without gradient."""
        return self.others["joint"].prototypes.detach()

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
