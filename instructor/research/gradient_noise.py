"""Measure the noise of three gradients for part 5's proposal network, at equal numbers of draws.

    python train.py --task CGAE --sampler mis --epochs 3 --save_dir runs/mis
    python -m instructor noise runs/mis/last.pth

Each is estimated many times for one batch with fixed weights: by S draws of q(h|x) per image for
REINFORCE (of the ELBO, without and with the mean of the other draws as baseline) and for importance
weighting (the wake phase of reweighted wake-sleep, Bornschein & Bengio 2015), and for JSA by the
states of an MIS chain, of S - 1 steps from a draw of q or of S steps from the checkpoint's cache.
Noise is the root of the summed variances of all entries, in units of the length of the mean.
"""

import sys

import torch

import inference
from data_utils import keep_freed_memory, load_split, set_seed
from instructor.door import make_parser, positive
from kit.files import DATA_DIR
from kit.processes import TrainingError
from kit.tasks.jsa import JSATask
from kit.tasks.patches import AmortisedPatchTask

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
    parser.add_argument("checkpoint", help="of --task CGAE --sampler mis")
    parser.add_argument(
        "--samples", type=positive(int), default=3, help="S, per image (default: 3)"
    )
    parser.add_argument("--images", type=positive(int), default=50, help="default: 50")
    parser.add_argument(
        "--repeats", type=positive(int), default=100, help="gradients of each kind (default: 100)"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        task, _ = inference.load_task(args.checkpoint, {"task": "CGAE"}, torch.device("cpu"))
    except (TrainingError, inference.InferenceError) as error:
        sys.exit(f"error: {error}")
    if not isinstance(task, AmortisedPatchTask):
        sys.exit(f"error: {args.checkpoint} was trained without --sampler mis")
    images, _ = load_split(DATA_DIR, "train")
    x = torch.as_tensor(images[: args.images]).float().div(255).unsqueeze(1)
    cache = inference.read_checkpoint(args.checkpoint)["sampler_state_dict"]["cache"]
    cached = cache[: args.images].long()
    for kind in KINDS:
        set_seed(0)
        found = noise(task.jsa, x, args.samples, kind, cached, args.repeats)
        print(f"{kind}: {found:.1f}", flush=True)
