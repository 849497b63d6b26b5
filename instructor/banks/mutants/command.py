"""Test the autograder: wrong submissions that it must catch, unusual right ones it must pass.

    python -m instructor mutants                 # all of it, two at a time
    python -m instructor mutants --sample        # the part that CI runs, about 50 s of one core
    python -m instructor mutants --only NAME     # a mutant, and with --messages what it is told

One line per submission, and how many were judged rightly.
"""

import sys
import time

from instructor.banks.mutants.bank import SAMPLE, candidates, grade_all
from instructor.door import make_parser, positive


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these alone")
    parser.add_argument("--sample", action="store_true", help="the part that CI runs")
    parser.add_argument("--every-test", action="store_true", help="leave no test out for anyone")
    parser.add_argument("--seed", type=int, help="secret inputs, as in the autograder's --seed")
    parser.add_argument("--messages", action="store_true", help="print what the student reads")
    parser.add_argument(
        "--jobs", type=positive(int), default=2, help="submissions at a time (default: 2)"
    )
    args = parser.parse_args(argv)
    start, verdicts = time.monotonic(), []
    names = [*args.only, *(SAMPLE if args.sample else ())]
    more = () if args.seed is None else (f"--seed={args.seed}",)
    try:
        chosen = candidates(names, args.every_test, more)
    except LookupError as error:
        sys.exit(f"error: {error}")
    for verdict in grade_all(chosen, args.jobs):
        verdicts.append(verdict)
        candidate = verdict.candidate
        print(f"{candidate.name:<36}{candidate.part or 'all':<5}{verdict.word}", flush=True)
        if args.messages or not verdict.good:
            for part, message in verdict.messages.items():
                print("\n".join(f"    {part}: {line}" for line in message.splitlines()))
    wrong = [verdict for verdict in verdicts if verdict.candidate.part]
    right = [verdict for verdict in verdicts if not verdict.candidate.part]
    caught, alarms = sum(v.good for v in wrong), sum(not v.good for v in right)
    print(f"\nmutants caught: {caught}/{len(wrong)}   false alarms: {alarms}/{len(right)}", end="")
    print(f"   ({time.monotonic() - start:.0f} s)")
    sys.exit(caught < len(wrong) or alarms > 0)
