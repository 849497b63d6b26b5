"""Small inline SVG charts for the class report.

Written by hand rather than with matplotlib: 900 training curves of four panels take 0.6 s and 4 MB
instead of 130 s and 42 MB, take their colours from the page's style sheet, and no text of a
student meets a formula parser. `Markup.format` escapes whatever text is put in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from instructor.grading.result import Log

MAX_POINTS = 200  # of one curve: more than the picture is wide
MAX_OTHERS = 3  # panels beside the losses


@dataclass
class Panel:
    """One chart and the names of its lines, in the order of the classes line0, line1, ..."""

    picture: Markup
    names: list[str]


def svg(width: int, height: int, label: str, content: Sequence[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img">').format(
        width, height
    ) + Markup("<title>{}</title>{}</svg>").format(label, Markup("").join(content))


def text(x: float, y: float, content: str, anchor: str = "middle") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, content
    )


def bar(x: float, y: float, width: float, height: float, label: str) -> Markup:
    shape = '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
    return Markup(shape + "<title>{}</title></rect>").format(x, y, width, height, label)


def histogram(values: list[float], upper: float, label: str, *, wide: bool = False) -> Markup:
    """How many of `values` fall into each of 10 (wide: 20) bins between 0 and `upper`.

    Args:
        values: those outside count in the first or last bin.
        label: says what is counted, for readers who do not see the picture.
    """
    width, height, bins = (480, 150, 20) if wide else (300, 130, 10)
    left, top, right, bottom = 28, 16, width - 14, height - 20
    counts, edges = np.histogram(np.clip(values, 0, upper), bins=bins, range=(0, upper))
    step = (right - left) / bins
    content = [Markup('<path class="axis" d="M{} {}H{}"/>').format(left, bottom, right)]
    for i, count in enumerate(counts.tolist()):
        tall = (bottom - top) * count / max(counts.max(), 1)
        name = f"{edges[i]:.4g} to {edges[i + 1]:.4g}: {count}"
        content.append(bar(left + i * step + 1, bottom - tall, step - 2, tall, name))
        if count:
            content.append(text(left + (i + 0.5) * step, bottom - tall - 3, str(count)))
    for i in range(0, bins + 1, bins // 5):
        content.append(text(left + i * step, height - 5, f"{edges[i]:.4g}"))
    return svg(width, height, label, content)


def digit_bars(shares: list[float], label: str) -> Markup:
    """Ten bars, the share of samples read as each digit; the line marks an even tenth."""
    width, height, top, bottom = 200, 84, 14, 68
    scale = (bottom - top) / max(*shares, 0.2)
    content = [
        Markup('<path class="even" d="M0 {0:.1f}H{1}"/>').format(bottom - 0.1 * scale, width)
    ]
    for digit, share in enumerate(shares):
        tall = share * scale
        name = f"{share:.1%} read as {digit}"
        content.append(bar(digit * 20 + 3, bottom - tall, 14, tall, name))
        content.append(text(digit * 20 + 10, height - 3, str(digit)))
    return svg(width, height, label, content)


def curves(log: Log, label: str) -> list[Panel]:
    """The training curves of one log: the losses together, then a few other columns one by one.

    Args:
        log: of a student's making, column names included.
        label: says whose curve it is.
    """
    names = [str(name)[:40] for name in log.columns]
    losses = [i for i, name in enumerate(names) if "loss" in name.lower()][:4]
    others = [i for i, name in enumerate(names) if i not in losses and name.lower() != "epoch"]
    panels = []
    for group in [losses, *([i] for i in others[:MAX_OTHERS])]:
        lines = [[plottable(row[i] if i < len(row) else None) for row in log.rows] for i in group]
        if any(value is not None for line in lines for value in line):
            panels.append(Panel(line_chart(lines, label), [names[i] for i in group]))
    return panels


def plottable(value: float | None) -> float | None:
    """The value, or None where no axis could hold it."""
    return value if value is not None and math.isfinite(value) and abs(value) < 1e12 else None


def value_range(values: list[float]) -> tuple[float, float]:
    """The range of the axis. A few values far off, as in epoch 1, must not flatten the rest."""
    low, q1, q9, high = np.quantile(values, [0, 0.1, 0.9, 1])
    room = 2 * (q9 - q1)
    low, high = max(low, q1 - room), min(high, q9 + room)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        middle = (low + high) / 2
        low, high = middle - max(abs(middle), 1) / 2, middle + max(abs(middle), 1) / 2
    return float(low), float(high)


def line_chart(lines: list[list[float | None]], label: str) -> Markup:
    """Curves over epochs 1, 2, ...; gaps where a value is None, cut where it is out of range."""
    width, height = 250, 130
    left, top, right, bottom = 48, 10, width - 10, height - 20
    epochs = len(lines[0])
    low, high = value_range([value for line in lines for value in line if value is not None])

    def point(i: int, value: float) -> tuple[float, float]:
        x = left + (right - left) * (i / (epochs - 1) if epochs > 1 else 0.5)
        share = (min(max(value, low), high) - low) / (high - low)
        return x, bottom - (bottom - top) * share

    content = [Markup('<path class="axis" d="M{0} {1}V{2}H{3}"/>').format(left, top, bottom, right)]
    step = max(1, math.ceil(epochs / MAX_POINTS))
    for number, line in enumerate(lines):
        path, pen = [], "M"
        for i in [*range(0, epochs - 1, step), epochs - 1]:
            if line[i] is None:
                pen = "M"
                continue
            x, y = point(i, line[i])
            # A line of no length, with round ends, shows a point that has no neighbours.
            path.append(f"{pen}{x:.1f} {y:.1f}" + (f"L{x:.1f} {y:.1f}" if pen == "M" else ""))
            pen = "L"
        shape = Markup('<path class="line line{}" d="{}"/>')
        content.append(shape.format(number, "".join(path)))
    content.append(text(left - 4, top + 6, f"{high:.4g}", "end"))
    content.append(text(left - 4, bottom, f"{low:.4g}", "end"))
    content.append(text(left, height - 6, "1"))
    content.append(text(right, height - 6, f"epoch {epochs}", "end"))
    return svg(width, height, label, content)
