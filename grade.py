"""Grade what inference wrote: MSE, SSIM, simplified FID, compression bonus, Grade.

    python grade.py                     # every task found under runs/
    python grade.py --run_dir other     # ... or under another folder

The functions are a small library of pure NumPy; this file imports no torch and no student code.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from skimage.metrics import structural_similarity

from kit.assignment import CODE_KINDS, TASKS
from kit.files import DATA_DIR, DataError, fingerprint, read_arrays, write_json

SAMPLES_PER_CLASS = 100
NUM_PIXELS = 784


class GradeError(Exception):
    """A result that earns no points; the message is the reason."""


# ----------------------------------------------------------------------------------------------
# Metrics: images are uint8 [N, 28, 28]


def mean_squared_error(images: np.ndarray, reconstructions: np.ndarray) -> float:
    """Mean over all pixels of the squared difference, pixels in [0, 1]."""
    difference = (images.astype(np.float64) - reconstructions.astype(np.float64)) / 255
    return float(np.mean(difference**2))


def mean_ssim(images: np.ndarray, reconstructions: np.ndarray) -> float:
    """Mean over images of the structural similarity (Wang et al. 2004), by scikit-image."""
    pairs = zip(images, reconstructions, strict=True)
    return float(np.mean([structural_similarity(a, b, data_range=255) for a, b in pairs]))


def simplified_fid(real: np.ndarray, generated: np.ndarray) -> float:
    """||m - m'||^2 + ||s - s'||^2 with per-pixel means m and standard deviations s in [0, 1].

    This is the Frechet distance (Heusel et al. 2017) between Gaussians with diagonal covariance,
    on pixels instead of Inception features.
    """
    moments = [
        np.concatenate([images.mean(axis=0).ravel(), images.std(axis=0).ravel()])
        for images in (real / 255, generated / 255)
    ]
    return float(np.sum((moments[0] - moments[1]) ** 2))


def class_fid(
    real: np.ndarray, labels: np.ndarray, generated: np.ndarray, generated_labels: np.ndarray
) -> float:
    """`simplified_fid` for each class of `labels`, averaged over the classes."""
    classes = np.unique(labels)
    distances = [
        simplified_fid(real[labels == c], generated[generated_labels == c]) for c in classes
    ]
    return float(np.mean(distances))


# ----------------------------------------------------------------------------------------------
# Formulas


def compression_bonus(code_length: int) -> float:
    """0.2 + R with R = 1 - d/784 for d entries of one code; an identity map has R = 0."""
    return 0.2 + 1 - code_length / NUM_PIXELS


def bits_per_image(code_length: int, kind: str, num_categories: int = 0) -> float:
    """Size of one code: 32 bits a float, 1 a Bernoulli variable, log2 C a categorical one."""
    return code_length * math.log2(CODE_KINDS[kind].values or max(num_categories, 1))


def raw_score(task: str, mse: float, ssim: float, fid: float, bonus: float) -> float:
    """The lab's formula before the cap at 10; rankings use it."""
    reconstruction = 10 * ssim + 100 * max(0.1 - mse, 0)
    if not TASKS[task].samples_count:
        return reconstruction / 2 * bonus
    return (reconstruction + max(10 - fid, 0)) * bonus


def grade_of(raw: float) -> float:
    """The Grade, min(raw, 10)."""
    return min(raw, 10.0)


def quality_points(task: str, raw: float) -> float:
    """Points for quality: the raw score from 0 up to 10 (VAEwolabel) or 30 (Genwithlabel, JSA)."""
    return min(max(raw, 0.0), float(TASKS[task].quality))  # an SSIM may be negative


# ----------------------------------------------------------------------------------------------
# Results


def check_array(name: str, array: np.ndarray, shape: tuple[int | None, ...], dtypes: str) -> None:
    """Raise GradeError unless the array has this shape (None: any size) and one of the dtypes."""
    fits = array.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.name not in dtypes.split():
        want = ["N" if size is None else size for size in shape]
        raise GradeError(
            f"{name} must be {' or '.join(dtypes.split())} {want}, "
            f"found {array.dtype} {list(array.shape)}"
        )


def evaluate(
    task: str,
    images: np.ndarray,
    labels: np.ndarray,
    codes: np.ndarray,
    reconstructions: np.ndarray,
    samples: np.ndarray,
    sample_labels: np.ndarray,
) -> dict[str, float]:
    """All metrics of one task.

    Args:
        task: one of TASKS.
        images, labels: the split, uint8 [N, 28, 28] and [N].
        codes: what the encoder sent, [N, d], float32 or integers.
        reconstructions: uint8 [N, 28, 28].
        samples, sample_labels: uint8 [M, 28, 28] and [M], 100 per class.

    Raises:
        GradeError: an array is not what it should be; the message says which and why.
    """
    check_array("reconstructions", reconstructions, images.shape, "uint8")
    dtypes = " ".join(kind.dtype for kind in CODE_KINDS.values())
    check_array("codes", codes, (len(images), None), dtypes)
    if not np.isfinite(codes).all():
        raise GradeError("codes hold numbers that are not finite")
    if not 1 <= codes.shape[1] <= NUM_PIXELS:
        raise GradeError(f"a code must have 1 to {NUM_PIXELS} entries, found {codes.shape[1]}")
    check_array("samples", samples, (10 * SAMPLES_PER_CLASS, 28, 28), "uint8")
    check_array("sample labels", sample_labels, (len(samples),), "uint8 int64")
    wanted = np.repeat(np.arange(10), SAMPLES_PER_CLASS)
    if not np.array_equal(np.sort(sample_labels), wanted):
        raise GradeError(f"there must be {SAMPLES_PER_CLASS} samples of each class")
    mse = mean_squared_error(images, reconstructions)
    ssim = mean_ssim(images, reconstructions)
    if TASKS[task].labelled:
        fid = class_fid(images, labels, samples, sample_labels)
    else:
        fid = simplified_fid(images, samples)
    bonus = compression_bonus(codes.shape[1])
    raw = raw_score(task, mse, ssim, fid, bonus)
    return {
        "mse": mse,
        "ssim": ssim,
        "fid": fid,
        "code_length": codes.shape[1],
        "bonus": bonus,
        "raw": raw,
        "grade": grade_of(raw),
        "points": quality_points(task, raw),
    }


def grade_folder(task: str, folder: Path, data_dir: Path, split: str | None = None) -> dict:
    """Grade one run folder; what cannot be graded gets 0 points and a `reason`.

    `split` None takes the split that inference ran on.
    """
    try:
        info = read_info(folder, task)
        if split is not None and split != info["split"]:
            raise GradeError(f"inference ran on {info['split']}, not on {split}; run it again")
        images, labels = read_arrays(data_dir / f"{info['split']}.npz", "images", "labels")
        if info["images_sha256"] != fingerprint(images):
            raise GradeError(f"inference ran on other images than {data_dir}/{info['split']}.npz")
        (codes,) = read_arrays(folder / "codes.npz", "codes")
        (reconstructions,) = read_arrays(folder / "reconstructions.npz", "images")
        samples, sample_labels = read_arrays(folder / "samples.npz", "images", "labels")
        result = evaluate(task, images, labels, codes, reconstructions, samples, sample_labels)
        bits = bits_per_image(codes.shape[1], info["code_kind"], info["num_categories"])
        return {**result, "bits": bits, "split": info["split"], "reason": ""}
    except (GradeError, DataError) as error:
        return ungraded(str(error))


def ungraded(reason: str) -> dict:
    """The result of a task that earns nothing."""
    return {"raw": 0.0, "grade": 0.0, "points": 0.0, "reason": reason}


def read_info(folder: Path, task: str) -> dict:
    """Read inference.json, which says what the arrays beside it are."""
    path = folder / "inference.json"
    hint = f"run `python inference.py --checkpoint_path {folder / 'best.pth'}` first"
    try:
        info = json.loads(path.read_text())
        expected: dict[str, Callable[[object], bool]] = {
            "task": lambda value: value == task,
            "split": lambda value: isinstance(value, str),
            "code_kind": lambda value: value in TASKS[task].code_kinds,
            "num_categories": lambda value: isinstance(value, int),
            "images_sha256": lambda value: isinstance(value, str),
        }
        wrong = [key for key, fits in expected.items() if not fits(info.get(key))]
    except FileNotFoundError as error:
        raise GradeError(f"{path} is missing; {hint}") from error
    except (OSError, ValueError, AttributeError) as error:
        raise GradeError(f"{path} is damaged ({error}); {hint}") from error
    if wrong:
        raise GradeError(f"{path}: {', '.join(wrong)} is not what it should be; {hint}")
    return info


def format_table(results: dict[str, dict]) -> str:
    """The results as a table for the terminal."""
    columns = ("MSE", "SSIM", "FID", "bits", "bonus", "raw", "Grade")
    lines = [f"{'task':<13}" + "".join(f"{name:>8}" for name in columns) + f"{'points':>12}"]
    for task, row in results.items():
        most = TASKS[task].quality
        points = f"{row['points']:.2f} / {most:g}" if most else "-"
        if row["reason"]:
            lines.append(f"{task:<13}not graded: {row['reason']}")
            continue
        lines.append(
            f"{task:<13}{row['mse']:>8.4f}{row['ssim']:>8.4f}{row['fid']:>8.2f}{row['bits']:>8.0f}"
            f"{row['bonus']:>8.3f}{row['raw']:>8.2f}{row['grade']:>8.2f}{points:>12}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Grade the results of inference.py.")
    parser.add_argument("--run_dir", default="runs", help="holds one run folder per task")
    parser.add_argument("--data_dir", default=DATA_DIR, help="holds the split files")
    parser.add_argument("--split", help="insist on NAME.npz (default: what inference ran on)")
    parser.add_argument("--out", default="grade_result.json", help="where the result goes")
    args = parser.parse_args(argv)
    try:
        results = grade_runs(Path(args.run_dir), Path(args.data_dir), args.split)
        print(format_table(results))
        write_json(args.out, results)
    except (GradeError, OSError) as error:
        sys.exit(f"error: {error}")


def grade_runs(run_dir: Path, data_dir: Path, split: str | None) -> dict[str, dict]:
    """`grade_folder` of every task in `run_dir`; GradeError where there is none."""
    found = [task for task in TASKS if (run_dir / task).is_dir()]
    if not found:
        raise GradeError(f"no run folder of a task under {run_dir}/; train first.")
    return {task: grade_folder(task, run_dir / task, data_dir, split) for task in found}


if __name__ == "__main__":
    main()
