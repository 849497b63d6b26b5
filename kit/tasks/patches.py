"""CGAE: an image as a sum of movable patches, learned by Gibbs sweeps or by MIS."""

import math

import torch
from torch import nn

from kit.settings import JSASettings, PatchSettings
from kit.tasks.base import Task, annealed, as_images, first_examples
from kit.tasks.jsa import JSATask
from model import StateCache, split_choices

ENCODING_BETAS = (3.0, 30.0, 1e4)  # of the sweeps over the patches of an image that is encoded


class PatchTask(Task):
    """What both ways to choose the patches share: the schedule, images, samples and pictures.

    Args:
        model: all weights.
        joint: the student's PatchJoint.
        cache: keeps the choices of every training image from one epoch to the next.
        settings: beta goes from `beta_start` to `beta`.
    """

    code_kind = "categorical"
    entries_are_values = False  # but numbers of a patch at a place

    def __init__(self, model, joint, cache: StateCache, settings: PatchSettings):
        super().__init__(model, settings)
        self.joint, self.cache = joint, cache
        self.num_categories = joint.num_categories

    @classmethod
    def make(cls, submission, settings, num_examples, device):
        names = ("num_prototypes", "patch_size", "beta")
        arguments = {name: getattr(settings, name) for name in names}
        joint = submission.PatchJoint(settings.latent_dim, **arguments).to(device)
        if settings.sampler == "gibbs":
            cache = StateCache(num_examples, settings.latent_dim, joint.latent, device)
            return GibbsPatchTask(joint, cache, submission.gibbs_sweep, settings)
        proposal = submission.PatchProposal(joint).to(device)
        sampler = submission.MISampler(joint, proposal, num_examples, device)
        functions = submission.jsa_loss, submission.log_importance_weight
        jsa = JSATask(joint, proposal, sampler, *functions, jsa_settings(settings))
        return AmortisedPatchTask(jsa, settings)

    def start_epoch(self, epoch, num_epochs):
        start, end = self.settings.beta_start, self.settings.beta
        self.joint.beta.fill_(annealed(start, end, epoch, num_epochs))
        taken = self.cache.visited()
        if len(taken):
            count = torch.bincount(taken.flatten().long(), minlength=self.num_categories)
            self.joint.counts.copy_(count)

    def shares(self, choices):
        """The share of the most used prototype, and of the most used place, among the choices."""
        k, i, j = split_choices(choices, self.joint.size)
        count = [torch.bincount(used.flatten()).max() for used in (k, i * self.joint.size + j)]
        return {"top_prototype": count[0] / k.numel(), "top_place": count[1] / k.numel()}

    def decode(self, code, labels):
        return as_images(self.joint.decode(code), "PatchJoint.decode").clamp(0, 1)

    def generate(self, labels):
        """Independent choices, each as often as it was taken in the epoch before."""
        shape = len(labels), self.joint.latent_dim
        choices = torch.multinomial(self.joint.counts, math.prod(shape), replacement=True)
        return self.decode(choices.reshape(shape), labels)

    def draw(self, dataset, folder, device):
        """As every task, and patches.png: the prototypes, and images put together in steps."""
        from kit import pictures  # here, because matplotlib takes a while to load

        paths = super().draw(dataset, folder, device)
        x, labels = first_examples(dataset, 4, device)
        path, choices = folder / "patches.png", self.encode(x, labels)

        def decode(choices):
            return self.decode(choices, None)

        return [*paths, pictures.save_patches(path, x, choices, self.joint.prototypes, decode)]


class GibbsPatchTask(PatchTask):
    """Prototypes learned from choices that one Gibbs sweep per batch draws.

    Args:
        joint, cache, settings: as in `PatchTask`; `lr` is the prototypes'.
        gibbs_sweep: the student's function.
    """

    def __init__(self, joint, cache: StateCache, gibbs_sweep, settings: PatchSettings):
        super().__init__(nn.ModuleDict({"joint": joint}), joint, cache, settings)
        self.gibbs_sweep = gibbs_sweep

    def param_groups(self):
        return [{"params": self.joint.parameters(), "lr": self.settings.lr}]

    def loss(self, x, labels, index):
        start = self.first_choices(x, index)
        choices = self.gibbs_sweep(x, start, self.joint.prototypes.detach(), self.joint.beta)
        loss = -self.joint.log_joint_prob(x, choices).mean()
        if index is None:
            return loss, {}
        self.cache.put(index, choices)
        return loss, {"moved": (choices != start).float().mean(), **self.shares(choices)}

    def first_choices(self, x, index):
        """The cached choices; without, the faintest prototype in the upper left corner."""
        faintest = self.joint.prototypes.detach().square().sum(dim=(1, 2)).argmin()
        fresh = (faintest * self.joint.size**2).expand(len(x), self.joint.latent_dim)
        return fresh if index is None else self.cache.get(fresh, index)

    def encode(self, x, labels):
        """A few sweeps at falling temperature; the last one takes nearly always the best choice.

        In the limit of temperature 0 that is iterated conditional modes (Besag 1986).
        """
        choices = self.first_choices(x, None)
        for beta in ENCODING_BETAS:
            choices = self.gibbs_sweep(x, choices, self.joint.prototypes.detach(), beta)
        return choices


class AmortisedPatchTask(PatchTask):
    """MIS with a proposal network in place of the Gibbs sweep, and JSA's two losses.

    Args:
        jsa: part 4's task object over PatchJoint and PatchProposal, which does the learning.
        settings: as in `PatchTask`.
    """

    samples_at_once = 200  # each has H residuals, and each of these the logits of all choices

    def __init__(self, jsa: JSATask, settings: PatchSettings):
        super().__init__(jsa.model, jsa.joint, jsa.cache, settings)
        self.jsa = jsa

    def param_groups(self):
        return self.jsa.param_groups()

    def start_epoch(self, epoch, num_epochs):
        super().start_epoch(epoch, num_epochs)
        self.jsa.start_chains(epoch)

    def loss(self, x, labels, index):
        loss, metrics = self.jsa.loss(x, labels, index)
        if index is None:
            return loss, metrics
        sampler = self.jsa.sampler
        last = sampler.rows[-1], torch.arange(len(x), device=x.device)
        return loss, metrics | self.shares(sampler.states[last])

    def log_weights(self, x, labels, num_samples):
        return self.jsa.log_weights(x, labels, num_samples)

    def diagnostics(self, x):
        return self.jsa.diagnostics(x)

    def encode(self, x, labels):
        """The best by log p(x, h) of three draws of q(h|x)."""
        h = self.jsa.proposal.sample_latent(x, 3)  # (3, B, H)
        best = self.joint.log_joint_prob(x, h).argmax(dim=0)  # (B,)
        return h[best, torch.arange(len(x), device=x.device)]


def jsa_settings(settings: PatchSettings) -> JSASettings:
    """What `AmortisedPatchTask` asks of part 4's task object; the rest is of no use there."""
    return JSASettings(
        latent_dim=settings.latent_dim,
        latent="categorical",
        prior="uniform",
        local_steps=0,
        epochs=settings.epochs,
        num_mis_steps=settings.num_mis_steps,
        cache_start_epoch=settings.cache_start_epoch,
        lr_joint=settings.lr,
        lr_proposal=settings.lr_proposal,
    )
