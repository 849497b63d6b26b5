"""A Gibbs sweep of part 5 beside the dense layout of the notes, and how its cost grows."""

import itertools
import statistics
import time

import numpy as np
import torch

import submission
from data_utils import SAMPLE_FILE, read_npz
from model import sample_categorical

PATCHES, SIZE = 14, 28
BETA = 30.0


def digits(count: int) -> torch.Tensor:
    images, _ = read_npz(SAMPLE_FILE)
    chosen = images[:: len(images) // count][:count]
    return torch.as_tensor(chosen).float().div(255).unsqueeze(1)


def placed(prototypes: torch.Tensor) -> torch.Tensor:
    """Every prototype at every place, as whole images: [K * S * S, S * S]."""
    every = torch.arange(len(prototypes) * SIZE**2).unsqueeze(1)
    return submission.render(every, prototypes, SIZE).flatten(1)


def dense_sweep(x, choices, table, beta, generator) -> torch.Tensor:
    """As `gibbs_sweep`, but each residual is compared with all placed prototypes in full."""
    choices = choices.clone()
    residual = x.flatten(1) - table[choices].sum(dim=1)  # (B, S*S)
    for h in range(choices.shape[1]):
        residual += table[choices[:, h]]
        squares = ((residual.unsqueeze(1) - table) ** 2).sum(dim=2)  # (B, K*S*S)
        choices[:, h] = sample_categorical((-beta * squares).log_softmax(dim=1), generator)[:, 0]
        residual -= table[choices[:, h]]
    return choices


def compare(rounds: int) -> None:
    """Images/s of one sweep either way, by turns, on equal random numbers."""
    x, prototypes = digits(4), 0.5 * torch.rand(16, 7, 7)
    start = torch.randint(16 * SIZE**2, (len(x), PATCHES))
    table = placed(prototypes)
    ways = {
        "gibbs_sweep": lambda g: submission.gibbs_sweep(x, start, prototypes, BETA, g),
        "dense": lambda g: dense_sweep(x, start, table, BETA, g),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    same = []
    for turn in range(rounds + 1):
        found = []
        for name, way in ways.items():
            generator = torch.Generator().manual_seed(turn)
            started = time.perf_counter()
            found.append(way(generator))
            if turn > 0:
                seconds[name].append(time.perf_counter() - started)
        same.append((found[0] == found[1]).float().mean().item())
    for name, times in seconds.items():
        print(f"{name}: {len(x) / statistics.median(times):,.1f} images/s")
    pairs = zip(seconds["dense"], seconds["gibbs_sweep"], strict=True)
    ratios = [slow / fast for slow, fast in pairs]
    print(f"ratio {statistics.median(ratios):.0f}; equal choices {np.mean(same):.1%}")


def growth(rounds: int) -> None:
    """Time of a sweep over 100 images where one size at a time is larger."""
    usual = {"size": SIZE, "width": 7, "prototypes": 16, "patches": PATCHES}
    changes = [{}, {"size": 56}, {"width": 15}, {"width": 27}, {"prototypes": 32}, {"patches": 28}]
    runs = []
    for change in changes:
        size, width, count, patches = (usual | change).values()
        x = torch.nn.functional.interpolate(digits(100), size)
        prototypes = 0.5 * torch.rand(count, width, width)
        start = torch.randint(count * size**2, (100, patches))
        work = size**2 * width**2 * count * patches
        runs.append((change, work, x, start, prototypes))
    times: list[list[float]] = [[] for _ in runs]
    for turn, (number, run) in itertools.product(range(rounds + 1), enumerate(runs)):
        _, _, x, start, prototypes = run
        started = time.perf_counter()
        submission.gibbs_sweep(x, start, prototypes, BETA)
        if turn > 0:
            times[number].append(time.perf_counter() - started)
    print("| | I J R^2 K H | time of a sweep |\n|---|---|---|")
    for (change, work, *_), own in zip(runs, times, strict=True):
        name = ", ".join(f"{key} {value}" for key, value in change.items()) or "the defaults"
        ratio = statistics.median(a / b for a, b in zip(own, times[0], strict=True))
        seconds = statistics.median(own)
        print(f"| {name} | x {work / runs[0][1]:.1f} | {seconds:.3f} s, x {ratio:.1f} |")
