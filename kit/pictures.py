"""Every picture that a run leaves: written atomically, by matplotlib's Figure, in one style."""

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Rectangle

from kit.files import atomic_write
from model import split_choices

SMALL, LARGE = 8, 9  # font sizes
FAINT = 0.1  # the smallest difference of pixels that is shown in full colour


def save_figure(figure: Figure, path: Path, dpi: int = 80) -> Path:
    """Write a figure as a PNG file, whole or not at all."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
    return path


def save_grid(path: str | Path, rows: list[np.ndarray]) -> Path:
    """Write a picture with one line of images per row; each row is uint8 [n, 28, 28]."""
    lines = [np.concatenate([np.pad(image, 1) for image in row], axis=1) for row in rows]
    width = max(line.shape[1] for line in lines)
    canvas = np.concatenate([np.pad(li, ((0, 0), (0, width - li.shape[1]))) for li in lines])
    return save_image(path, np.kron(canvas, np.ones((2, 2), np.uint8)))


def save_image(path: str | Path, pixels: np.ndarray) -> Path:
    """Write uint8 [height, width] as a PNG file, a pixel for each number."""
    with atomic_write(path) as temporary:
        imsave(temporary, pixels, cmap="gray", vmin=0, vmax=255)
    return Path(path)


def reconstruction_rows(images: np.ndarray, recon: np.ndarray, width: int = 10) -> list[np.ndarray]:
    """Rows for `save_grid`: a line of originals, below it their reconstructions, and so on."""
    rows = []
    for start in range(0, len(images), width):
        rows += [images[start : start + width], recon[start : start + width]]
    return rows


def save_latents(path: Path, letter: str, entries: list[int], rows: list[np.ndarray]) -> Path:
    """What single entries of a code do.

    Args:
        letter: what a code is called.
        entries: their numbers.
        rows: for each entry images and their differences from the image before, [n, 2, 28, 28].
    """
    # (n, 2, 28, 28) -> one line of n images for each of the two parts, all lines below each other
    canvases = [
        np.concatenate(
            [np.concatenate(np.pad(row[:, part], ((0, 0), (1, 1), (1, 1))), axis=1) for row in rows]
        )
        for part in (0, 1)
    ]
    limit = max(np.abs(canvases[1]).max(), FAINT)  # else rounding errors would glow
    titles = "images", "what changed (red: more ink, blue: less)"
    looks = (
        {"cmap": "gray", "vmin": 0, "vmax": 1},
        {"cmap": "berlin", "vmin": -limit, "vmax": limit},
    )
    figure = Figure(figsize=(9, 0.42 * len(rows) + 0.5), layout="constrained")
    for axis, canvas, title, look in zip(
        figure.subplots(1, 2), canvases, titles, looks, strict=True
    ):
        axis.imshow(canvas, **look)
        axis.set_title(title, fontsize=LARGE)
        axis.set(xticks=[], yticks=[])
    axis = figure.axes[0]
    names = [f"{letter}$_{{{entry}}}$" for entry in entries]
    axis.set_yticks(30 * np.arange(len(entries)) + 14.5, names, fontsize=LARGE)
    return save_figure(figure, path, dpi=100)


def save_components(path: Path, images: np.ndarray, weights: list[float]) -> Path:
    """The mean images of a mixture's components, uint8 [M, 28, 28], and their weights."""
    columns, height = 10, 38  # pixels of an image and the line above it
    rows = math.ceil(len(images) / columns)
    canvas = np.full((rows * height, columns * 30), 255, np.uint8)
    figure = Figure(figsize=(7, 7 * canvas.shape[0] / canvas.shape[1]))
    axis = figure.add_axes((0, 0, 1, 1))
    for number, (image, weight) in enumerate(zip(images, weights, strict=True)):
        top, left = number // columns * height, number % columns * 30
        canvas[top + 9 : top + 37, left + 1 : left + 29] = image
        axis.text(left + 15, top + 4, f"{weight:.1%}", ha="center", va="center", fontsize=SMALL)
    axis.imshow(canvas, cmap="gray", vmin=0, vmax=255)
    axis.axis("off")
    return save_figure(figure, path, dpi=100)


def save_codes(path: Path, codes: torch.Tensor, labels: torch.Tensor) -> Path:
    """Codes of two entries as points of the plane, coloured by digit.

    Args:
        codes: [N, 2]; labels: [N]. Where entries are discrete, points that would hide each other
            are spread a little.
    """
    places = codes.cpu().double().numpy()
    if len(np.unique(places, axis=0)) < len(places):
        places = places + np.random.default_rng(0).uniform(-0.35, 0.35, places.shape)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axis = figure.subplots()
    colors = colormaps["tab10"]
    for digit in range(10):
        own = places[labels.cpu().numpy() == digit]
        axis.scatter(*own.T, s=8, color=colors(digit), label=str(digit))
    axis.legend(fontsize=SMALL, markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.tick_params(labelsize=SMALL)
    axis.set_title("codes of images, by digit", fontsize=LARGE)
    return save_figure(figure, path, dpi=100)


def save_curves(path: Path, history: list[dict[str, float]]) -> Path:
    """One small panel for each column of log.csv; with its bound, or for validation too, if any."""
    names = list(dict.fromkeys(name for row in history for name in row if name != "epoch"))
    bounds = {f"{name}_{bound}": name for name in names for bound in ("floor", "ceiling")}
    beside = {bounds[other]: other for other in names if other in bounds} | {"loss": "val_loss"}
    beside = {name: other for name, other in beside.items() if {name, other} <= {*names}}
    alone = [name for name in names if name not in beside.values()]
    panels = [[name, beside[name]] if name in beside else [name] for name in alone]
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    wide, high = 3.2 * columns, 2.4 * rows + 0.3
    figure = Figure(figsize=(wide, high))
    # By hand, since matplotlib's own layouts take most of the time of a drawing.
    edges = {
        "left": 0.6 / wide,
        "right": 1 - 0.1 / wide,
        "bottom": 0.6 / high,
        "top": 1 - 0.3 / high,
    }
    figure.subplots_adjust(**edges, wspace=0.25, hspace=0.4)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, panel in zip(axes.flat, panels, strict=False):
        for name in panel:
            points = [(row["epoch"], row[name]) for row in history if name in row]
            style = ":" if name in bounds else "-"
            marker = "." if len(points) < 2 else ""
            axis.plot(*zip(*points, strict=True), style, label=name, marker=marker)
        axis.set_title(" and ".join(panel), fontsize=LARGE)
        axis.tick_params(labelsize=SMALL)
        axis.grid(alpha=0.3)
        if len(panel) > 1:
            axis.legend(fontsize=SMALL)
    figure.supxlabel("epoch", fontsize=LARGE)
    return save_figure(figure, path, dpi=100)


def save_toy(
    path: Path,
    data: torch.Tensor,
    density: torch.Tensor,
    density_title: str,
    points: torch.Tensor,
    posterior: torch.Tensor,
    visits: torch.Tensor,
    num_steps: int,
) -> Path:
    """Data, learned density, and posteriors of four points by sum and by chain.

    Args:
        data: [N, 2], points in the unit square.
        density: [120, 120] on a grid over the square, the first coordinate slowest.
        density_title: what stands above it.
        points: [4, 2].
        posterior, visits: [4, S], the exact p(h|x) and the share of an MIS chain's steps.
        num_steps: of the chain.
    """
    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    axes[0].scatter(*data.T.cpu().numpy(), s=3, alpha=0.5)
    axes[0].set_title("data")
    axes[3].imshow(density.T.cpu().numpy(), origin="lower", extent=(0, 1, 0, 1), cmap="magma")
    axes[3].set_title(density_title)
    for axis in (axes[0], axes[3]):
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        for number, point in enumerate(points.cpu().tolist(), start=1):
            axis.text(*point, str(number), color="red", ha="center", va="center", weight="bold")
    states = np.arange(posterior.shape[1])
    bars = zip(axes[[1, 2, 4, 5]], posterior.cpu().numpy(), visits.cpu().numpy(), strict=True)
    for number, (axis, exact, chain) in enumerate(bars, start=1):
        axis.bar(states - 0.2, exact, 0.4, label="exact p(h|x)")
        axis.bar(states + 0.2, chain, 0.4, label=f"MIS, {num_steps} steps")
        axis.set_title(f"point {number}")
        axis.set_xlabel("number of the state h")
    axes[1].legend()
    return save_figure(figure, path)


def save_patches(
    path: Path, x: torch.Tensor, choices: torch.Tensor, prototypes: torch.Tensor, decode
) -> Path:
    """The prototypes, and a few images put together patch by patch.

    Args:
        x: [B, 1, S, S], the images.
        choices: int64 [B, H], their codes.
        prototypes: [K, R, R].
        decode: choices [1, h] -> image [1, 1, S, S].
    """
    _, i, j = (part.cpu() for part in split_choices(choices, x.shape[-1]))
    prototypes = prototypes.detach().cpu()
    num_patches, width = choices.shape[1], prototypes.shape[-1]
    steps = sorted({max(1, num_patches * s // 6) for s in range(1, 7)})
    columns = len(steps) + 2
    figure = Figure(figsize=(1.5 * columns, 1.6 * (len(x) + 1)), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1, len(x)])
    upper.suptitle("prototypes (red adds ink, blue takes it away)", fontsize=LARGE)
    limit = prototypes.abs().max()
    places = upper.subplots(2, -(-len(prototypes) // 2), squeeze=False).flat
    for axis, prototype in zip(places, prototypes, strict=False):
        axis.imshow(prototype.numpy(), cmap="berlin", vmin=-limit, vmax=limit)
    colors = colormaps["hsv"](torch.linspace(0, 0.9, num_patches).numpy())
    rows = lower.subplots(len(x), columns, squeeze=False)
    for n, row in enumerate(rows):
        pictures = [x[n], *(decode(choices[n : n + 1, :s])[0] for s in steps)]
        titles = ["image", *(f"{s} patches" for s in steps)]
        for axis, picture, title in zip(row, pictures, titles, strict=False):
            axis.imshow(picture[0].cpu().numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_title(title if n == 0 else "", fontsize=SMALL)
        row[-1].imshow(x[n, 0].cpu().numpy(), cmap="gray", vmin=0, vmax=2)
        row[-1].set_title("where they are" if n == 0 else "", fontsize=SMALL)
        for h, color in enumerate(colors):
            corner = j[n, h] - width / 2, i[n, h] - width / 2
            row[-1].add_patch(Rectangle(corner, width, width, fill=False, color=color))
    for axis in figure.axes:
        axis.axis("off")
    return save_figure(figure, path)
