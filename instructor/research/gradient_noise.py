"""Measure JSA's gradients beside rivals': noise in part 5, bias and error on the toy.

    python train.py --task JSA --dataset gaussian2d --save_dir runs/toy
    python -m instructor noise runs/toy/last.pth
    python train.py --task CGAE --sampler mis --epochs 3 --save_dir runs/mis
    python -m instructor noise runs/mis/last.pth

On the toy the exact gradient is known, by a sum over all states. Bias is the distance between the
mean of many independent estimates and it, and error the root mean square distance of one estimate
from it, both in units of its length; p and q are measured apart. Each estimate has chains of its
own: its cache grows from nothing, by S proposals per visit, with fixed weights. The error counts
all that differs between caches; noise, for one given cache, does not.

In part 5 only the noise of q's gradient is measured, by S draws of q(h|x) per image for REINFORCE
(of the ELBO, without and with the mean of the other draws as baseline) and for importance
weighting (the wake phase of reweighted wake-sleep, Bornschein & Bengio 2015), and for JSA by the
states of an MIS chain, of S - 1 steps from a draw of q or of S steps from the checkpoint's cache.
Noise is the root of the summed variances of all entries, in units of the length of the mean. It
says nothing about bias: a state that never moves has noise 0, however wrong it is.
"""

import sys

import torch

import inference
import submission
from data_utils import keep_freed_memory, load_split, set_seed
from instructor.door import make_parser, positive
from instructor.research.exact_gradients import Estimators, report
from kit.files import DATA_DIR
from kit.processes import TrainingError
from kit.settings import RunSettings, SettingsError, from_config
from kit.tasks import make_task
from kit.tasks.jsa import JSATask
from kit.tasks.patches import AmortisedPatchTask
from kit.tasks.toy import ToyTask
from trainer import read_checkpoint

KINDS = (
    "REINFORCE",
    "REINFORCE, baseline",
    "importance weights",
    "JSA, from a sample of q",
    "JSA, from the cache",
)


def weights_of(task: JSATask, x: torch.Tensor, samples: int, kind: str, cached: torch.Tensor):
    """States [S, B, H], and the number [S, B] with which each one's gradient of log q counts."""
    h = task.proposal.sample_latent(x, samples)
    log_w = task.log_importance_weight(task.joint, task.proposal, x, h)  # (S, B)
    if kind == "importance weights":
        return h, log_w.softmax(dim=0)
    if kind.startswith("JSA"):
        from_q = kind == "JSA, from a sample of q"
        start, steps = (h[0], samples - 1) if from_q else (cached, samples)
        task.sampler.sample(x, h_init=start, num_steps=steps)
        rows = torch.nn.functional.one_hot(task.sampler.rows, steps + 1)  # (T, B, T+1)
        return task.sampler.states, rows.float().mean(dim=0).T
    if kind == "REINFORCE, baseline":
        others = (log_w.sum(dim=0) - log_w) / (samples - 1)
        return h, (log_w - others) / samples
    return h, log_w / samples


def noise(task: JSATask, x, samples: int, kind: str, cached, repeats: int) -> float:
    """The noise of one kind of gradient; infinite where the mean cannot be told from zero."""
    parameters = list(task.proposal.net.parameters())
    total = square = 0.0
    for _ in range(repeats):
        with torch.no_grad():
            h, weight = weights_of(task, x, samples, kind, cached)
        log_q = task.proposal.log_conditional_prob(h, x)
        found = torch.autograd.grad((weight * log_q).sum(dim=0).mean(), parameters)
        gradient = torch.cat([part.flatten() for part in found]).double()
        total, square = total + gradient, square + gradient**2
    mean = total / repeats
    variance = (square / repeats - mean**2) * repeats / (repeats - 1)
    # The squared length of the mean of `repeats` estimates is too large by its own variance.
    signal = (mean.square().sum() - variance.sum() / repeats).clamp(min=0)
    return (variance.sum() / signal).sqrt().item()


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("checkpoint", help="of --dataset gaussian2d, or --task CGAE --sampler mis")
    parser.add_argument(
        "--samples", type=positive(int), default=3, help="S, per image or point (default: 3)"
    )
    parser.add_argument("--images", type=positive(int), default=50, help="or points (default: 50)")
    parser.add_argument(
        "--repeats", type=positive(int), help="gradients of each kind (default: 100; toy: 400)"
    )
    parser.add_argument(
        "--local_steps", type=positive(int), default=2, help="G, per visit; toy only (default: 2)"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        checkpoint = read_checkpoint(args.checkpoint)
        config = checkpoint.get("config") or {}
        if config.get("dataset") == "gaussian2d":
            print_errors(load_toy(checkpoint), args)
            return
        task, _ = inference.load_task(args.checkpoint, {"task": "CGAE"}, torch.device("cpu"))
    except (TrainingError, SettingsError, RuntimeError, inference.InferenceError) as error:
        sys.exit(f"error: {error}")
    if not isinstance(task, AmortisedPatchTask):
        sys.exit(f"error: {args.checkpoint} was trained without --sampler mis")
    images, _ = load_split(DATA_DIR, "train")
    x = torch.as_tensor(images[: args.images]).float().div(255).unsqueeze(1)
    cached = checkpoint["sampler_state_dict"]["cache"][: args.images].long()
    for kind in KINDS:
        set_seed(0)
        found = noise(task.jsa, x, args.samples, kind, cached, args.repeats or 100)
        print(f"{kind}: {found:.1f}", flush=True)


def load_toy(checkpoint: dict) -> ToyTask:
    """The toy as it was, with the cached states of its training points."""
    cache = checkpoint["sampler_state_dict"]
    task = make_task(submission, from_config(checkpoint["config"]), len(cache["cache"]))
    task.load_state_dict(checkpoint["model_state_dict"])
    task.cache.load_state_dict(cache)
    task.model.eval()
    return task


@torch.no_grad()
def print_errors(task: ToyTask, args) -> None:
    """A line for each estimator: bias and error of p's gradient, then of q's."""
    train_set, _ = task.load_data(task.settings, RunSettings())
    x = train_set.images[: args.images]
    visited = task.cache.visited()  # all points or, before the cache, none
    cached = visited[: len(x)].to(task.all_states()) if len(visited) else None
    set_seed(0)
    estimators = Estimators(task, x, args.samples, args.local_steps, args.repeats or 400, cached)
    print("| gradient | p: bias | p: error | q: bias | q: error |\n|---|---|---|---|---|")
    for name, errors in report(task, estimators):
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in errors)} |", flush=True)
