"""All that you write. Fill in the TODOs in this order; `pytest` says what already works.

    part 2    VAE (TODO 2.2.1 to 2.2.4), vae_loss (TODO 2.3)
    part 3    GenModel (TODO 3)
    part 4    JointModel and ProposalModel (TODO 4.1 to 4.3), log_importance_weight and mis_chain,
              the weight of a state and the walk of a chain (TODO 4.4), MISampler (TODO 4.5),
              jsa_loss (TODO 4.6), MixturePrior (TODO 4.7)
    part 5    render (TODO 5.1), patch_log_scores (TODO 5.2), gibbs_sweep (TODO 5.3),
              PatchJoint and PatchProposal (TODO 5.4)

Do not change names, arguments or what a function returns; everything inside is yours. You may add
functions and classes, and import from torch, numpy and model.py.

Shapes: x float32 [B, 1, 28, 28] in [0, 1]; labels int64 [B]; h float32 of 0/1 [B, K] (Bernoulli)
or int64 [B, D] (categorical; read D for K). Several samples come first, [S, B, K]. Every
log-probability is in nats and summed over the dimensions of one example: [B] or [S, B].

Three rules hold in every TODO, and the tests check them:
1. Leave the tensors that you are given as they are; change none of them in place.
2. Never set a random seed. Every call samples new random numbers, for each example its own.
3. Compute log-probabilities from logits. The probability of 784 pixels is 0 in float32; its
   logarithm is not.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from model import (
    BaseJointModel,
    BaseMixturePrior,
    BasePatchJoint,
    BasePatchProposal,
    BaseProposalModel,
    BaseSampler,
    Bits,
    conv_decoder,
    conv_encoder,
    mlp,
    sample_categorical,
    split_choices,
)

# ----------------------------------------------------------------------------------------------
# Part 2: the variational autoencoder (Kingma & Welling 2013, arXiv 1312.6114)


def reparameterize(mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """Sample z ~ N(mu, diag(exp(log_var))) so that gradients reach mu and log_var. (Given.)"""
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
        # BatchNorm and Dropout are allowed. In eval mode (`vae.eval()`) mu, log_var and the image
        # of a z must not be random, nor depend on the rest of the batch. The tests train the VAE
        # for 120 steps of Adam (learning rate 4e-3, batches of 32, the loss of TODO 2.3 with
        # var 0.1) on simple images: the squared error must fall by at least 40 %.
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
        # TODO 2.2.2: run the encoder and split its output in two. log_var is the logarithm of the
        # variance, so it may be any number.
        # BEGIN SOLUTION
        mu, log_var = self.encoder(x).chunk(2, dim=-1)  # (B, latent_dim) each
        return mu, log_var
        # END SOLUTION

    def decode(self, z: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """z [B, latent_dim] -> images in [0, 1], [B, 1, 28, 28]; the labels are not used."""
        # TODO 2.2.3: run the decoder, then one sigmoid. It brings the logits into [0, 1]. Nothing
        # is random here.
        # BEGIN SOLUTION
        return torch.sigmoid(self.decoder(z)).reshape(-1, 1, 28, 28)
        # END SOLUTION

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None):
        """x -> (recon_x, mu, log_var), with recon_x decoded from a sample z ~ q(z|x)."""
        # TODO 2.2.4: encode, sample z with `reparameterize`, decode. Sample in eval mode too.
        # Gradients of recon_x must reach the encoder, through mu and through log_var.
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
    # TODO 2.3: reconstruction term + KL term. Sum over pixels and over the dimensions of z, then
    # divide by B. Gradients reach recon_x, mu and log_var. The Bernoulli loss stays finite where
    # recon_x is exactly 0 or 1. Hint: `F.binary_cross_entropy` does, and see its `reduction`.
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
# Part 3: generating the digit one asks for


class GenModel(nn.Module):
    """Generates the digit it is asked for; the design is yours. A conditional VAE is one way.

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
        # decoder, and as ten constant planes beside the image for the encoder. The tests train the
        # model for 250 steps of Adam (learning rate 5e-3, batches of 32) on `vae_loss` with var 1,
        # or on its own `loss`. Then at least half of its samples must look like the digit asked
        # for, and the samples of one digit must differ.
        # BEGIN SOLUTION
        self.encoder = conv_encoder(2 * latent_dim, in_channels=1 + 10)
        self.decoder = conv_decoder(latent_dim + 10)
        # END SOLUTION

    def encode(self, x: torch.Tensor, labels: torch.Tensor):
        """x [B, 1, 28, 28] and labels [B] -> mu and log_var, each [B, latent_dim]."""
        # TODO 3: the moments of q(z|x, label). As in the VAE, they are not random in eval mode and
        # do not depend on the rest of the batch.
        # BEGIN SOLUTION
        one_hot = F.one_hot(labels, 10).to(x.dtype)  # (B, 10)
        planes = one_hot[:, :, None, None].expand(-1, -1, 28, 28)  # (B, 10, 28, 28)
        mu, log_var = self.encoder(torch.cat([x, planes], dim=1)).chunk(2, dim=-1)
        return mu, log_var
        # END SOLUTION

    def decode(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """z [B, latent_dim] and labels [B] -> images in [0, 1], [B, 1, 28, 28]."""
        # TODO 3: the mean of p(x|z, label). Not random; independent of the rest of the batch in
        # eval mode; for one z another label gives another image.
        # BEGIN SOLUTION
        one_hot = F.one_hot(labels, 10).to(z.dtype)  # (B, 10)
        logits = self.decoder(torch.cat([z, one_hot], dim=-1))
        return torch.sigmoid(logits).reshape(-1, 1, 28, 28)
        # END SOLUTION

    def forward(self, x: torch.Tensor, labels: torch.Tensor):
        """x, labels -> (recon_x, mu, log_var)."""
        # TODO 3: encode, sample z, decode. Inference stores mu as the code of x, so decode(mu,
        # labels) must be at least about as close to x as recon_x.
        # BEGIN SOLUTION
        mu, log_var = self.encode(x, labels)
        z = reparameterize(mu, log_var)
        return self.decode(z, labels), mu, log_var
        # END SOLUTION


# ----------------------------------------------------------------------------------------------
# Part 4: joint stochastic approximation (Ou & Song, UAI 2020, arXiv 2005.14001)


class JointModel(BaseJointModel):
    """p(x, h) = p(h) p(x|h); see BaseJointModel for the arguments."""

    def build_net(self) -> nn.Module:
        """The network from h (`self.h_features` numbers) to `self.x_features` logits of x."""
        # TODO 4.1: the network of p(x|h). An MLP of `nn.Linear` layers: widths `self.hidden` in
        # reverse order, an activation between any two; `hidden=[]` is one linear layer. Where
        # `self.hidden` is None, any network for digits. No activation at the end, for logits may
        # be any numbers. Every parameter gets a gradient. Hint: `mlp`, `conv_decoder` and
        # `self.activation`.
        # BEGIN SOLUTION
        if self.hidden is None:
            return conv_decoder(self.h_features, self.activation, width=16)
        sizes = [self.h_features, *reversed(self.hidden), self.x_features]
        return mlp(sizes, self.activation)
        # END SOLUTION

    def prior(self):
        """p(h) as an object with `log_prob(h)` and `sample((S,))`, [S, K]."""
        # TODO 4.2: the prior that learns, `self.mixture`, where it is not None (TODO 4.7 makes it
        # work); else the uniform distribution of h. Where `self.latent` is "bernoulli", that is K
        # bits with probability 1/2; where it is "categorical", D variables with
        # `self.num_categories` equally likely values. `log_prob(h)` sums over the latent
        # dimensions. Hint: `Bits(logits)` of model.py does, and so does
        # `Independent(Categorical(logits=...), 1)`, where 1 is how many dimensions are summed. A
        # new tensor belongs on the model's device: `torch.zeros(..., device=self.device)`.
        # BEGIN SOLUTION
        if self.mixture is not None:
            return self.mixture
        if self.latent == "bernoulli":
            return Bits(torch.zeros(self.latent_dim, device=self.device))
        logits = torch.zeros(self.latent_dim, self.num_categories, device=self.device)
        return Independent(Categorical(logits=logits, validate_args=False), 1)
        # END SOLUTION

    def likelihood(self, h: torch.Tensor):
        """p(x|h) for h [B, K] or [S, B, K]; `log_prob(x)` sums over the entries of x."""
        # TODO 4.2: the distribution of x given h. `self.x_logits(h)` runs the network, a sigmoid
        # gives the mean. Each pixel is N(mean, self.sigma^2), constant and all, or Bernoulli(mean):
        # see `self.likelihood_kind`. `log_prob` is finite at logits of -60 and 60 too.
        # Hint: `Bits(logits, dims)` and `Independent(..., dims)` with dims = len(self.x_shape).
        # BEGIN SOLUTION
        logits = self.x_logits(h)  # ([S,] B, *x_shape)
        if self.likelihood_kind == "gaussian":
            pixels = Normal(torch.sigmoid(logits), self.sigma, validate_args=False)
            return Independent(pixels, len(self.x_shape))
        return Bits(logits, len(self.x_shape))
        # END SOLUTION

    def log_joint_prob(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """log p(x, h) in nats: x [B, ...] and h [B, K] or [S, B, K] -> [B] or [S, B]."""
        # TODO 4.2: log p(h) of the prior + log p(x|h). The gradient must reach the network's
        # parameters, those of the prior where it has some, and h where `h.requires_grad`: never
        # round or detach h.
        # BEGIN SOLUTION
        return self.prior().log_prob(h) + self.likelihood(h).log_prob(x)
        # END SOLUTION

    def decode(self, h: torch.Tensor) -> torch.Tensor:
        """The mean of p(x|h), in [0, 1]: h [B, K] -> [B, *x_shape]."""
        # TODO 4.2: one sigmoid, for both kinds of likelihood. Nothing is random here.
        # BEGIN SOLUTION
        return torch.sigmoid(self.x_logits(h))
        # END SOLUTION


class ProposalModel(BaseProposalModel):
    """q(h|x), independent over the latent dimensions; see BaseProposalModel for the arguments."""

    def build_net(self) -> nn.Module:
        """The network from x (`self.x_features` numbers) to `self.h_features` logits of h."""
        # TODO 4.1: the network of q(h|x). The mirror image of the joint model's: here the widths
        # are not reversed. x comes as [B, *x_shape], not flattened: `nn.Flatten()` first, as in
        # `mlp`. Hint: `mlp` and `conv_encoder`.
        # BEGIN SOLUTION
        if self.hidden is None:
            return conv_encoder(self.h_features, self.activation, width=16)
        return mlp([self.x_features, *self.hidden, self.h_features], self.activation)
        # END SOLUTION

    def proposal(self, x: torch.Tensor):
        """q(h|x) for x [B, ...], as an object with `log_prob(h)` and `sample((S,))`, [S, B, K]."""
        # TODO 4.3: the distribution of h given x. `self.h_logits(x)` runs the network: [B, K] for
        # bits, [B, D, C] for categories. `log_prob` takes h [B, K] or [S, B, K], sums over the
        # latent dimensions and is finite at logits of -60 and 60 too. Hint: as in the prior.
        # BEGIN SOLUTION
        logits = self.h_logits(x)  # (B, K) or (B, D, C)
        if self.latent == "bernoulli":
            return Bits(logits)
        return Independent(Categorical(logits=logits, validate_args=False), 1)
        # END SOLUTION

    def log_conditional_prob(self, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """log q(h|x) in nats: h [B, K] or [S, B, K] and x [B, ...] -> [B] or [S, B]."""
        # TODO 4.3: ask `self.proposal(x)`. The gradient must reach the network's parameters.
        # BEGIN SOLUTION
        return self.proposal(x).log_prob(h)
        # END SOLUTION

    def sample_latent(self, x: torch.Tensor, num_samples: int = 1) -> torch.Tensor:
        """Sample h ~ q(h|x) `num_samples` times: x [B, ...] -> [num_samples, B, K]."""
        # TODO 4.3: sample from `self.proposal(x)`. float32 of 0/1, or int64 categories. All samples
        # are independent: of each other, from example to example and from bit to bit.
        # BEGIN SOLUTION
        return self.proposal(x).sample((num_samples,))
        # END SOLUTION

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The mode of q(h|x), the code of an image: x [B, ...] -> h [B, K]."""
        # TODO 4.3: the likeliest value of each bit or variable. Not its probability; the types are
        # those of `sample_latent`. Nothing is random here.
        # BEGIN SOLUTION
        logits = self.h_logits(x)
        if self.latent == "bernoulli":
            return (logits > 0).to(x.dtype)
        return logits.argmax(dim=-1)
        # END SOLUTION


def log_importance_weight(joint, proposal, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """log w(x, h) = log p(x, h) - log q(h|x), in nats: [B] or [S, B]."""
    # TODO 4.4: the difference of the two terms. h is [B, K] or [S, B, K]; each model has a method
    # for its term.
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
    # TODO 4.4: loop over the steps. Carry the *current* state's row and weight along. Stay in log
    # space: log_w may be -1e5. T = 0 gives an empty [0, B]. Hint: a comparison with nan is False,
    # and `torch.where` chooses for all chains at once.
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
        # TODO 4.5: the difference of two log weights. So the q-ratio is upside down relative to the
        # p-ratio.
        # BEGIN SOLUTION
        log_w_new = log_importance_weight(joint, proposal, x, h_new)
        log_w_old = log_importance_weight(joint, proposal, x, h_old)
        return log_w_new - log_w_old
        # END SOLUTION

    @torch.no_grad()
    def step(self, x, h_old=None, idx=None) -> torch.Tensor:
        """One MIS step from `h_old`; see `sample` for the arguments. Returns h, [B, K]."""
        # TODO 4.5: propose, then accept or reject. The proposal is a sample of q(h|x); it is taken
        # or left as a whole, by the rule of `mis_chain` with one uniform number for each example.
        # Start from h_old if it is given; else from `self.start_state(fresh, idx)`: the cached
        # states, and `fresh`, another sample of q, for examples without one. Where idx is given,
        # store the states that you return, `self.update_cache(idx, h)`; else leave the cache alone.
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
            h_init: starting states [B, K]; None: the cached states, or samples of q where there
                is no cached state or no idx.
            idx: int64 [B], positions of the examples in the cache, which then receives the last
                states; None: the cache is neither read nor written.
            num_steps: T; with 0 the starting states come back.

        Returns:
            h [B, K], the states where the chains end.
        """
        # TODO 4.5: sample, score, walk, record, return. Sample T + 1 states from q(h|x) at once,
        # [T+1, B, K]; the start, chosen as in `step`, takes the place of states[0]. Score all of
        # them with *today's* parameters, the start too: log_w [T+1, B]. Walk: u [T, B], uniform in
        # [0, 1), one number for each step and chain; `mis_chain(log_w, u)` gives rows [T, B].
        # Call `self.record(states, log_w, rows)`: training reads these. Return states[rows[-1, b],
        # b] of each example b, or the start where T = 0. Where idx is given, store what you return
        # in the cache; else leave the cache alone.
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
        # TODO 4.5: put h into the cache. `self.cache` is a `StateCache` of model.py; see its `put`.
        # BEGIN SOLUTION
        self.cache.put(idx, h)
        # END SOLUTION


def jsa_loss(joint, proposal, x: torch.Tensor, h: torch.Tensor):
    """The two objectives of JSA for the chain's states h: (-log p(x, h), -log q(h|x)).

    h is data for both: no gradient flows through it.

    Args:
        x: [B, ...]; h: [B, K].

    Returns:
        Two scalars, batch means in nats.
    """
    # TODO 4.6: the first loss trains p only, the second q only. `h.detach()` is h without the
    # history of how it was made, so no gradient flows back through it.
    # BEGIN SOLUTION
    h = h.detach()
    return -joint.log_joint_prob(x, h).mean(), -proposal.log_conditional_prob(h, x).mean()
    # END SOLUTION


class MixturePrior(BaseMixturePrior):
    """p(h) = sum_m pi_m prod_j p(h_j|m); see BaseMixturePrior for its parameters.

    A component m is drawn once for a whole h; given m, the entries of h are independent. All
    entries depend on the same m, so a mixture knows which values go together.
    """

    def log_prob(self, h: torch.Tensor) -> torch.Tensor:
        """log p(h) in nats: h [..., K] -> [...]."""
        # TODO 4.7: log sum_m exp(log pi_m + sum_j log p(h_j|m)), by `torch.logsumexp`: the
        # probability of 200 bits is 0 in float32. pi is the softmax of `self.mixture_logits` [M].
        # `self.component_logits` are the logits of h given m: [M, K] for bits, as those of `Bits`;
        # [M, D, C] for categories. Compute with the logits: log p(h) is right at -60 and 60 too.
        # The gradient must reach both parameters, and bits h where `h.requires_grad`: never round
        # or detach h. Hint: a log-probability of bits is h_j * logit_j - softplus(logit_j), so one
        # matrix product gives the sum over j for all m. With `self.h_numbers(h)`, [..., D * C], one
        # does for categories too.
        # BEGIN SOLUTION
        log_pi = torch.log_softmax(self.mixture_logits, dim=0)  # (M,)
        if self.latent == "bernoulli":
            logits = self.component_logits  # (M, K)
            log_p = h @ logits.T - F.softplus(logits).sum(dim=-1)  # (..., M)
        else:
            log_p_values = torch.log_softmax(self.component_logits, dim=-1)  # (M, D, C)
            log_p = self.h_numbers(h) @ log_p_values.flatten(1).T  # (..., M)
        return torch.logsumexp(log_pi + log_p, dim=-1)
        # END SOLUTION

    @torch.no_grad()
    def sample(self, sample_shape: tuple[int, ...] = ()) -> torch.Tensor:
        """Independent samples of p(h): float32 of 0/1 or int64 categories, [*sample_shape, K]."""
        # TODO 4.7: for each sample draw a component m from pi, then all entries of h given this m.
        # Hint: `Categorical(logits=...).sample(sample_shape)`, and `self.component_logits[m]`.
        # BEGIN SOLUTION
        m = Categorical(logits=self.mixture_logits).sample(sample_shape)  # (...)
        logits = self.component_logits[m]  # (..., K) or (..., D, C)
        if self.latent == "bernoulli":
            return Bits(logits).sample()
        return Categorical(logits=logits).sample()
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
    # TODO 5.1: put the patches on a canvas with a margin. A margin of R // 2 takes all R * R pixels
    # of every patch; cut it off at the end. Hint: `scatter_add` adds all pixels of all patches at
    # once; with `overwrite`, loop over h with `scatter`.
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
    # TODO 5.2: expand the square, then log_softmax. ||r - w||^2 = ||r||^2 - 2 <r, w> + ||w||^2, and
    # ||r||^2 is the same for all. One convolution gives all <r, w>. ||w||^2 counts only the pixels
    # of w inside the image. At a large beta most probabilities are 0, but not their logarithms.
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
    """Sample every component anew, one after the other, each given all others.

    Args:
        x: [B, 1, S, S].
        choices: int64 [B, H], the current state; it is left as it is.
        prototypes: [K, R, R]; beta: as in `patch_log_scores`.
        generator: source of the random numbers; None: PyTorch's global one.

    Returns:
        int64 [B, H], one step of a chain that leaves p(choices | x) as it is.
    """
    # TODO 5.3: loop over h, and carry the residual x - o along. Take component h out of o, score
    # all choices for its place, sample one, put that one in: the next component sees it. All random
    # numbers come from `generator`. Hint: `sample_categorical(log_p, generator)` of model.py turns
    # [N, C] into [N, 1].
    # BEGIN SOLUTION
    size, choices = x.shape[-1], choices.clone()
    residual = x - render(choices, prototypes, size)
    for h in range(choices.shape[1]):
        one = choices[:, h : h + 1]  # (B, 1), a view of `choices`
        residual = residual + render(one, prototypes, size)
        log_p = patch_log_scores(residual, prototypes, beta)
        one.copy_(sample_categorical(log_p, generator))
        residual = residual - render(one, prototypes, size)
    return choices
    # END SOLUTION


class PatchJoint(BasePatchJoint):
    """p(x, h): H choices, uniform and independent, and x ~ N(o(h), I / (2 beta))."""

    def decode(self, h: torch.Tensor) -> torch.Tensor:
        """o(h), the mean of p(x|h): h int64 [..., H] -> [..., 1, S, S]."""
        # TODO 5.4: render the choices. `self.prototypes` and `self.size` are given.
        # BEGIN SOLUTION
        return render(h, self.prototypes, self.size)
        # END SOLUTION

    def log_joint_prob(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """log p(x, h) in nats: x [B, 1, S, S] and h [B, H] or [S, B, H] -> [B] or [S, B]."""
        # TODO 5.4: log p(h) + log p(x|h). H choices out of `self.num_categories`; a Gaussian with
        # its constant, where `self.beta` is 1 / (2 sigma^2). The gradient must reach the
        # prototypes, which learn through it.
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
        """Sample h ~ q(h|x) `num_samples` times: x [B, 1, S, S] -> int64 [num_samples, B, H]."""
        # TODO 5.4: one choice after the other. Sample it, then take its patch off the residual.
        # `self.choice_log_probs(residual)` runs the network, [N, 1, S, S] -> [N, K*S*S];
        # `self.prototypes()` are the joint model's, without gradient.
        # BEGIN SOLUTION
        residual = x.repeat(num_samples, 1, 1, 1)  # (N, 1, S, S) with N = num_samples * B
        size, choices = x.shape[-1], []
        for _ in range(self.latent_dim):
            choices.append(sample_categorical(self.choice_log_probs(residual)))  # (N, 1)
            residual = residual - render(choices[-1], self.prototypes(), size)
        return torch.cat(choices, dim=1).reshape(num_samples, len(x), self.latent_dim)
        # END SOLUTION

    def log_conditional_prob(self, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """log q(h|x) in nats: h [B, H] or [S, B, H] and x [B, 1, S, S] -> [B] or [S, B]."""
        # TODO 5.4: here all H residuals are known at once. Sum the log-probabilities of the H
        # choices. The gradient must reach the network. Hint: `cumsum` over the single patches.
        # BEGIN SOLUTION
        patches = render(h.unsqueeze(-1), self.prototypes(), x.shape[-1])  # ([S,] B, H, 1, S, S)
        before = patches.cumsum(dim=-4) - patches  # of the components 1 ... h-1
        residual = x.unsqueeze(-4) - before  # ([S,] B, H, 1, S, S)
        log_p = self.choice_log_probs(residual.flatten(0, -4))  # (N, K*S*S)
        chosen = log_p.gather(1, h.reshape(-1, 1))  # (N, 1)
        return chosen.reshape(h.shape).sum(dim=-1)
        # END SOLUTION
