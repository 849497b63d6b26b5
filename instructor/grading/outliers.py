"""Remarks on results that stand out of the class: for staff to look at, never graded."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np

from instructor.grading.result import Metrics, Result
from kit.assignment import TASKS

MIN_SCORES = 8  # fewer do not say what is usual
LIMIT = 3.0  # robust standard deviations
NAMED = 5  # other students listed in one remark

Measured = dict[str, Metrics]  # one task's metrics by student


def measured_in(rows: list[Result], task: str) -> Measured:
    """The metrics of those whose model of this task could be graded, by key."""
    found = {row.key: row.quality[task].metrics for row in rows if task in row.quality}
    return {key: metrics for key, metrics in found.items() if metrics is not None}


def gaps(metrics: Metrics) -> tuple[float, float]:
    """How much better a model does on the plain images: (SSIM gained, MSE saved)."""
    return metrics.plain_ssim - metrics.ssim, metrics.mse - metrics.plain_mse


def reading(metrics: Metrics) -> float:
    """How well a classifier reads the samples: as the digits asked for, else how surely."""
    return metrics.confidence if metrics.recognised is None else metrics.recognised


def far_above(
    measured: Measured, metric: Callable[[Metrics], float], floor: float
) -> dict[str, tuple[float, float]]:
    """The value and the class median, for values far above it.

    Far is more than LIMIT times 1.4826 MAD, which is the standard deviation where values are
    normal and does not move with a few odd ones. `floor` is the least that counts as a standard
    deviation, for a class that agrees to the last digit.
    """
    values = {key: metric(metrics) for key, metrics in measured.items()}
    if len(values) < MIN_SCORES:
        return {}
    middle = float(np.median(list(values.values())))
    deviation = 1.4826 * float(np.median([abs(value - middle) for value in values.values()]))
    limit = middle + LIMIT * max(deviation, floor)
    return {key: (value, middle) for key, value in values.items() if value > limit}


def outliers(rows: list[Result]) -> dict[str, list[str]]:
    """Remarks by student key; students without one are left out."""
    remarks: dict[str, list[str]] = defaultdict(list)
    for task in TASKS:
        measured = measured_in(rows, task)
        for check in (high_raw, costly_reconstruction, wide_gap, unreadable, same_metrics):
            for key, remark in check(measured).items():
                remarks[key].append(f"{task}: {remark}")
    return dict(remarks)


def high_raw(measured: Measured) -> dict[str, str]:
    found = far_above(measured, lambda metrics: metrics.raw, floor=0.1)
    return {
        key: f"raw score {value:.2f} is far above the class median, {middle:.2f}"
        for key, (value, middle) in found.items()
    }


def costly_reconstruction(measured: Measured) -> dict[str, str]:
    """The bonus counts a code's entries; pixels packed into a few large ones would show here."""
    if len(measured) < MIN_SCORES:
        return {}
    mse = float(np.median([metrics.mse for metrics in measured.values()]))
    bits = float(np.median([metrics.bits for metrics in measured.values()]))
    return {
        key: f"MSE {metrics.mse:.4f} (class median {mse:.4f}) with {metrics.bits:.0f} bits per "
        f"image (class median {bits:.0f})"
        for key, metrics in measured.items()
        if metrics.mse < mse / 2 and metrics.bits > 3 * bits
    }


def wide_gap(measured: Measured) -> dict[str, str]:
    found = far_above(measured, lambda metrics: gaps(metrics)[0], floor=0.01)
    return {
        key: f"SSIM is {value:.3f} higher on the plain images (class median {middle:.3f})"
        for key, (value, middle) in found.items()
    }


def unreadable(measured: Measured) -> dict[str, str]:
    """Samples with the right mean and spread at each pixel that do not look like digits."""
    dim = far_above(measured, lambda metrics: -reading(metrics), floor=0.05)
    low = [metrics.fid for metrics in measured.values()]
    half = float(np.median(low)) / 2 if low else 0.0
    return {
        key: f"samples good for the FID ({measured[key].fid:.2f}) but unreadable: a classifier "
        f"reads {-value:.0%} (class median {-middle:.0%})"
        for key, (value, middle) in dim.items()
        if measured[key].fid < half
    }


def same_metrics(measured: Measured) -> dict[str, str]:
    groups = defaultdict(list)
    for key, metrics in measured.items():
        values = (metrics.raw, metrics.mse, metrics.ssim, metrics.fid)
        groups[tuple(round(value, 6) for value in values)].append(key)
    remarks = {}
    for keys in groups.values():
        for key in keys if len(keys) > 1 else []:
            others = [other for other in keys if other != key]
            more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
            remarks[key] = f"same metrics as {', '.join(others[:NAMED])}{more}"
    return remarks
