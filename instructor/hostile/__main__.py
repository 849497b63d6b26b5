"""The hostile bank's command: one line an attack, and whether the grader stood it."""

import argparse
import functools
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from instructor.hostile.attack import read_attacks
from instructor.hostile.bank import prepare, run_by_name

# What CI runs: one attack of most kinds. Together they take about a minute.
SAMPLE = (
    "equals_everything",
    "replies_of_nan",
    "forged_replies",
    "daemon",
    "code_of_another_type",
    "links_and_pipes",
)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m instructor.hostile", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these alone")
    parser.add_argument("--sample", action="store_true", help="the part that CI runs")
    parser.add_argument("--jobs", type=int, default=2, help="attacks at a time (default: 2)")
    args = parser.parse_args(argv)
    attacks = {attack.name: attack for attack in read_attacks()}
    names = [*args.only, *(SAMPLE if args.sample else ())] or list(attacks)
    if unknown := set(names) - set(attacks):
        sys.exit(f"not in the bank: {', '.join(sorted(unknown))}")
    started = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="hostile-bank-") as folder:
        bank = prepare(Path(folder), args.sample)
        failed = 0
        with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
            chosen = [attacks[name] for name in names]
            runs = pool.map(functools.partial(run_by_name, bank), names)
            for attack, (found, total, seconds) in zip(chosen, runs, strict=True):
                failed += bool(found)
                word = "BROKEN" if found else "stood"
                print(
                    f"{attack.name:<26}{word:<8}{total:>7.2f} points {seconds:>6.0f} s", flush=True
                )
                for line in found:
                    print(f"    {line}", flush=True)
    total = time.monotonic() - started
    print(f"\nattacks withstood: {len(names) - failed}/{len(names)}   ({total:.0f} s)")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
