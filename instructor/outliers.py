"""Remarks on results that stand out of the class: for staff to look at, never graded."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np

from grade import TASKS

MIN_SCORES = 8  # fewer do not say what is usual
LIMIT = 3.0  # robust standard deviations
NAMED = 5  # other students listed in one remark

Results = dict[str, dict]  # one task's figures by student


def results_of(rows: list[dict], task: str) -> Results:
    """The figures of those whose model of this task could be graded, by key."""
    found = {row["key"]: row["quality"].get(task) for row in rows}
    return {key: result for key, result in found.items() if result and not result["reason"]}


def gaps(result: dict) -> tuple[float, float]:
    """How much better a model does on the plain images: (SSIM gained, MSE saved)."""
    return result["plain_ssim"] - result["ssim"], result["mse"] - result["plain_mse"]


def reading(result: dict) -> float:
    """How well a classifier reads the samples: as the digits asked for, else how surely."""
    return result["confidence"] if result["recognised"] is None else result["recognised"]


def far_above(
    results: Results, figure: Callable[[dict], float], floor: float
) -> dict[str, tuple[float, float]]:
    """The value and the class median, for values far above it.

    Far is more than LIMIT times 1.4826 MAD, which is the standard deviation where values are
    normal and does not move with a few odd ones. `floor` is the least that counts as a standard
    deviation, for a class that agrees to the last digit.
    """
    values = {key: figure(result) for key, result in results.items()}
    if len(values) < MIN_SCORES:
        return {}
    middle = float(np.median(list(values.values())))
    deviation = 1.4826 * float(np.median([abs(value - middle) for value in values.values()]))
    limit = middle + LIMIT * max(deviation, floor)
    return {key: (value, middle) for key, value in values.items() if value > limit}


def outliers(rows: list[dict]) -> dict[str, list[str]]:
    """Remarks by student key; students without one are left out."""
    remarks: dict[str, list[str]] = defaultdict(list)
    for task in TASKS:
        results = results_of(rows, task)
        for check in (high_raw, costly_reconstruction, wide_gap, unreadable, same_figures):
            for key, remark in check(results).items():
                remarks[key].append(f"{task}: {remark}")
    return dict(remarks)


def high_raw(results: Results) -> dict[str, str]:
    found = far_above(results, lambda result: result["raw"], floor=0.1)
    return {
        key: f"raw score {value:.2f} is far above the class median, {middle:.2f}"
        for key, (value, middle) in found.items()
    }


def costly_reconstruction(results: Results) -> dict[str, str]:
    """The bonus counts a code's entries; pixels packed into a few large ones would show here."""
    if len(results) < MIN_SCORES:
        return {}
    mse, bits = (float(np.median([r[name] for r in results.values()])) for name in ("mse", "bits"))
    return {
        key: f"MSE {result['mse']:.4f} (class median {mse:.4f}) with {result['bits']:.0f} bits an "
        f"image (class median {bits:.0f})"
        for key, result in results.items()
        if result["mse"] < mse / 2 and result["bits"] > 3 * bits
    }


def wide_gap(results: Results) -> dict[str, str]:
    found = far_above(results, lambda result: gaps(result)[0], floor=0.01)
    return {
        key: f"SSIM is {value:.3f} higher on the plain images (class median {middle:.3f})"
        for key, (value, middle) in found.items()
    }


def unreadable(results: Results) -> dict[str, str]:
    """Samples with the right mean and spread at each pixel, and no digits."""
    dim = far_above(results, lambda result: -reading(result), floor=0.05)
    low = [result["fid"] for result in results.values()]
    half = float(np.median(low)) / 2 if low else 0.0
    return {
        key: f"samples good for the FID ({results[key]['fid']:.2f}) but unreadable: a classifier "
        f"reads {-value:.0%} (class median {-middle:.0%})"
        for key, (value, middle) in dim.items()
        if results[key]["fid"] < half
    }


def same_figures(results: Results) -> dict[str, str]:
    groups = defaultdict(list)
    for key, result in results.items():
        groups[tuple(round(result[name], 6) for name in ("raw", "mse", "ssim", "fid"))].append(key)
    remarks = {}
    for keys in groups.values():
        for key in keys if len(keys) > 1 else []:
            others = [other for other in keys if other != key]
            more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
            remarks[key] = f"same figures as {', '.join(others[:NAMED])}{more}"
    return remarks
