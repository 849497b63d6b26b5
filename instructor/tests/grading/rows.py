"""A made-up class: plausible results, and some in which every text is an attack."""

import base64
import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from instructor.grading.result import Check, Code, Log, Metrics, Pictures, Quality, Result
from instructor.grading.uploads import Upload
from kit.assignment import TASKS, USUAL, tasks_of

HOSTILE = [
    "<script>window.hacked=1</script>",
    '"><img src=x onerror=window.hacked=1>',
    "</style><style>@import 'https://example.org/x.css';</style>",
    "</pre></title></script><script>window.hacked=1</script>",
    "{{7*7}}{% raw %}",
    "$\\frac{$ <svg onload=window.hacked=1>",
    "' onmouseover='window.hacked=1' style='color:red",
    "javascript:window.hacked=1",
    "\u202egnp.exe \ud800 \x00 \x1b[31m",
]


def png(seed: int) -> str:
    """A picture in base64."""
    pixels = np.random.default_rng(seed).integers(256, size=(56, 280), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PICTURES = Pictures(reconstructions=png(0), samples=png(1))


def make_quality(task: str, rng: np.random.Generator) -> Quality:
    raw = float(rng.normal(18, 2)) if task != "VAEwolabel" else float(rng.normal(9, 1))
    mse, ssim = float(rng.normal(0.014, 0.002)), float(rng.normal(0.85, 0.02))
    most = float(TASKS[task].quality)
    metrics = Metrics(
        raw=raw,
        grade=min(raw, 10.0),
        mse=mse,
        ssim=ssim,
        fid=float(rng.normal(8, 1)),
        code_length=200 if task == "JSA" else 20,
        bits=200.0 if task == "JSA" else 640.0,
        bonus=0.945 if task == "JSA" else 1.174,
        plain_mse=mse - 0.001,
        plain_ssim=ssim + float(rng.normal(0.01, 0.002)),
        recognised=float(rng.normal(0.9, 0.02)) if task == "Genwithlabel" else None,
        classes=rng.dirichlet(np.full(10, 30)).tolist(),
        confidence=float(rng.normal(0.87, 0.02)),
        pictures=PICTURES,
    )
    return Quality(min(raw, most), most, metrics)


def make_log(rng: np.random.Generator, epochs: int = 30) -> Log:
    loss = 100 + 400 * np.exp(-np.arange(epochs) / 6) + rng.normal(size=epochs)
    rows = [[i + 1.0, x, x + 5, 0.5 - 0.1 * math.exp(-i)] for i, x in enumerate(loss.tolist())]
    return Log(["epoch", "loss", "val_loss", "acceptance"], rows)


def make_row(name: str, key: str, seed: int = 0, failing: int = 2) -> Result:
    """A plausible student; `failing` checks of part 4 go wrong."""
    rng = np.random.default_rng(seed)
    checks = []
    for part, count, points in ((2, 6, 5.0), (3, 4, 5.0), (4, 8, 5.0)):
        for i in range(1, count + 1):
            passed = part < 4 or i > failing
            output = "" if passed else "log p(x, h) is off by log 2\n-> TODO 4.2"
            checks.append(
                Check(
                    name=f"TODO {part}.{i}: test_{i}",
                    number=f"{part}.{i}",
                    score=points if passed else 0.0,
                    max_score=points,
                    status="passed" if passed else "failed",
                    output=output,
                    visibility="visible",
                )
            )
    return Result(
        name,
        key,
        unsafe=False,
        code=Code(list(USUAL), checks),
        quality={task: make_quality(task, rng) for task in tasks_of(USUAL)},
        logs={"JSA": make_log(rng)},
        seconds={"code": 9.1, "encode": 4.0},
    )


def empty_row(name: str, key: str) -> Result:
    """A student whose archive could not even be opened."""
    return Result.failed(Upload(Path("x.zip"), name, key), USUAL, "the archive is damaged")


def make_class(size: int = 10) -> list[Result]:
    return [
        make_row(f"student {i:03d}", f"student-{i:03d}-aa", seed=i, failing=i % 4)
        for i in range(size)
    ]


def hostile_class() -> list[Result]:
    """A class in which every text that a student may choose is an attack."""
    rows = make_class(4)
    for i, text in enumerate(HOSTILE):
        row = make_row(text[:80], f"hostile-{i}-aa", seed=i)
        row.notes = [text]
        row.code.checks[0].name = row.code.checks[0].output = text
        row.code.checks[0].status = "failed"
        row.code.reason = text
        row.quality["Genwithlabel"] = Quality.failed("Genwithlabel", text)
        row.quality["JSA"].flags = [text]
        row.logs = {"JSA": Log(["epoch", text, f"loss {text}"], [[1.0, 2.0, 3.0]])}
        rows.append(row)
    return [*rows, empty_row("nobody", "nobody-aa")]
