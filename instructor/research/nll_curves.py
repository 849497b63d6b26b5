"""Draw the validation NLL of runs over their epochs.

    python -m instructor nll RUN [RUN ...] --out FILE.png

Each RUN is a run folder that was trained with --val_metric nll; its name is the curve's label.
"""

from pathlib import Path

from matplotlib.figure import Figure

from instructor.door import make_parser
from instructor.research.runs import read_run
from kit.pictures import save_figure


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", required=True, type=Path, help="the picture")
    args = parser.parse_args(argv)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    samples = set()
    for run in args.runs:
        config, points = read_run(run, "val_nll")
        samples.add(config["nll_samples"])
        (line,) = axis.plot(*zip(*points, strict=True), label=run.name)
        if "cache_start_epoch" in config:
            axis.axvline(config["cache_start_epoch"], color=line.get_color(), linestyle=":")
    axis.plot([], [], ":", color="grey", label="the cache starts")
    axis.set(xscale="log", xlabel="epoch")
    axis.set_ylabel(f"-log p(x), validation, {', '.join(map(str, sorted(samples)))} samples (nats)")
    axis.set_ylim(top=150)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save_figure(figure, args.out, dpi=90)
