"""Compare the learning curves of one process and of two, over several seeds.

    python -m instructor curves --seeds 5

All runs have the same global batch. Since the processes draw other random numbers, single curves
differ; so for each epoch the difference of the two means over the seeds is set in relation to its
standard error. Beyond 4 standard errors in any epoch the curves do not match.
"""

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from instructor.door import make_parser, positive

EPOCHS = 12
RUN = f"train.py --task JSA --prior uniform --local_steps 0 --hidden 200 --epochs {EPOCHS} "
RUN = f"{RUN} --cache_start_epoch 7 --save_dir".split()


def curve(processes: int, seed: int) -> list[float]:
    """The column val_loss, nats, of one run on the bundled sample."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc_per_node={processes}", *RUN, folder, "--seed", str(seed)]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, capture_output=True, env=one_thread)
        with Path(folder, "log.csv").open() as file:
            return [float(row["val_loss"]) for row in csv.DictReader(file)]


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("--seeds", type=positive(int), default=5, help="runs each (default: 5)")
    args = parser.parse_args(argv)
    runs = np.array(
        [[curve(processes, seed) for seed in range(args.seeds)] for processes in (1, 2)]
    )  # (2, seeds, epochs)
    means = runs.mean(axis=1)  # (2, epochs)
    error = np.sqrt(runs.var(axis=1, ddof=1).sum(axis=0) / args.seeds)  # (epochs,)
    deviation = (means[1] - means[0]) / error
    print("epoch  1 process  2 processes  standard error of the difference  difference / error")
    for epoch, (one, two, e, d) in enumerate(zip(*means, error, deviation, strict=True), start=1):
        print(f"{epoch:5d}  {one:9.2f}  {two:11.2f}  {e:32.2f}  {d:18.1f}")
    matches = np.abs(deviation).max() <= 4
    print("the curves match" if matches else "THE CURVES DIFFER")
    sys.exit(0 if matches else 1)
