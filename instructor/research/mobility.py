"""Draw how many cached states still move, over the epochs since the cache is in use.

    python -m instructor mobility RUN [RUN ...] --out FILE.png

Each RUN is a run folder of JSA. The dashed line is the floor T / (tT + 1) of MIS: at least this
share of the chains moves in the t-th epoch, for fixed p and q. It holds without local steps.
"""

from pathlib import Path

from matplotlib.figure import Figure

from instructor.door import make_parser
from instructor.research.runs import read_run
from kit.chains import moved_floor
from kit.pictures import save_figure


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of JSA")
    parser.add_argument("--out", required=True, type=Path, help="the picture")
    args = parser.parse_args(argv)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    configs, longest = [], 2
    for run in args.runs:
        config, points = read_run(run, "moved")
        configs.append(config)
        # In the first epoch with the cache every state is new, so that one says nothing.
        shares = [share for _, share in points[1:]]
        label = f"{config['prior']} prior, sigma {config['sigma']:g}, G = {config['local_steps']}, "
        label += f"cache from epoch {config['cache_start_epoch']}"
        axis.plot(range(2, len(shares) + 2), shares, label=label)
        longest = max(longest, len(shares) + 1)
    num_steps = [config["num_mis_steps"] for config in configs if config["local_steps"] == 0]
    epochs = range(2, longest + 1)
    for steps in sorted(set(num_steps)):
        floor = [moved_floor(steps, t) for t in epochs]
        axis.plot(epochs, floor, "k--", linewidth=1, label=f"floor of MIS, T = {steps}")
    axis.set(xscale="log", yscale="log", ylabel="share of cached states that moved")
    axis.set_xticks([t for t in (2, 5, 10, 20, 50, 100, 200, 500) if t <= longest])
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.set_xlabel("t, epochs with the cache")
    axis.legend(fontsize=8)
    save_figure(figure, args.out, dpi=90)
