"""The quality of a student's models on the hidden split, measured in the sandbox.

Encode and decode run in two sandboxes, one after the other; the parent hands on nothing but codes
and labels. What comes back is compared byte for byte with the .npy header that it must have, and
nothing is unpickled.
"""

import base64
import io
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

import grade
from data_utils import SAMPLE_FILE, read_npz
from instructor.grading.hidden import Hidden
from instructor.grading.result import Metrics, Pictures, Quality
from instructor.grading.uploads import plain
from instructor.isolation.sandbox import Limits, SandboxedWorker
from kit.assignment import CODE_KINDS, TASKS
from kit.files import read_arrays
from tests.tools import CLASSIFIER
from tests.worker import WorkerError, pack

PROGRAM = "instructor.grading.quality_child"  # what answers in the sandbox
MAX_LATENT_DIM = grade.NUM_PIXELS
# Codes of floats get noise of this share of each entry's spread before they are decoded. A decoder
# trained on samples of z does not notice; digits packed into the mantissa do not survive.
BLUR = 0.05
# What may be told to a student of an error on hidden images: its text could carry them away.
KNOWN_ERRORS = """
    AttributeError EOFError FileNotFoundError ImportError IndexError InferenceError KeyError
    MemoryError ModuleNotFoundError NameError NotImplementedError RecursionError RuntimeError
    SettingsError SyntaxError TaskError TrainingError TypeError UnpicklingError
    ValueError ZeroDivisionError
"""


class QualityError(Exception):
    """A task that earns no points; the message is the reason, `detail` is for staff alone."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.detail = detail


def read_reply(reply: bytes) -> tuple[dict, bytes]:
    """The declaration and the bytes of the array."""
    line, newline, array = reply.partition(b"\n")
    try:
        if not newline or len(line) > 4000:
            raise ValueError
        declaration = json.loads(line)
        if not isinstance(declaration, dict):
            raise ValueError
    except (ValueError, RecursionError) as error:
        raise QualityError("the answer is not readable") from error
    if "error" in declaration:
        kind = declaration.get("kind")
        name = kind if kind in KNOWN_ERRORS.split() else "an error"
        raise QualityError(
            f"your code stopped with {name}; `python inference.py` on this checkpoint shows more",
            plain(str(declaration["error"]), 500),
        )
    return declaration, array


def read_array(data: bytes, dtype: str, shape: tuple[int, ...], what: str) -> np.ndarray:
    """The array of a .npy file that must have exactly this type and shape, and be finite."""
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    expected = file.getvalue()
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not data.startswith(expected) or len(data) != len(expected) + size:
        raise QualityError(f"{what} must be {np.dtype(dtype)} {list(shape)}, and is something else")
    array = np.frombuffer(data, dtype, offset=len(expected)).reshape(shape)
    if not np.isfinite(array).all():
        raise QualityError(f"{what}: not all numbers are finite")
    return array


def read_codes(declaration: dict, data: bytes, count: int, task: str) -> tuple[np.ndarray, float]:
    """The codes and the bits of one of them, if both are what the declaration says."""
    kind = declaration.get("kind")
    length, categories = declaration.get("latent_dim"), declaration.get("num_categories")
    kinds, most = TASKS[task].code_kinds, TASKS[task].max_categories
    if kind not in kinds:
        raise QualityError(f"the code must be declared as {' or '.join(kinds)}")
    if type(length) is not int or type(categories) is not int:  # True is an int, too
        raise QualityError("the code's size is not declared")
    if not 1 <= length <= MAX_LATENT_DIM:
        raise QualityError(f"a code has 1 to {MAX_LATENT_DIM} entries")
    values = CODE_KINDS[kind].values or categories
    if kind == "categorical" and not 2 <= values <= most:
        raise QualityError(f"an entry has 2 to {most} categories")
    dtype = np.dtype(CODE_KINDS[kind].dtype).str
    codes = read_array(data, dtype, (count, length), "the code")
    if kind != "float" and (codes.min() < 0 or codes.max() >= values):
        raise QualityError(f"the entries of a {kind} code are 0 to {values - 1}")
    return codes, grade.bits_per_image(length, kind, categories)


def blur(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Codes of floats with noise of BLUR times each entry's standard deviation; others as is."""
    if codes.dtype.kind != "f":
        return codes
    wide = codes.astype(np.float64)
    noisy = wide + BLUR * wide.std(axis=0) * rng.normal(size=wide.shape)
    return np.clip(noisy, *np.array([-1, 1]) * np.finfo(np.float32).max).astype(np.float32)


def measure(
    folder: Path,
    hidden: Hidden,
    limits: Limits,
    wanted: tuple[str, ...],
    unsafe: bool = False,
) -> tuple[dict[str, Quality], dict[str, float]]:
    """Grade every task of `wanted` that `folder` holds a checkpoint for.

    Returns:
        The quality of each of `wanted`, and seconds by step.
    """
    tasks = [task for task in wanted if (folder / f"{task}.pth").is_file()]
    results = {
        task: Quality.failed(task, f"{task}.pth was not handed in")
        for task in wanted
        if task not in tasks
    }
    everything = np.concatenate([hidden.images, hidden.plain])
    labels = np.tile(hidden.labels, 2).astype(np.int64)
    samples_of = np.repeat(np.arange(10), grade.SAMPLES_PER_CLASS)
    seconds, coded, images = {}, {}, {}
    order = hidden.rng("order").permutation(len(labels))

    def seen(task: str, true_labels: np.ndarray) -> np.ndarray:
        return true_labels if TASKS[task].labelled else np.zeros_like(true_labels)

    def run(worker: SandboxedWorker, step: str, task: str, **arrays) -> tuple[dict, bytes]:
        try:
            return read_reply(worker.call(pack([step, task, hidden.seed(step), arrays])))
        except WorkerError as error:
            raise QualityError(f"{step}: {error}") from error
        except QualityError as error:
            raise QualityError(f"{step}: {error}", error.detail) from error

    def encode(worker, task):
        sent = {"images": everything[order], "labels": seen(task, labels[order])}
        declaration, data = run(worker, "encode", task, **sent)
        codes, bits = read_codes(declaration, data, len(order), task)
        # The decoder gets them in another order: the position of an image must say nothing.
        coded[task] = codes[np.argsort(order)], bits

    def decode(worker, task):
        rng = hidden.rng(f"noise and order of {task}")
        shuffle = rng.permutation(len(labels))
        codes = blur(coded[task][0], rng)[shuffle]
        _, data = run(worker, "decode", task, codes=codes, labels=seen(task, labels[shuffle]))
        decoded = read_array(data, "|u1", everything.shape, "the decoded images")
        _, data = run(worker, "generate", task, labels=seen(task, samples_of))
        samples = read_array(data, "|u1", (len(samples_of), 28, 28), "the samples")
        images[task] = decoded[np.argsort(shuffle)], samples

    for step in (encode, decode):
        started = time.monotonic()
        worker = SandboxedWorker(folder, limits, unsafe, PROGRAM, scratch=folder.parent)
        try:
            for task in tasks:
                if task in results:
                    continue
                try:
                    step(worker, task)
                except QualityError as error:
                    results[task] = Quality.failed(task, str(error), error.detail)
        finally:
            worker.close()
        seconds[step.__name__] = time.monotonic() - started
    started = time.monotonic()
    for task, (decoded, samples) in images.items():
        results[task] = measured(task, hidden, *coded[task], decoded, samples, samples_of)
    seconds["metrics"] = time.monotonic() - started
    return {task: results[task] for task in wanted}, seconds


def measured(
    task: str,
    hidden: Hidden,
    codes: np.ndarray,
    bits: float,
    decoded: np.ndarray,
    samples: np.ndarray,
    samples_of: np.ndarray,
) -> Quality:
    """The metrics of grade.py, and for staff how the plain images and a classifier compare.

    Args:
        codes, decoded: of the hidden images, then of the same images without transforms.
        bits: of one code.
        samples, samples_of: the model's samples and the digits that they were asked for.
    """
    count = len(hidden.labels)
    transformed, plain_ones = decoded[:count], decoded[count:]
    arrays = (hidden.images, hidden.labels, codes[:count], transformed, samples, samples_of)
    try:
        values = grade.evaluate(task, *arrays)
    except grade.GradeError as error:
        return Quality.failed(task, str(error))
    probabilities = read_digits(samples)
    read_as = probabilities.argmax(axis=1)
    recognised = float(np.mean(read_as == samples_of)) if TASKS[task].labelled else None
    pairs = np.concatenate([hidden.images[:10], transformed[:10]]).reshape(2, 10, 28, 28)
    points, code_length = values.pop("points"), int(values.pop("code_length"))
    metrics = Metrics(
        **{name: round(float(value), 6) for name, value in values.items()},
        code_length=code_length,
        bits=round(bits, 6),
        plain_mse=round(grade.mean_squared_error(hidden.plain, plain_ones), 6),
        plain_ssim=round(grade.mean_ssim(hidden.plain, plain_ones), 6),
        recognised=recognised,
        classes=[round(float(np.mean(read_as == digit)), 4) for digit in range(10)],
        confidence=round(float(probabilities.max(axis=1).mean()), 4),
        pictures=Pictures(picture(pairs), picture(samples.reshape(10, -1, 28, 28)[:, :10])),
    )
    max_points = float(TASKS[task].quality)
    return Quality(round(float(points), 2), max_points, metrics, flags=flags(samples))


def read_digits(samples: np.ndarray) -> np.ndarray:
    """Probabilities of the ten digits, [N, 10], by the small classifier of part 3's tests."""
    arrays = read_arrays(CLASSIFIER, "w1", "b1", "w2", "b2")
    w1, b1, w2, b2 = (array.astype(np.float64) for array in arrays)
    logits = np.maximum(samples.reshape(len(samples), -1) / 255 @ w1 + b1, 0) @ w2 + b2
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def flags(samples: np.ndarray) -> list[str]:
    """What looks like samples that no model made; for staff, without effect on points."""
    found = []
    different = {image.tobytes() for image in samples}
    if len(different) < len(samples) / 2:
        found.append(f"the samples repeat: {len(different)} different images in {len(samples):,}")
    public = {image.tobytes() for image in read_npz(SAMPLE_FILE)[0]}
    if copied := sum(image.tobytes() in public for image in samples):
        found.append(f"{copied} of {len(samples):,} samples are images of the training data")
    return found


def picture(grid: np.ndarray) -> str:
    """Images [rows, columns, 28, 28] as one PNG in base64."""
    rows, columns = grid.shape[:2]
    pixels = grid.transpose(0, 2, 1, 3).reshape(rows * 28, columns * 28)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
