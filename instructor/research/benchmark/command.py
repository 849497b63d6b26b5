"""Measure the speed of JSA beside other ways to write it, and of the VAE beside Pixyz.

    python -m instructor benchmark                # JSA: the table, about 8 minutes
    python -m instructor benchmark --profile      # where the time of the Trainer goes
    python -m instructor benchmark --processes    # 1 and 2 processes under torchrun
    python -m instructor benchmark --memory       # the cache of a million examples
    python -m instructor benchmark --patches      # part 5: a Gibbs sweep beside the dense layout
    python -m instructor benchmark --pixyz --data_dir FOLDER  # needs pixyz, see research/README.md

All loops of a row run by turns in one process; values are medians over the rounds, ratios medians
of the rounds' ratios. So another job on the machine disturbs all of them alike.
"""

import itertools
import resource
import statistics
import subprocess
import sys
import time

import torch

from data_utils import keep_freed_memory
from instructor.door import make_parser, positive
from instructor.research.benchmark import patches
from instructor.research.benchmark.loops import LOOPS, OurTrainer, binary_sample, make
from kit.files import DATA_DIR


def measure(loops: dict, images: int, rounds: int) -> dict[str, list[float]]:
    """Images/s of one epoch, for each round; each loop runs one epoch before, untimed."""
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(rounds + 1):
        for name, loop in loops.items():
            started = time.perf_counter()
            loop.epoch()
            if turn > 0:
                speeds[name].append(images / (time.perf_counter() - started))
    return speeds


def table(batch_sizes: list[int], steps: list[int], rounds: int, chain_states: str) -> None:
    threads = torch.get_num_threads()
    print(f"images/s; MLP 784-200-200-200, {threads} thread(s), chain_states {chain_states}")
    others = list(LOOPS)[1:]
    print("| batch | T | cache |", *(f"{name} |" for name in LOOPS), end=" ")
    print(*(f"Trainer / {name[:3]} |" for name in others))
    print("|---" * (3 + 2 * len(LOOPS) - 1) + "|")
    for batch_size, num_steps, cache in itertools.product(batch_sizes, steps, (False, True)):
        images = binary_sample(batch_size)
        loops = {
            name: kind(images, batch_size, num_steps, cache, chain_states=chain_states)
            for name, kind in LOOPS.items()
        }
        speeds = measure(loops, len(images), rounds)
        print(f"| {batch_size} | {num_steps} | {'on' if cache else 'off'} |", end=" ")
        print(*(f"{statistics.median(speeds[name]):,.0f} |" for name in LOOPS), end=" ")
        for name in others:
            ratios = [a / b for a, b in zip(speeds["Trainer"], speeds[name], strict=True)]
            print(f"{statistics.median(ratios):.2f} |", end=" ")
        print(flush=True)


def profile() -> None:
    loop = OurTrainer(binary_sample(50), 50, 10, True)
    loop.epoch()
    with torch.profiler.profile() as profiler:
        loop.epoch()
    print(profiler.key_averages().table("self_cpu_time_total", 20, max_name_column_width=40))


def memory() -> None:
    make(1)  # loads what any sampler needs
    before = peak_memory()
    table = make(1_000_000).cache.state_dict()["cache"]
    used = (peak_memory() - before) / 1e6
    print(f"cache of {len(table):,} x {table.shape[1]} bits: {table.nbytes / 1e6:.0f} MB;")
    print(f"peak resident memory grew by {used:.0f} MB with it and its two models")


def peak_memory() -> int:
    """Of this process, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__name__, __doc__)
    parser.add_argument(
        "--batch_sizes",
        type=positive(int),
        nargs="+",
        default=[50, 128, 512],
        help="rows of the table (default: 50 128 512)",
    )
    parser.add_argument(
        "--steps",
        type=positive(int),
        nargs="+",
        default=[2, 3, 10],
        help="values of T (default: 2 3 10)",
    )
    parser.add_argument(
        "--rounds", type=positive(int), default=5, help="epochs of each loop (default: 5)"
    )
    parser.add_argument(
        "--chain_states",
        choices=["last", "all"],
        default="last",
        help="the estimator, as in train.py (default: last)",
    )
    parser.add_argument(
        "--threads", type=positive(int), default=1, help="of PyTorch, in each process (default: 1)"
    )
    for flag, text in (
        ("--profile", "instead: where the time of the Trainer goes"),
        ("--processes", "instead: 1 and 2 processes under torchrun"),
        ("--memory", "instead: the cache of a million examples"),
        ("--patches", "instead: part 5's Gibbs sweep beside the dense layout"),
        ("--pixyz", "instead: the VAE beside Pixyz's"),
    ):
        parser.add_argument(flag, action="store_true", help=text)
    parser.add_argument("--data_dir", default=DATA_DIR, help="for --pixyz (default: dataset)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    if args.profile:
        profile()
    elif args.memory:
        memory()
    elif args.processes:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        for number in (1, 2) * args.rounds:
            module = ["-m", "instructor.research.benchmark.processes"]
            subprocess.run([*command, f"--nproc_per_node={number}", *module], check=True)
    elif args.patches:
        patches.compare(args.rounds)
        patches.growth(args.rounds)
    elif args.pixyz:
        from instructor.research.benchmark.vae import compare  # here: the rest works without pixyz

        compare(args.data_dir)
    else:
        table(args.batch_sizes, args.steps, args.rounds, args.chain_states)
