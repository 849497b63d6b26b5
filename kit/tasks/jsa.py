"""JSA: p(x, h) and q(h|x) learned from latent states that an MIS chain draws."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical

from data_utils import to_uint8
from kit import chains
from kit.settings import JSASettings
from kit.tasks.base import Task, TaskError, annealed, as_images
from model import Bits

MEASURE_EVERY = 5  # batches from one look at acceptance rate and sample size to the next
MAX_COMPONENTS, DRAWS = 50, 100  # shown in components.png; draws of h for a mean image
SCORED_AT_ONCE = 2000  # states times images, of the candidates for a code
QUICK_STEPS = 5  # of the search for a code, in validation


class JSATask(Task):
    """The student's models, sampler and losses, put together.

    Args:
        joint, proposal: the student's models.
        sampler: the student's MISampler over these two.
        jsa_loss: the student's loss, (joint, proposal, x, h) -> (-log p, -log q) batch means.
        log_importance_weight: the student's, (joint, proposal, x, h) -> log p(x, h) - log q(h|x).
        settings: `code` "mode" encodes x as the mode of q(h|x), "best" as the candidate of largest
            log p(x, h) among the mode and `code_draws` draws of q, "local" as this candidate after
            `code_steps` changes that raise log p(x, h) further, "posterior" as one of `code_draws`
            draws, taken in proportion to its importance weight. After its T proposals a chain
            makes `local_steps` G of kit/chains.py. `chain_states` "last" trains on the chain's
            last state, "all" on the average over its T + G states, which lowers the variance and
            costs time.
    """

    x_shape = (1, 28, 28)
    states_repeat = False  # whether q often proposes a state that a chain has seen already

    def __init__(
        self, joint, proposal, sampler, jsa_loss, log_importance_weight, settings: JSASettings
    ):
        super().__init__(nn.ModuleDict({"joint": joint, "proposal": proposal}), settings)
        self.joint, self.proposal, self.sampler = joint, proposal, sampler
        self.mixture = joint.mixture if settings.prior == "mixture" else None
        self.jsa_loss, self.log_importance_weight = jsa_loss, log_importance_weight
        self.cache = sampler.cache
        self.code_kind, self.num_categories = joint.latent, joint.num_categories
        self.use_cache = False
        self.floors: dict[str, float] = {}  # what MIS promises in this epoch
        self.batch = 0  # training batches since the epoch began

    @classmethod
    def make(cls, submission, settings, num_examples, device):
        names = ("latent_dim", "latent", "num_categories", "likelihood", "activation")
        shared = {name: getattr(settings, name) for name in names} | {"x_shape": cls.x_shape}

        learned = {}
        if settings.prior == "mixture":
            if not hasattr(submission, "MixturePrior"):
                raise TaskError("submission.py has no MixturePrior; train with --prior uniform")
            sizes = {name: shared[name] for name in ("latent_dim", "latent", "num_categories")}
            learned["mixture"] = submission.MixturePrior(settings.prior_components, **sizes)

        def made(kind, **more):  # each has a list of its own, which it may change
            hidden = None if settings.hidden is None else list(settings.hidden)
            return kind(hidden=hidden, **shared, **more).to(device)

        joint = made(submission.JointModel, sigma=settings.sigma, **learned)
        proposal = made(submission.ProposalModel)
        sampler = submission.MISampler(joint, proposal, num_examples, device)
        functions = submission.jsa_loss, submission.log_importance_weight
        return cls(joint, proposal, sampler, *functions, settings)

    def param_groups(self):
        prior = [] if self.mixture is None else list(self.mixture.parameters())
        others = [p for p in self.joint.parameters() if all(p is not own for own in prior)]
        groups = [
            {"params": others, "lr": self.settings.lr_joint},
            {"params": self.proposal.parameters(), "lr": self.settings.lr_proposal},
        ]
        if prior:
            groups.append({"params": prior, "lr": self.settings.lr_prior})
        return groups

    def start_epoch(self, epoch, num_epochs):
        self.start_chains(epoch)
        start, end = self.settings.sigma_start, self.settings.sigma
        self.joint.sigma.fill_(annealed(start, end, epoch, num_epochs))

    def start_chains(self, epoch: int) -> None:
        """From `cache_start_epoch` on, the chains start from the cached states."""
        self.batch = 0
        visit = epoch - self.settings.cache_start_epoch + 1  # of each cached state, from 1 on
        self.use_cache = visit >= 1
        self.floors, num_steps = {}, self.settings.num_mis_steps
        if not self.use_cache:
            self.floors["acceptance_floor"] = chains.acceptance_floor(num_steps)
        elif self.settings.local_steps == 0:  # only then a cached state is a draw of q
            self.floors["acceptance_floor"] = chains.acceptance_floor(num_steps, visit)
            if not self.states_repeat:
                self.floors["moved_floor"] = chains.moved_floor(num_steps, visit)

    def loss(self, x, labels, index):
        if index is None:
            with self.sampler.unrecorded():
                return sum(self.losses(x, None)[0]), {}
        idx = index if self.use_cache else None
        before = None if idx is None else self.cache.rows(idx)
        (loss_joint, loss_proposal), accepted = self.losses(x, idx)
        metrics = {"loss_joint": loss_joint.detach(), "loss_proposal": loss_proposal.detach()}
        if self.batch % MEASURE_EVERY == 0:
            metrics["acceptance"] = self.sampler.acceptance_rate()
            metrics["ess"] = self.sampler.effective_sample_size()
            metrics |= {name: x.new_tensor(floor) for name, floor in self.floors.items()}
        if accepted is not None:
            metrics["acceptance_local"] = accepted
        self.batch += 1
        if idx is not None:
            metrics["moved"] = self.cache.moved(idx, before)
        return loss_joint + loss_proposal, metrics

    def losses(self, x, idx):
        """Run the chains, then -log p and -log q at their states: two batch means, in nats.

        Also returns the share of local steps that were accepted, None where there are none.
        """
        num_local, local, accepted = self.settings.local_steps, (), None
        with self.proposal.run_once(x):
            with torch.no_grad():
                h = self.sampler.sample(x, idx=idx, num_steps=self.settings.num_mis_steps)
            if self.sampler.rows is None:
                raise TaskError("MISampler.sample must call self.record(states, log_w, rows)")
            if num_local > 0:
                local, accepted = chains.local_steps(self.joint, x, h, num_local)
                h = local[-1]
                if idx is not None:
                    self.sampler.update_cache(idx, h)
            if self.settings.chain_states == "all":
                return self.chain_average_loss(x, local), accepted
            return self.jsa_loss(self.joint, self.proposal, x, h), accepted

    def chain_average_loss(self, x, local=()):
        """`jsa_loss` averaged over the T + G states of each chain, not at its last state alone.

        A chain stays at most states for several steps, so each row that MIS visited is scored by p
        once, with its share of the steps as weight. q scores all rows: its cost is the encoder's,
        which runs once per image.

        Args:
            local: the states after the local steps, [G, B, K], or () for none.
        """
        states, rows = self.sampler.states, self.sampler.rows  # (T+1, B, K), (T, B)
        visits = F.one_hot(rows, len(states)).sum(dim=0).T  # (T+1, B), sums to T
        if len(local) > 0:
            states = torch.cat([states, local])  # (T+1+G, B, K)
            visits = torch.cat([visits, visits.new_ones(len(local), len(x))])
        weight = visits / visits.sum()  # sums to 1
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
        return self.encode_with(x, self.settings.code_steps)

    def reconstruct(self, x, labels):
        """A cheap look: fewer steps of the search, which would otherwise take most of the time."""
        return self.decode(self.encode_with(x, min(QUICK_STEPS, self.settings.code_steps)), labels)

    def encode_with(self, x, code_steps):
        mode = self.proposal.encode(x)
        if self.settings.code == "mode":
            return mode
        h = self.proposal.sample_latent(x, self.settings.code_draws)  # (n, B, K)
        if self.settings.code != "posterior":
            h = torch.cat([mode.unsqueeze(0), h])
        # A few at once: a prior may need memory for each of M components and K bits.
        some = h.split(max(1, SCORED_AT_ONCE // len(x)))
        log_p = torch.cat([self.joint.log_joint_prob(x, states) for states in some])
        if self.settings.code == "posterior":
            log_w = log_p - self.proposal.log_conditional_prob(h, x)
            chosen = Categorical(logits=log_w.T).sample()  # (B,)
        else:
            chosen = log_p.argmax(dim=0)  # (B,)
        h = h[chosen, torch.arange(len(x), device=x.device)]  # (B, K)
        return chains.climb(self.joint, x, h, code_steps) if self.settings.code == "local" else h

    def decode(self, code, labels):
        return as_images(self.joint.decode(code), "JointModel.decode")

    def generate(self, labels):
        h = self.joint.prior().sample((len(labels),))
        return self.decode(h, labels)

    def draw(self, dataset, folder, device):
        """The pictures of every task, and components.png: the mixture's components by weight."""
        drawn = super().draw(dataset, folder, device)
        if self.mixture is None:
            return drawn
        from kit import pictures  # here, because matplotlib takes a while to load

        weight = torch.softmax(self.mixture.mixture_logits, dim=0)
        weight, components = weight.topk(min(len(weight), MAX_COMPONENTS))
        images = torch.stack([self.component_image(m) for m in components])
        path = folder / "components.png"
        return [*drawn, pictures.save_components(path, to_uint8(images), weight.tolist())]

    def component_image(self, m: int) -> torch.Tensor:
        """The mean image of component m of the mixture, by DRAWS draws of h: [28, 28]."""
        logits = self.mixture.component_logits[m]  # (K,) or (D, C)
        kind = Bits if self.joint.latent == "bernoulli" else Categorical
        h = kind(logits=logits).sample((DRAWS,))  # (DRAWS, K)
        return self.decode(h, None).mean(dim=(0, 1))
