"""Try the bank of attacks on the grader: each must get its verdict and change nothing else.

    python -m instructor attacks                 # the whole bank
    python -m instructor attacks --sample        # the part that CI runs, about a minute
    python -m instructor attacks --only NAME     # one attack

One line per attack: whether the grader stood it, its points and its seconds. After each attack an
honest upload is graded, which must get exactly its usual grade.
"""

import functools
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from instructor.banks.attacks.attack import read_attacks
from instructor.banks.attacks.bank import SAMPLE, prepare, run_by_name
from instructor.door import make_parser, positive


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these alone")
    parser.add_argument("--sample", action="store_true", help="the part that CI runs")
    parser.add_argument(
        "--jobs", type=positive(int), default=2, help="attacks at a time (default: 2)"
    )
    args = parser.parse_args(argv)
    attacks = {attack.name: attack for attack in read_attacks()}
    names = [*args.only, *(SAMPLE if args.sample else ())] or list(attacks)
    if unknown := set(names) - set(attacks):
        sys.exit(f"error: not in the bank: {', '.join(sorted(unknown))}")
    started = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="bank-of-attacks-") as folder:
        bank = prepare(Path(folder), args.sample)
        failed = 0
        with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
            runs = pool.map(functools.partial(run_by_name, bank), names)
            for name, (found, total, seconds) in zip(names, runs, strict=True):
                failed += bool(found)
                word = "BROKEN" if found else "stood"
                print(f"{name:<26}{word:<8}{total:>7.2f} points {seconds:>6.0f} s", flush=True)
                for line in found:
                    print(f"    {line}", flush=True)
    total = time.monotonic() - started
    print(f"\nattacks withstood: {len(names) - failed}/{len(names)}   ({total:.0f} s)")
    sys.exit(failed > 0)
