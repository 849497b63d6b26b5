"""JSA: p(x, h) and q(h|x) learned from latent states that an MIS chain draws."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical

from kit.settings import JSASettings
from kit.tasks.base import Task, TaskError, annealed, as_images

MEASURE_EVERY = 5  # batches from one look at acceptance rate and sample size to the next


class JSATask(Task):
    """The student's models, sampler and losses, put together.

    Args:
        joint, proposal: the student's models.
        sampler: the student's MISampler over these two.
        jsa_loss: the student's loss, (joint, proposal, x, h) -> (-log p, -log q) batch means.
        log_importance_weight: the student's, (joint, proposal, x, h) -> log p(x, h) - log q(h|x).
        settings: `code` "mode" encodes x as the mode of q(h|x), "best" as the candidate of largest
            log p(x, h) among the mode and `code_draws` draws of q, "posterior" as one of
            `code_draws` draws, taken in proportion to its importance weight. `chain_states` "last"
            trains on the chain's last state, "all" on the average over its T states, which lowers
            the variance and costs time.
    """

    x_shape = (1, 28, 28)

    def __init__(
        self, joint, proposal, sampler, jsa_loss, log_importance_weight, settings: JSASettings
    ):
        super().__init__(nn.ModuleDict({"joint": joint, "proposal": proposal}), settings)
        self.joint, self.proposal, self.sampler = joint, proposal, sampler
        self.jsa_loss, self.log_importance_weight = jsa_loss, log_importance_weight
        self.cache = sampler.cache
        self.code_kind, self.num_categories = joint.latent, joint.num_categories
        self.use_cache = False
        self.batch = 0  # training batches since the epoch began

    @classmethod
    def make(cls, submission, settings, num_examples, device):
        names = ("latent_dim", "latent", "num_categories", "likelihood", "activation")
        shared = {name: getattr(settings, name) for name in names} | {"x_shape": cls.x_shape}

        def made(kind, **more):  # each has a list of its own, which it may change
            hidden = None if settings.hidden is None else list(settings.hidden)
            return kind(hidden=hidden, **shared, **more).to(device)

        joint = made(submission.JointModel, sigma=settings.sigma)
        proposal = made(submission.ProposalModel)
        sampler = submission.MISampler(joint, proposal, num_examples, device)
        functions = submission.jsa_loss, submission.log_importance_weight
        return cls(joint, proposal, sampler, *functions, settings)

    def param_groups(self):
        return [
            {"params": self.joint.parameters(), "lr": self.settings.lr_joint},
            {"params": self.proposal.parameters(), "lr": self.settings.lr_proposal},
        ]

    def start_epoch(self, epoch, num_epochs):
        self.start_chains(epoch)
        start, end = self.settings.sigma_start, self.settings.sigma
        self.joint.sigma.fill_(annealed(start, end, epoch, num_epochs))

    def start_chains(self, epoch: int) -> None:
        """From `cache_start_epoch` on, the chains start from the cached states."""
        self.batch = 0
        self.use_cache = epoch >= self.settings.cache_start_epoch

    def loss(self, x, labels, index):
        if index is None:
            with self.sampler.unrecorded():
                return sum(self.losses(x, None)), {}
        idx = index if self.use_cache else None
        before = None if idx is None else self.cache.rows(idx)
        loss_joint, loss_proposal = self.losses(x, idx)
        metrics = {"loss_joint": loss_joint.detach(), "loss_proposal": loss_proposal.detach()}
        if self.batch % MEASURE_EVERY == 0:
            metrics["acceptance"] = self.sampler.acceptance_rate()
            metrics["ess"] = self.sampler.effective_sample_size()
        self.batch += 1
        if idx is not None:
            metrics["moved"] = self.cache.moved(idx, before)
        return loss_joint + loss_proposal, metrics

    def losses(self, x, idx):
        """Run the chains, then -log p and -log q at their states: two batch means, in nats."""
        with self.proposal.run_once(x):
            with torch.no_grad():
                h = self.sampler.sample(x, idx=idx, num_steps=self.settings.num_mis_steps)
            if self.sampler.rows is None:
                raise TaskError("MISampler.sample must call self.record(states, log_w, rows)")
            if self.settings.chain_states == "all":
                return self.chain_average_loss(x)
            return self.jsa_loss(self.joint, self.proposal, x, h)

    def chain_average_loss(self, x):
        """`jsa_loss` averaged over the T states of each chain, not at its last state alone.

        A chain stays at most states for several steps, so each row it visited is scored by p once,
        with its share of the T steps as weight. q scores all rows: its cost is the encoder's, which
        runs once per image.
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
        if self.settings.code == "mode":
            return mode
        h = self.proposal.sample_latent(x, self.settings.code_draws)  # (n, B, K)
        if self.settings.code == "best":
            h = torch.cat([mode.unsqueeze(0), h])
            chosen = self.joint.log_joint_prob(x, h).argmax(dim=0)  # (B,)
        else:
            log_w = self.joint.log_joint_prob(x, h) - self.proposal.log_conditional_prob(h, x)
            chosen = Categorical(logits=log_w.T).sample()  # (B,)
        return h[chosen, torch.arange(len(x), device=x.device)]

    def decode(self, code, labels):
        return as_images(self.joint.decode(code), "JointModel.decode")

    def generate(self, labels):
        h = self.joint.prior().sample((len(labels),))
        return self.decode(h, labels)
