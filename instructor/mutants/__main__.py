"""The bank's command: one line a submission, and how many were judged rightly."""

import argparse
import itertools
import sys
import time

from instructor.mutants.bank import Candidate, grade_all
from instructor.mutants.mutant import (
    REFERENCE,
    alternative_source,
    alternatives,
    mutant_source,
    read_mutants,
)

# The tests that train a network take most of the time of a run. They train VAE and GenModel and see
# none of the other definitions, so without --every-test they run for edits of these two only.
TRAINING = {
    "VAE": ["tests/test_part2.py::test_training_lowers_the_loss_and_z_has_the_right_spread"],
    "GenModel": [
        "tests/test_part3.py::test_trained_model_draws_the_digit_asked_for",
        "tests/test_part3.py::test_mu_is_the_code",
    ],
}
# What CI runs: a few mistakes of every part, one wrong and one right network that is trained.
SAMPLE = (
    "vae-eps-shared",
    "vae-log-var-detached",
    "loss-no-half",
    "gen-label-shifted",
    "net-hidden-order",
    "joint-no-prior",
    "proposal-draw-shared",
    "chain-barker",
    "chain-previous-proposal",
    "sample-stale-score",
    "step-cache-of-proposals",
    "jsa-joint-detached",
    "scores-whole-norm",
    "gibbs-not-removed",
    "patch-log-q-own-patch",
    "mlp_networks",
    "torch_distributions",
    "loops",
)


def candidates(
    names: list[str], every_test: bool = False, more: tuple[str, ...] = ()
) -> list[Candidate]:
    """The bank, or what `names` gives of it; `more` are arguments of pytest for everyone."""
    reference = REFERENCE.read_text()
    bank = []
    for mutant in read_mutants():
        unseen = [] if every_test else [t for k, t in TRAINING.items() if k != mutant.where]
        tests = tuple(f"--deselect={test}" for test in itertools.chain(*unseen)) + more
        bank.append(Candidate(mutant.name, mutant.part, mutant_source(mutant, reference), tests))
    for name, path in alternatives().items():
        bank.append(Candidate(name, "", alternative_source(path, reference), more))
    if unknown := set(names) - {candidate.name for candidate in bank}:
        sys.exit(f"not in the bank: {', '.join(sorted(unknown))}")
    return [candidate for candidate in bank if not names or candidate.name in names]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m instructor.mutants", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these alone")
    parser.add_argument("--sample", action="store_true", help="the part that CI runs")
    parser.add_argument("--every-test", action="store_true", help="leave no test out for anyone")
    parser.add_argument("--seed", type=int, help="secret inputs, as in the autograder's --seed")
    parser.add_argument("--messages", action="store_true", help="print what the student reads")
    parser.add_argument("--jobs", type=int, default=2, help="submissions at a time (default 2)")
    args = parser.parse_args(argv)
    start, verdicts = time.monotonic(), []
    names = [*args.only, *(SAMPLE if args.sample else ())]
    more = () if args.seed is None else (f"--seed={args.seed}",)
    chosen = candidates(names, args.every_test, more)
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


if __name__ == "__main__":
    main()
