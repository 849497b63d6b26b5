"""All that you write. Fill in the TODOs in this order; `pytest` says what already works.

    part 2    VAE (TODO 2.2.1 to 2.2.4), vae_loss (TODO 2.3)
    part 3    GenModel (TODO 3)
    part 4    JointModel and ProposalModel (TODO 4.1 to 4.3), the MIS step (TODO 4.4),
              MISampler (TODO 4.5), jsa_loss (TODO 4.6)
    part 5    render (TODO 5.1), patch_log_scores (TODO 5.2), gibbs_sweep (TODO 5.3),
              PatchJoint and PatchProposal (TODO 5.4)

Do not change names, arguments or what a function returns; everything inside is yours. You may add
functions and classes, and import from torch, numpy and model.py.

Shapes: x float32 [B, 1, 28, 28] in [0, 1]; labels int64 [B]; h float32 of 0/1 [B, K] (Bernoulli)
or int64 [B, D] (categorical); several draws come first, [S, B, K]. Every log-probability is in
nats and summed over the dimensions of one example: [B] or [S, B].
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from model import (
    BaseJointModel,
    BasePatchJoint,
    BasePatchProposal,
    BaseProposalModel,
    BaseSampler,
    Bits,
    conv_decoder,
    conv_encoder,
    draw,
    mlp,
    split_choices,
)

# ----------------------------------------------------------------------------------------------
# Part 2: the variational autoencoder (Kingma & Welling 2013, arXiv 1312.6114)


def reparameterize(mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """Draw z ~ N(mu, diag(exp(log_var))) so that gradients reach mu and log_var. (Given.)"""
    eps = torch.randn_like(mu)
    return mu + torch.exp(0.5 * log_var) * eps


class VAE(nn.Module):
    """q(z|x) = N(mu(x), diag(exp(log_var(x)))) and p(x|z) with mean decode(z).

    Args:
        latent_dim: length of z.
        hidden: widths of the hidden layers of an MLP, seen from x; None: convolutions.
    """

    def __init__(self, latent_dim: int = 20, hidden: list[int] | None = None):
        super().__init__()
        # TODO 2.2.1: the networks. The encoder maps x to mu and log_var, latent_dim numbers each;
        # the decoder maps z to 784 pixel logits. Hint: model.py has builders you may use.
        # BEGIN SOLUTION
        if hidden is None:
            self.encoder = conv_encoder(2 * latent_dim)
            self.decoder = conv_decoder(latent_dim)
        else:
            self.encoder = mlp([784, *hidden, 2 * latent_dim])
            self.decoder = mlp([latent_dim, *reversed(hidden), 784])
        # END SOLUTION

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [B, 1, 28, 28] -> mu and log_var, each [B, latent_dim]."""
        # TODO 2.2.2: run the encoder and split its output in two.
        # BEGIN SOLUTION
        mu, log_var = self.encoder(x).chunk(2, dim=-1)  # (B, latent_dim) each
        return mu, log_var
        # END SOLUTION

    def decode(self, z: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """z [B, latent_dim] -> images in [0, 1], [B, 1, 28, 28]; the labels are not used."""
        # TODO 2.2.3: run the decoder; a sigmoid brings its logits into [0, 1].
        # BEGIN SOLUTION
        return torch.sigmoid(self.decoder(z)).reshape(-1, 1, 28, 28)
        # END SOLUTION

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None):
        """x -> (recon_x, mu, log_var), with recon_x decoded from a draw z ~ q(z|x)."""
        # TODO 2.2.4: encode, draw z with `reparameterize`, decode.
        # BEGIN SOLUTION
        mu, log_var = self.encode(x)
        z = reparameterize(mu, log_var)
        return self.decode(z), mu, log_var
        # END SOLUTION


def vae_loss(
    recon_x: torch.Tensor,
    x: torch.Tensor,
    mu: torch.Tensor,
    log_var: torch.Tensor,
    var: float = 0.5,
    likelihood: str = "gaussian",
) -> torch.Tensor:
    """The negative ELBO in nats, up to the Gaussian's constant, averaged over the batch.

    Gaussian p(x|z) = N(recon_x, var I): ||x - recon_x||^2 / (2 var) + KL(q(z|x) || N(0, I)).
    Bernoulli p(x|z): the binary cross entropy of the pixels takes the place of the first term.
    KL = -1/2 sum_j (1 + log_var_j - mu_j^2 - exp(log_var_j))   (Kingma & Welling, appendix B)

    Args:
        recon_x, x: images in [0, 1], [B, 1, 28, 28].
        mu, log_var: the moments of q(z|x), [B, latent_dim].
        var: variance of the Gaussian likelihood.
        likelihood: "gaussian" or "bernoulli".

    Returns:
        A scalar: sums over the pixels and over the dimensions of z, then the mean over the batch.
    """
    # TODO 2.3: reconstruction term + KL term.
    # BEGIN SOLUTION
    batch = len(x)
    if likelihood == "gaussian":
        reconstruction = ((recon_x - x) ** 2).sum() / (2 * var)
    else:
        reconstruction = F.binary_cross_entropy(recon_x, x, reduction="sum")
    kl = -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum()
    return (reconstruction + kl) / batch
    # END SOLUTION


# ----------------------------------------------------------------------------------------------
# Part 3: drawing the digit one asks for


class GenModel(nn.Module):
    """Draws the digit it is asked for; the design is yours. The reference is a conditional VAE.

    The kit calls `forward(x, labels) -> (recon_x, mu, log_var)` and `decode(z, labels) -> images`
    only, with labels int64 [B] in 0..9. Two optional methods open the design:
    `loss(x, labels) -> scalar` replaces `vae_loss` in training, and
    `generate(z, labels) -> images` replaces `decode` for sampling, with z ~ N(0, I).

    Args:
        latent_dim: length of z (a shorter code earns a larger compression bonus).
    """

    def __init__(self, latent_dim: int = 20):
        super().__init__()
        # TODO 3: networks that know the label. Hint: `F.one_hot(labels, 10)` put beside z for the
        # decoder, and as ten constant planes beside the image for the encoder.
        # BEGIN SOLUTION
        self.encoder = conv_encoder(2 * latent_dim, in_channels=1 + 10)
        self.decoder = conv_decoder(latent_dim + 10)
        # END SOLUTION

    def encode(self, x: torch.Tensor, labels: torch.Tensor):
        """x [B, 1, 28, 28] and labels [B] -> mu and log_var, each [B, latent_dim]."""
        # TODO 3: the moments of q(z|x, label).
        # BEGIN SOLUTION
        one_hot = F.one_hot(labels, 10).to(x.dtype)  # (B, 10)
        planes = one_hot[:, :, None, None].expand(-1, -1, 28, 28)  # (B, 10, 28, 28)
        mu, log_var = self.encoder(torch.cat([x, planes], dim=1)).chunk(2, dim=-1)
        return mu, log_var
        # END SOLUTION

    def decode(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """z [B, latent_dim] and labels [B] -> images in [0, 1], [B, 1, 28, 28]."""
        # TODO 3: the mean of p(x|z, label).
        # BEGIN SOLUTION
        one_hot = F.one_hot(labels, 10).to(z.dtype)  # (B, 10)
        logits = self.decoder(torch.cat([z, one_hot], dim=-1))
        return torch.sigmoid(logits).reshape(-1, 1, 28, 28)
        # END SOLUTION

    def forward(self, x: torch.Tensor, labels: torch.Tensor):
        """x, labels -> (recon_x, mu, log_var)."""
        # TODO 3: as in the VAE.
        # BEGIN SOLUTION
        mu, log_var = self.encode(x, labels)
        z = reparameterize(mu, log_var)
        return self.decode(z, labels), mu, log_var
        # END SOLUTION


# ----------------------------------------------------------------------------------------------
# Part 4: joint stochastic approximation (Ou & Song, UAI 2020, arXiv 2005.14001)


class JointModel(BaseJointModel):
    """p(x, h) = p(h) p(x|h) with a uniform prior; see BaseJointModel for the arguments."""

    def build_net(self) -> nn.Module:
        """The network from h (`self.h_features` numbers) to `self.x_features` logits of x."""
        # TODO 4.1: an MLP through the widths `self.hidden` in reverse order; where `self.hidden`
        # is None, a convolutional network. Hint: `mlp`, `conv_decoder` and `self.activation`.
        # BEGIN SOLUTION
        if self.hidden is None:
            return conv_decoder(self.h_features, self.activation, width=16)
        sizes = [self.h_features, *reversed(self.hidden), self.x_features]
        return mlp(sizes, self.activation)
        # END SOLUTION

    def prior(self):
        """p(h), uniform; `log_prob(h)` sums over the latent dimensions."""
        # TODO 4.2: K bits with probability 1/2, or D categorical variables with logits 0.
        # Hint: `Bits(logits)` of model.py sums log_prob over the last dimension; so does
        # `Independent(distribution, 1)` of torch.distributions. More dimensions: 2, 3, ...
        # `self.sigma.new_zeros(...)` makes zeros on the model's device.
        # BEGIN SOLUTION
        if self.latent == "bernoulli":
            return Bits(self.sigma.new_zeros(self.latent_dim))
        logits = self.sigma.new_zeros(self.latent_dim, self.num_categories)
        return Independent(Categorical(logits=logits, validate_args=False), 1)
        # END SOLUTION

    def likelihood(self, h: torch.Tensor):
        """p(x|h) for h [B, K] or [S, B, K]; `log_prob(x)` sums over the entries of x."""
        # TODO 4.2: `self.x_logits(h)` runs the network, a sigmoid gives the mean. Depending on
        # `self.likelihood_kind`: N(mean, self.sigma^2), or Bernoulli(mean) for each pixel.
        # BEGIN SOLUTION
        logits = self.x_logits(h)  # ([S,] B, *x_shape)
        if self.likelihood_kind == "gaussian":
            pixels = Normal(torch.sigmoid(logits), self.sigma, validate_args=False)
            return Independent(pixels, len(self.x_shape))
        return Bits(logits, len(self.x_shape))
        # END SOLUTION

    def log_joint_prob(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """log p(x, h) in nats: x [B, ...] and h [B, K] or [S, B, K] -> [B] or [S, B]."""
        # TODO 4.2: log p(h) + log p(x|h).
        # BEGIN SOLUTION
        return self.prior().log_prob(h) + self.likelihood(h).log_prob(x)
        # END SOLUTION

    def decode(self, h: torch.Tensor) -> torch.Tensor:
        """The mean of p(x|h), in [0, 1]: h [B, K] -> [B, *x_shape]."""
        # TODO 4.2
        # BEGIN SOLUTION
        return torch.sigmoid(self.x_logits(h))
        # END SOLUTION


class ProposalModel(BaseProposalModel):
    """q(h|x), independent over the latent dimensions; see BaseProposalModel for the arguments."""

    def build_net(self) -> nn.Module:
        """The network from x (`self.x_features` numbers) to `self.h_features` logits of h."""
        # TODO 4.1: the mirror image of the joint model's network.
        # BEGIN SOLUTION
        if self.hidden is None:
            return conv_encoder(self.h_features, self.activation, width=16)
        return mlp([self.x_features, *self.hidden, self.h_features], self.activation)
        # END SOLUTION

    def proposal(self, x: torch.Tensor):
        """q(h|x) for x [B, ...]; `log_prob(h)` sums over the latent dimensions."""
        # TODO 4.3: `self.h_logits(x)` runs the network.
        # BEGIN SOLUTION
        logits = self.h_logits(x)  # (B, K) or (B, D, C)
        if self.latent == "bernoulli":
            return Bits(logits)
        return Independent(Categorical(logits=logits, validate_args=False), 1)
        # END SOLUTION

    def log_conditional_prob(self, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """log q(h|x) in nats: h [B, K] or [S, B, K] and x [B, ...] -> [B] or [S, B]."""
        # TODO 4.3
        # BEGIN SOLUTION
        return self.proposal(x).log_prob(h)
        # END SOLUTION

    def sample_latent(self, x: torch.Tensor, num_samples: int = 1) -> torch.Tensor:
        """Draw h ~ q(h|x) `num_samples` times: x [B, ...] -> [num_samples, B, K]."""
        # TODO 4.3
        # BEGIN SOLUTION
        return self.proposal(x).sample((num_samples,))
        # END SOLUTION

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The mode of q(h|x), the code of an image: x [B, ...] -> h [B, K]."""
        # TODO 4.3: the likelier value of each bit, or the likeliest category of each variable.
        # BEGIN SOLUTION
        logits = self.h_logits(x)
        if self.latent == "bernoulli":
            return (logits > 0).to(x.dtype)
        return logits.argmax(dim=-1)
        # END SOLUTION


def log_importance_weight(joint, proposal, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """log w(x, h) = log p(x, h) - log q(h|x), in nats: [B] or [S, B]."""
    # TODO 4.4
    # BEGIN SOLUTION
    return joint.log_joint_prob(x, h) - proposal.log_conditional_prob(h, x)
    # END SOLUTION


def mis_chain(log_w: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Walk Metropolis independence chains over states whose log weights are known.

    Step t proposes row t + 1 and moves there when log u[t] < log w(proposal) - log w(current);
    otherwise the chain stays where it is. A state of weight -inf is left by any finite proposal
    and never entered; where the difference is undefined (nan) the chain stays.

    Args:
        log_w: log importance weights in nats, [T+1, B]; row 0 is the current state.
        u: uniform numbers in [0, 1), [T, B].

    Returns:
        int64 [T, B]: the row of `log_w` each chain is at after each step.
    """
    # TODO 4.4: stay in log space, and carry the *current* state's row and weight along.
    # BEGIN SOLUTION
    log_u = torch.log(u)
    row = torch.zeros_like(log_w[0], dtype=torch.int64)  # (B,)
    current = log_w[0]  # (B,)
    rows = torch.empty(u.shape, dtype=torch.int64, device=u.device)
    for t in range(len(u)):
        accept = log_u[t] < log_w[t + 1] - current  # a comparison with nan is False
        row = torch.where(accept, t + 1, row)
        current = torch.where(accept, log_w[t + 1], current)
        rows[t] = row
    return rows
    # END SOLUTION


class MISampler(BaseSampler):
    """Metropolis independence sampling of p(h|x) with proposals from q(h|x)."""

    @staticmethod
    def log_acceptance_ratio(joint, proposal, x, h_new, h_old) -> torch.Tensor:
        """log of w(h_new) / w(h_old), in nats, before the minimum with 0: [B].

        Written out: p(x, h_new) q(h_old|x) / (p(x, h_old) q(h_new|x)).
        """
        # TODO 4.5: the q-ratio is upside down relative to the p-ratio.
        # BEGIN SOLUTION
        log_w_new = log_importance_weight(joint, proposal, x, h_new)
        log_w_old = log_importance_weight(joint, proposal, x, h_old)
        return log_w_new - log_w_old
        # END SOLUTION

    @torch.no_grad()
    def step(self, x, h_old=None, idx=None) -> torch.Tensor:
        """One MIS step from `h_old`; see `sample` for the arguments. Returns h, [B, K]."""
        # TODO 4.5: draw a proposal, accept or reject it, update the cache where idx is given.
        # Hint: `self.start_state(fresh, idx)` gives the cached states, `fresh` where there is none.
        # BEGIN SOLUTION
        fresh, h_new = self.proposal.sample_latent(x, 2)  # (B, K) each
        if h_old is None:
            h_old = self.start_state(fresh, idx)
        log_ratio = self.log_acceptance_ratio(self.joint, self.proposal, x, h_new, h_old)
        accept = torch.log(torch.rand_like(log_ratio)) < log_ratio  # (B,)
        h = torch.where(accept.unsqueeze(-1), h_new, h_old)
        if idx is not None:
            self.update_cache(idx, h)
        return h
        # END SOLUTION

    @torch.no_grad()
    def sample(self, x, h_init=None, idx=None, num_steps: int = 10) -> torch.Tensor:
        """Run `num_steps` MIS steps for each example and return the last states.

        Args:
            x: [B, ...].
            h_init: starting states [B, K]; None: the cached states, or draws of q where there is
                no cached state or no idx.
            idx: int64 [B], positions of the examples in the cache, which then receives the last
                states; None: the cache is neither read nor written.
            num_steps: T; with 0 the starting states come back.

        Returns:
            h [B, K]. `self.record` keeps all states, their log weights and the chains' rows.
        """
        # TODO 4.5: one encoder call gives q(h|x); draw all T proposals (and fresh starting states)
        # at once, score all T+1 states at once under *today's* parameters, walk with mis_chain.
        # BEGIN SOLUTION
        q = self.proposal.proposal(x)
        states = q.sample((num_steps + 1,))  # (T+1, B, K)
        states[0] = self.start_state(states[0], idx) if h_init is None else h_init
        log_w = self.joint.log_joint_prob(x, states) - q.log_prob(states)  # (T+1, B)
        u = torch.rand(num_steps, len(x), device=x.device)
        rows = mis_chain(log_w, u)  # (T, B)
        self.record(states, log_w, rows)
        last = rows[-1] if num_steps > 0 else torch.zeros_like(log_w[0], dtype=torch.int64)
        h = states[last, torch.arange(len(x), device=x.device)]  # (B, K)
        if idx is not None:
            self.update_cache(idx, h)
        return h
        # END SOLUTION

    def update_cache(self, idx: torch.Tensor, h: torch.Tensor) -> None:
        """Store the states h [B, K] of the examples idx [B] in `self.cache`."""
        # TODO 4.5
        # BEGIN SOLUTION
        self.cache[idx] = h.to(self.cache.dtype)
        # END SOLUTION


def jsa_loss(joint, proposal, x: torch.Tensor, h: torch.Tensor):
    """The two objectives of JSA for states h drawn by the chain: (-log p(x, h), -log q(h|x)).

    h is data for both: no gradient flows through it.

    Args:
        x: [B, ...]; h: [B, K].

    Returns:
        Two scalars, batch means in nats.
    """
    # TODO 4.6
    # BEGIN SOLUTION
    h = h.detach()
    return -joint.log_joint_prob(x, h).mean(), -proposal.log_conditional_prob(h, x).mean()
    # END SOLUTION


# ----------------------------------------------------------------------------------------------
# Part 5 (challenge): an image as a sum of movable patches


def render(
    choices: torch.Tensor, prototypes: torch.Tensor, size: int = 28, overwrite: bool = False
) -> torch.Tensor:
    """The image that places one prototype for each choice, o = sum over h of k_h at (i_h, j_h).

    Args:
        choices: int64 [..., H], each one of K * size * size; `split_choices` says which.
        prototypes: [K, R, R] with R odd. The middle of a prototype comes to pixel (i, j), and what
            hangs over the border is cut off.
        size: height and width of the image.
        overwrite: a later patch (of larger h) replaces what is below its R x R pixels, instead of
            being added.

    Returns:
        [..., 1, size, size]; gradients reach the prototypes.
    """
    # TODO 5.1: a canvas with a margin of R // 2 takes all R * R pixels of every patch; cut the
    # margin off at the end. Hint: `scatter_add` adds all pixels of all patches at once.
    # BEGIN SOLUTION
    width, lead = prototypes.shape[-1], choices.shape[:-1]
    k, i, j = split_choices(choices.reshape(-1, choices.shape[-1]), size)  # (N, H) each
    wide, margin = size + width - 1, width // 2
    steps = torch.arange(width, device=choices.device)
    inside = (steps.unsqueeze(1) * wide + steps).flatten()  # (R*R,), pixels of a patch at (0, 0)
    index = (i * wide + j).unsqueeze(-1) + inside  # (N, H, R*R)
    patches = prototypes.flatten(1)[k]  # (N, H, R*R)
    canvas = patches.new_zeros(len(k), wide * wide)
    if overwrite:
        for h in range(k.shape[1]):
            canvas = canvas.scatter(1, index[:, h], patches[:, h])
    else:
        canvas = canvas.scatter_add(1, index.flatten(1), patches.flatten(1))
    inner = slice(margin, margin + size)
    return canvas.reshape(*lead, 1, wide, wide)[..., inner, inner]
    # END SOLUTION


def patch_log_scores(
    residual: torch.Tensor, prototypes: torch.Tensor, beta: float | torch.Tensor
) -> torch.Tensor:
    """The log-probability of every choice for one component, given what it has to explain.

    log softmax over (k, i, j) of -beta ||r - w||^2, where w is prototype k placed at (i, j).

    Args:
        residual: r, [N, 1, S, S].
        prototypes: [K, R, R] with R odd.
        beta: inverse temperature, 1 / (2 sigma^2) of a Gaussian likelihood.

    Returns:
        [N, K * S * S], in the order of `split_choices`; each row is normalised.
    """
    # TODO 5.2: ||r - w||^2 = ||r||^2 - 2 <r, w> + ||w||^2, and ||r||^2 is the same for all. One
    # convolution gives all <r, w>. ||w||^2 counts only the pixels of w inside the image.
    # BEGIN SOLUTION
    weights, margin = prototypes.unsqueeze(1), prototypes.shape[-1] // 2
    inner = F.conv2d(residual, weights, padding=margin)  # (N, K, S, S)
    square = F.conv2d(torch.ones_like(residual[:1]), weights**2, padding=margin)  # (1, K, S, S)
    return torch.log_softmax((beta * (2 * inner - square)).flatten(1), dim=1)
    # END SOLUTION


@torch.no_grad()
def gibbs_sweep(
    x: torch.Tensor,
    choices: torch.Tensor,
    prototypes: torch.Tensor,
    beta: float | torch.Tensor,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draw every component anew, one after the other, each given all others.

    Args:
        x: [B, 1, S, S].
        choices: int64 [B, H], the current state; it is left as it is.
        prototypes: [K, R, R]; beta: as in `patch_log_scores`.
        generator: source of the random numbers; None: PyTorch's global one.

    Returns:
        int64 [B, H], one step of a chain that leaves p(choices | x) as it is.
    """
    # TODO 5.3: carry the residual x - o along. Take component h out of o, score all choices for
    # its place, draw one (`draw(log_p, generator)` is given), put that one in.
    # BEGIN SOLUTION
    size, choices = x.shape[-1], choices.clone()
    residual = x - render(choices, prototypes, size)
    for h in range(choices.shape[1]):
        one = choices[:, h : h + 1]  # (B, 1), a view of `choices`
        residual = residual + render(one, prototypes, size)
        one.copy_(draw(patch_log_scores(residual, prototypes, beta), generator))
        residual = residual - render(one, prototypes, size)
    return choices
    # END SOLUTION


class PatchJoint(BasePatchJoint):
    """p(x, h): H choices, uniform and independent, and x ~ N(o(h), I / (2 beta))."""

    def decode(self, h: torch.Tensor) -> torch.Tensor:
        """o(h), the mean of p(x|h): h int64 [..., H] -> [..., 1, S, S]."""
        # TODO 5.4: `self.prototypes` and `self.size` are given.
        # BEGIN SOLUTION
        return render(h, self.prototypes, self.size)
        # END SOLUTION

    def log_joint_prob(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """log p(x, h) in nats: x [B, 1, S, S] and h [B, H] or [S, B, H] -> [B] or [S, B]."""
        # TODO 5.4: log p(h) of H choices out of `self.num_categories` + log p(x|h), with the
        # Gaussian's constant. The prototypes learn through the gradient of this.
        # BEGIN SOLUTION
        log_prior = -self.latent_dim * math.log(self.num_categories)
        pixels = Normal(self.decode(h), (2 * self.beta) ** -0.5, validate_args=False)
        return log_prior + Independent(pixels, 3).log_prob(x)
        # END SOLUTION


class PatchProposal(BasePatchProposal):
    """q(h|x), component by component: q(h_1|x) q(h_2|x, h_1) ... by one network.

    The network sees what the components before leave unexplained, x minus their patches.
    """

    def sample_latent(self, x: torch.Tensor, num_samples: int = 1) -> torch.Tensor:
        """Draw h ~ q(h|x) `num_samples` times: x [B, 1, S, S] -> int64 [num_samples, B, H]."""
        # TODO 5.4: `self.choice_log_probs(residual)` runs the network, [N, 1, S, S] -> [N, K*S*S];
        # `self.prototypes()` are the joint model's, without gradient.
        # BEGIN SOLUTION
        size, residual = x.shape[-1], x.repeat(num_samples, 1, 1, 1)  # (num_samples * B, 1, S, S)
        choices = []
        for _ in range(self.latent_dim):
            choices.append(draw(self.choice_log_probs(residual)))  # (num_samples * B, 1)
            residual = residual - render(choices[-1], self.prototypes(), size)
        return torch.cat(choices, dim=1).reshape(num_samples, len(x), self.latent_dim)
        # END SOLUTION

    def log_conditional_prob(self, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """log q(h|x) in nats: h [B, H] or [S, B, H] and x [B, 1, S, S] -> [B] or [S, B]."""
        # TODO 5.4: here all H residuals are known at once. Hint: `cumsum` over the single patches.
        # BEGIN SOLUTION
        patches = render(h.unsqueeze(-1), self.prototypes(), x.shape[-1])  # ([S,] B, H, 1, S, S)
        before = patches.cumsum(dim=-4) - patches  # of the components 1 ... h-1
        residual = x.unsqueeze(-4) - before  # ([S,] B, H, 1, S, S)
        log_p = self.choice_log_probs(residual.flatten(0, -4))  # (N, K*S*S)
        chosen = log_p.gather(1, h.reshape(-1, 1))  # (N, 1)
        return chosen.reshape(h.shape).sum(dim=-1)
        # END SOLUTION
