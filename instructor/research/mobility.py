"""Draw how many cached states still move, over the epochs since the cache is in use.

    python -m instructor mobility RUN [RUN ...] --out FILE.png

Each RUN is a run folder of JSA. The dashed line is 1/t: the share of chains that would move in the
t-th epoch if a move were a new record among t equally distributed weights.
"""

from pathlib import Path

from matplotlib.figure import Figure

from instructor.door import make_parser
from instructor.research.runs import read_run
from kit.pictures import save_figure


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of JSA")
    parser.add_argument("--out", required=True, type=Path, help="the picture")
    args = parser.parse_args(argv)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    longest = 2
    for run in args.runs:
        config, points = read_run(run, "moved")
        # In the first epoch with the cache every state is new, so that one says nothing.
        shares = [share for _, share in points[1:]]
        label = f"sigma {config['sigma']:g}, cache from epoch {config['cache_start_epoch']}"
        axis.plot(range(2, len(shares) + 2), shares, label=label)
        longest = max(longest, len(shares) + 1)
    epochs = range(2, longest + 1)
    axis.plot(epochs, [1 / t for t in epochs], "k--", linewidth=1, label="1 / t")
    axis.axhline(0.01, color="grey", linewidth=0.8)
    axis.text(2, 0.0105, "frozen below", fontsize=7, color="grey")
    axis.set(xscale="log", yscale="log", ylabel="share of cached states that moved")
    axis.set_xticks([t for t in (2, 5, 10, 20, 50, 100, 200, 500) if t <= longest])
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.set_xlabel("t, epochs with the cache")
    axis.legend(fontsize=8)
    save_figure(figure, args.out, dpi=90)
