"""Show why the notes' patch autoencoder collapsed: its mistakes put right one at a time.

    python -m instructor collapse                    # about 15 minutes on one core
    python -m instructor collapse --only kmeans      # needs scikit-learn, which the kit does not

Prints the tables of collapse.md and draws pictures/collapse.png. The first row reproduces the
notes' pseudo-code as it was written; each switch of `Recipe` is one correction.
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data_utils import SAMPLE_FILE, keep_freed_memory, read_npz, set_seed
from instructor.door import make_parser, positive
from kit.pictures import save_figure
from model import sample_categorical, split_choices
from submission import render

H, K, R, SIZE = 14, 16, 7, 28
NUM_CHOICES = K * SIZE * SIZE
IMAGES, BATCH, EPOCHS, LEARNING_RATE = 1000, 100, 10, 2e-2
BETA, BETA_START = 30.0, 1.0
PICTURE = Path(__file__).with_name("pictures") / "collapse.png"


@dataclass(frozen=True)
class Recipe:
    """What is right already; all False is the notes' pseudo-code."""

    one_uniform: bool = False  # one uniform number per row; else one per category
    sum_of_squares: bool = False  # over the pixels; else their mean
    right_sign: bool = False  # residual x - o; else o - x
    component_out: bool = False  # of o while its place is scored; else it stays in
    softmax_over_choices: bool = False  # else over the images of the batch
    log_gradient: bool = False  # of -log p(x|h); else of -p(x|h), up to its constant
    anneal: bool = False  # beta from 1 to 30; else as in `beta`
    beta: float = 1.0
    start: str = "values"  # prototypes: random "values", "patches" of the data, "kmeans++"
    reseed: bool = False  # prototypes that nobody takes, from what is left unexplained


FIXES = (
    ("one_uniform", "one uniform number per row"),
    ("sum_of_squares", "sum of squares, not their mean"),
    ("right_sign", "residual x - o, not o - x"),
    ("component_out", "component h taken out before it is scored"),
    ("softmax_over_choices", "softmax over choices, not over the batch"),
    ("log_gradient", "gradient of log p, not of p"),
)
RIGHT = Recipe(**{name: True for name, _ in FIXES})


def energies(residual: torch.Tensor, prototypes: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """||r - w||^2 of all choices, or their mean over the pixels: [B, K * S * S]."""
    weights = prototypes.unsqueeze(1)
    inner = F.conv2d(residual, weights, padding=R // 2)
    square = F.conv2d(torch.ones_like(residual[:1]), weights**2, padding=R // 2)
    total = (residual**2).flatten(1).sum(dim=1, keepdim=True) + (square - 2 * inner).flatten(1)
    return total if recipe.sum_of_squares else total / SIZE**2


def sample_literally(log_p: torch.Tensor) -> torch.Tensor:
    """As the notes do: the first category whose own uniform number exceeds the cumulative sum."""
    p = log_p.exp()
    above = torch.rand_like(p) > p.cumsum(dim=1)
    return above.int().argmax(dim=1, keepdim=True)  # none above: argmax gives the first


def sweep(x, choices, prototypes, beta: float, recipe: Recipe) -> torch.Tensor:
    """One sweep over the components of each image, in the way of `recipe`."""
    choices = choices.clone()
    sign = 1 if recipe.right_sign else -1
    residual = x - render(choices, prototypes)
    for h in range(H):
        one = choices[:, h : h + 1]
        without = residual + render(one, prototypes)
        seen = without if recipe.component_out else residual
        logits = -beta * energies(sign * seen, prototypes, recipe)
        log_p = logits.log_softmax(dim=1 if recipe.softmax_over_choices else 0)
        sample = sample_categorical if recipe.one_uniform else sample_literally
        one.copy_(sample(log_p))
        residual = without - render(one, prototypes)
    return choices


def data_patches(x: torch.Tensor) -> torch.Tensor:
    """All R x R pieces of the images with some ink in them, [N, R*R]."""
    patches = F.unfold(x, R).transpose(1, 2).reshape(-1, R * R)
    return patches[patches.mean(dim=1) > 0.1]


def first_prototypes(x: torch.Tensor, start: str) -> torch.Tensor:
    if start == "values":
        return 0.5 * torch.rand(K, R, R)
    patches = data_patches(x)
    patches = patches[torch.randperm(len(patches))[:20_000]]
    if start == "kmeans++":
        return 0.5 * lloyd(patches, plus_plus(patches, K))[0].reshape(K, R, R)
    return 0.5 * patches[:K].reshape(K, R, R)


def train(x: torch.Tensor, recipe: Recipe, seed: int) -> dict:
    """Learn prototypes; measures of the last epoch."""
    set_seed(seed)
    started = time.perf_counter()
    prototypes = first_prototypes(x, recipe.start).requires_grad_()
    optimizer = torch.optim.Adam([prototypes], lr=LEARNING_RATE)
    choices = torch.randint(NUM_CHOICES, (len(x), H))
    for epoch in range(EPOCHS):
        beta = recipe.beta
        if recipe.anneal:
            beta = BETA_START * (BETA / BETA_START) ** min(1, epoch / (0.6 * EPOCHS))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * epoch / EPOCHS))
        before = choices.clone()
        for index in torch.randperm(len(x)).split(BATCH):
            batch = x[index]
            with torch.no_grad():
                choices[index] = sweep(batch, choices[index], prototypes, beta, recipe)
            squares = ((batch - render(choices[index], prototypes)) ** 2).flatten(1)
            error = squares.sum(dim=1) if recipe.sum_of_squares else squares.mean(dim=1)
            loss = beta * error if recipe.log_gradient else -(-beta * error).exp()
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
        if recipe.reseed and epoch < EPOCHS - 2:
            reseed(x, choices, prototypes)
    prototypes = prototypes.detach()
    k, i, j = split_choices(choices, SIZE)
    image = render(choices, prototypes)
    spread = image.std(dim=0).mean() / x.std(dim=0).mean()
    shares = torch.bincount(k.flatten(), minlength=K) / k.numel()
    return {
        "mse": ((image - x) ** 2).mean().item(),
        "spread": spread.item(),
        "top_prototype": shares.max().item(),
        "dead": (shares < 0.1 / K).sum().item(),
        "top_place": (torch.bincount((i * SIZE + j).flatten()).max() / k.numel()).item(),
        "moved": (choices != before).float().mean().item(),
        "seconds": time.perf_counter() - started,
        "prototypes": prototypes,
        "image": image[:8],
    }


def reseed(x, choices, prototypes) -> None:
    """Put in place of each prototype that is hardly taken a piece of what is left unexplained."""
    k, _, _ = split_choices(choices, SIZE)
    shares = torch.bincount(k.flatten(), minlength=K) / k.numel()
    with torch.no_grad():
        rest = (x - render(choices, prototypes)).clamp(min=0)
        pieces = F.unfold(rest[:200], R).transpose(1, 2).reshape(-1, R * R)
        worst = pieces.sum(dim=1).topk(20 * K).indices
        for number in (shares < 0.1 / K).nonzero().flatten():
            chosen = pieces[worst[torch.randint(len(worst), ())]]
            prototypes[number] = chosen.reshape(R, R)


# ----------------------------------------------------------------------------------------------
# Tables


def experiments() -> dict[str, Recipe]:
    """Every row of the table by name."""
    rows = {"as in the notes": Recipe()}
    recipe = Recipe()
    for name, words in FIXES:
        recipe = replace(recipe, **{name: True})
        rows[f"+ {words}"] = recipe
    best = replace(RIGHT, anneal=True)
    rows |= {
        "all six, beta = 30": replace(RIGHT, beta=BETA),
        "all six, beta 1 to 30 (the kit)": best,
        "data patches, beta = 30": replace(RIGHT, beta=BETA, start="patches"),
        "data patches, beta 1 to 30": replace(best, start="patches"),
        "k-means++, beta 1 to 30": replace(best, start="kmeans++"),
        "re-seeded, beta 1 to 30": replace(best, reseed=True),
    }
    wrong = {words: replace(best, **{name: False}) for name, words in FIXES}
    return rows | {f"the kit, without: {words}": recipe for words, recipe in wrong.items()}


def recipes_table(seeds: int) -> None:
    images, _ = read_npz(SAMPLE_FILE)
    chosen = np.random.default_rng(0).permutation(len(images))[:IMAGES]
    x = torch.as_tensor(images[chosen]).float().div(255).unsqueeze(1)
    print(f"{IMAGES} digits, {EPOCHS} epochs; MSE of the mean image {mean_image_mse(x):.4f}")
    print("| recipe | MSE | spread | top prototype | dead | top place | moved |")
    print("|---|---|---|---|---|---|---|")
    drawn = {}
    for name, recipe in experiments().items():
        results = [train(x, recipe, seed) for seed in range(seeds)]
        drawn[name] = results[0]

        def over_seeds(measure, digits, results=results):
            values = [result[measure] for result in results]
            low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
            return low if low == high else f"{low} - {high}"

        columns = [over_seeds("mse", 4), over_seeds("spread", 2), over_seeds("top_prototype", 2)]
        columns += [over_seeds("dead", 0), over_seeds("top_place", 3), over_seeds("moved", 2)]
        print(f"| {name} |", " | ".join(columns), "|", flush=True)
    draw_picture(x[:8], drawn)


def mean_image_mse(x: torch.Tensor) -> float:
    return ((x - x.mean(dim=0)) ** 2).mean().item()


def draw_picture(x: torch.Tensor, results: dict[str, dict]) -> None:
    """A line for each recipe: its prototypes, then eight reconstructions."""
    from matplotlib.figure import Figure

    names = [name for name in results if not name.startswith("the kit, without")]
    figure = Figure(figsize=(11, 0.62 * (len(names) + 1)), layout="constrained")
    axes = figure.subplots(len(names) + 1, 2, width_ratios=[1, 1])
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    axes[0, 0].axis("off")
    axes[0, 0].set_title("prototypes", fontsize=8)
    axes[0, 1].imshow(torch.cat(list(x[:, 0]), dim=1), cmap="gray", vmin=0, vmax=1)
    axes[0, 1].set_title("the images and their reconstructions", fontsize=8)
    for (left, right), name in zip(axes[1:], names, strict=True):
        padded = [F.pad(p, (1, 1, 1, 1), value=1.0) for p in results[name]["prototypes"]]
        left.imshow(torch.cat(padded, dim=1), cmap="gray", vmin=0, vmax=1)
        left.set_ylabel(name, fontsize=7, rotation=0, ha="right", va="center")
        right.imshow(
            torch.cat(list(results[name]["image"][:, 0]), dim=1), cmap="gray", vmin=0, vmax=1
        )
    save_figure(figure, PICTURE, dpi=90)


def sampler_table() -> None:
    """What the literal sampler draws where the probabilities are .1, .2, .3, .4."""
    p = torch.tensor([0.1, 0.2, 0.3, 0.4]).repeat(200_000, 1)
    for name, sample in (("literal", sample_literally), ("one uniform", sample_categorical)):
        shares = torch.bincount(sample(p.log()).flatten(), minlength=4) / len(p)
        print(f"{name}: " + " ".join(f"{share:.3f}" for share in shares))


def entropy_table() -> None:
    """How far from uniform the conditional of one component is, in bits."""
    images, _ = read_npz(SAMPLE_FILE)
    x = torch.as_tensor(images[::50]).float().div(255).unsqueeze(1)
    set_seed(0)
    prototypes = first_prototypes(x, "patches")
    print(f"uniform: {math.log2(NUM_CHOICES):.3f} bits")
    for sum_of_squares, beta in ((False, 1.0), (True, 1.0), (True, BETA)):
        recipe = Recipe(sum_of_squares=sum_of_squares)
        log_p = (-beta * energies(x, prototypes, recipe)).log_softmax(dim=1)
        bits = -(log_p.exp() * log_p).sum(dim=1).mean() / math.log(2)
        print(f"{'sum' if sum_of_squares else 'mean'}, beta = {beta:g}: {bits:.3f} bits")


# ----------------------------------------------------------------------------------------------
# k-means


def plus_plus(data: torch.Tensor, count: int) -> torch.Tensor:
    """k-means++ (Arthur & Vassilvitskii 2007): each centre in proportion to distance squared."""
    centres = data[torch.randint(len(data), (1,))]
    nearest = ((data - centres) ** 2).sum(dim=1)
    for _ in range(count - 1):
        centres = torch.cat([centres, data[torch.multinomial(nearest, 1)]])
        nearest = torch.minimum(nearest, ((data - centres[-1]) ** 2).sum(dim=1))
    return centres


def lloyd(
    data: torch.Tensor, centres: torch.Tensor, steps: int = 100, reseed: bool = False
) -> tuple[torch.Tensor, float, int]:
    """k-means by argmin and means: centres, mean squared distance, and centres without data.

    A centre that no point is nearest to stays where it is, or with `reseed` goes to the point that
    is farthest from its own centre.
    """
    for _ in range(steps):
        distance = torch.cdist(data, centres).square()
        nearest, owner = distance.min(dim=1)
        count = torch.bincount(owner, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add(0, owner, data)
        new = torch.where(count[:, None] > 0, sums / count.clamp(min=1)[:, None], centres)
        if reseed and (empty := (count == 0).nonzero().flatten()).numel():
            new[empty] = data[nearest.topk(len(empty)).indices]
        if torch.equal(new, centres):
            break
        centres = new
    return centres, nearest.mean().item(), int((count == 0).sum())


def kmeans_table(seeds: int) -> None:
    from sklearn.cluster import KMeans

    images, _ = read_npz(SAMPLE_FILE)
    x = torch.as_tensor(images[:: len(images) // IMAGES]).float().div(255).unsqueeze(1)
    set_seed(0)
    patches = data_patches(x)
    data = patches[torch.randperm(len(patches))[:20_000]]
    starts = {
        "random values": lambda count: torch.rand(count, R * R),
        "random data": lambda count: data[torch.randperm(len(data))[:count]],
        "k-means++": lambda count: plus_plus(data, count),
    }
    sizes = (16, 64, 256)
    print(f"{len(data)} patches of {R} x {R}; mean squared distance (centres without data)")
    print("| k-means |", " | ".join(f"K = {size}" for size in sizes), "|")
    print("|---" * (1 + len(sizes)) + "|")

    def row(name, run):
        cells = []
        for size in sizes:
            results = []
            for seed in range(seeds):
                set_seed(seed)
                results.append(run(size, seed))
            errors, empty = zip(*results, strict=True)
            cells.append(f"{np.mean(errors):.3f} ({np.mean(empty):.0f})")
        print(f"| {name} |", " | ".join(cells), "|", flush=True)

    for name, start in starts.items():
        row(f"argmin, {name}", lambda size, seed, s=start: lloyd(data, s(size))[1:])
    again = starts["random values"]
    row("... random values, re-seeded", lambda n, seed: lloyd(data, again(n), reseed=True)[1:])

    def sklearn(size, seed, init):
        found = KMeans(size, init=init, n_init=1, max_iter=100, random_state=seed).fit(data.numpy())
        return found.inertia_ / len(data), size - len(np.unique(found.labels_))

    row("scikit-learn, random data", lambda size, seed: sklearn(size, seed, "random"))
    row("scikit-learn, k-means++", lambda size, seed: sklearn(size, seed, "k-means++"))


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__name__, __doc__)
    tables = {
        "sampler": lambda seeds: sampler_table(),
        "entropy": lambda seeds: entropy_table(),
        "recipes": recipes_table,
        "kmeans": kmeans_table,
    }
    parser.add_argument("--only", choices=list(tables), help="one table (default: all but kmeans)")
    parser.add_argument("--seeds", type=positive(int), default=3, help="of each row (default: 3)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory()
    for name, table in tables.items():
        if args.only == name or (args.only is None and name != "kmeans"):
            set_seed(0)
            table(args.seeds)
