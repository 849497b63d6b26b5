"""Data preparation, splits, the dataset class, seeding and image files (provided: do not modify).

python data_utils.py                      # split the bundled 5,000-image MNIST sample
python data_utils.py --source download    # the full MNIST, by torchvision
python data_utils.py --source FOLDER      # IDX files of MNIST or Fashion-MNIST, gzipped or not
"""

import argparse
import contextlib
import ctypes
import gzip
import hashlib
import math
import random
import sys
import tempfile
import urllib.error
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler

from kit.files import DATA_DIR, ROOT, DataError, read_arrays, write_json

SAMPLE_FILE = ROOT / "dataset" / "mnist_sample.npz"
IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_TORCHVISION_LIBRARIES: list[torch.library.Library] = []  # dropping one would undo its definitions


# ----------------------------------------------------------------------------------------------
# Small tools


def set_seed(seed: int) -> None:
    """Seed every global random generator: Python's, NumPy's and torch's on all devices."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def keep_freed_memory() -> None:
    """Tell the C library (glibc) to keep freed blocks instead of returning them to the system.

    Every batch frees tensors of some megabytes and asks for them again; by default each time the
    system unmaps the pages and clears new ones. Measured on 2 cores, an epoch of JSA takes 1.9 s
    instead of 2.6 s. Other C libraries have no such switch, and need none to be correct.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: smaller blocks come from the heap (the maximum)
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap does not shrink


def import_torchvision():
    """Import torchvision, also beside a torch without CUDA.

    The wheel's compiled operators need CUDA. Without it they are missing, and the Python part
    stops where it registers the shapes of two of them. Declaring those two is all it needs.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        _TORCHVISION_LIBRARIES.append(library)
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


# ----------------------------------------------------------------------------------------------
# Sources: each returns (training images, labels) and, where the source has one, its test part

Images = tuple[np.ndarray, np.ndarray]


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read one IDX file of unsigned bytes, gzipped or not.

    Format: two zero bytes, the type code 8, the number of dimensions, each dimension as a
    big-endian 32-bit integer, the bytes (http://yann.lecun.com/exdb/mnist/).

    Raises:
        DataError: the file is damaged, truncated, or not `ndim`-dimensional.
    """
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch it again.") from error
    header_size = 4 + 4 * ndim
    if len(raw) < header_size or raw[:4] != bytes([0, 0, 8, ndim]):
        raise DataError(
            f"{path} is not an IDX file of {ndim}-dimensional unsigned bytes "
            f"(it starts with {raw[:4].hex() or 'nothing'}); fetch it again."
        )
    shape = np.frombuffer(raw, ">u4", count=ndim, offset=4).tolist()
    expected, found = int(np.prod(shape)), len(raw) - header_size
    if found != expected:
        raise DataError(
            f"{path} is damaged: its header announces {expected:,} bytes of data {tuple(shape)}, "
            f"it holds {found:,}; fetch it again."
        )
    return np.frombuffer(raw, np.uint8, offset=header_size).reshape(shape)


def read_folder(folder: Path) -> tuple[Images, Images | None]:
    """Read the IDX files of MNIST or Fashion-MNIST; without the training pair, one pool."""
    if not folder.is_dir():
        raise DataError(f"--source {folder}: no such folder (or say sample or download).")
    parts: dict[str, Images] = {}
    for part, names in IDX_NAMES.items():
        found = [next((p for p in _idx_paths(folder, n) if p.is_file()), None) for n in names]
        if all(found):
            parts[part] = (read_idx(found[0], ndim=3), read_idx(found[1], ndim=1))
        elif any(found):
            missing = names[found.index(None)]
            raise DataError(f"{folder} holds half of the {part} part: {missing}[.gz] is missing.")
    if not parts:
        raise DataError(
            f"{folder} holds no IDX files (expected {IDX_NAMES['train'][0]}[.gz] and so on). "
            "A folder that already has train.npz and valid.npz is passed with --data_dir instead."
        )
    if "train" not in parts:
        return parts["test"], None
    return parts["train"], parts.get("test")


def _idx_paths(folder: Path, name: str) -> list[Path]:
    """The spellings under which copies of one IDX file circulate."""
    names = (name, name.replace("-idx", ".idx"))
    return [folder / f"{n}{ending}" for n in names for ending in ("", ".gz")]


def download_mnist(data_dir: Path) -> tuple[Images, Images]:
    """Fetch the full MNIST with torchvision into `data_dir`/MNIST (kept for the next time)."""
    datasets = import_torchvision().datasets
    parts = []
    try:
        for train in (True, False):
            part = datasets.MNIST(str(data_dir), train=train, download=True)
            parts.append((part.data.numpy(), part.targets.numpy()))
    except (RuntimeError, urllib.error.URLError, OSError, ValueError) as error:
        reason = str(error).split("\n")[0].rstrip(":")
        raise DataError(
            f"MNIST could not be downloaded ({reason}); without a network use the bundled digits "
            "(--source sample) or a folder with the four IDX files (--source FOLDER)."
        ) from error
    return parts[0], parts[1]


def read_source(source: str, data_dir: Path) -> tuple[Images, Images | None]:
    """Read `sample`, `download` or a folder of IDX files, and check every array."""
    if source == "sample":
        if not SAMPLE_FILE.is_file():
            raise DataError(
                "the bundled sample is not here (a handout has only its split files); use "
                "--source download or --source FOLDER."
            )
        train, test = read_npz(SAMPLE_FILE), None
    elif source == "download":
        train, test = download_mnist(data_dir)
    else:
        train, test = read_folder(Path(source))
    for part in (train, test):
        if part is not None:
            check_images(*part, name=f"--source {source}")
    return train, test


def check_images(images: np.ndarray, labels: np.ndarray, name: str) -> None:
    """Raise DataError unless images are uint8 [N, 28, 28], labels [N] in 0..9, and N > 0."""
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28):
        raise DataError(
            f"{name}: images must be uint8 [N, 28, 28], found {images.dtype} {list(images.shape)}."
        )
    if labels.shape != (len(images),):
        raise DataError(
            f"{name}: {len(images)} images need {len(images)} labels, found {list(labels.shape)}."
        )
    if len(images) == 0:
        raise DataError(f"{name}: there are no images in it.")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{name}: labels must be integers from 0 to 9.")


# ----------------------------------------------------------------------------------------------
# Split files


def stratified_parts(labels: np.ndarray, weights: list[int], seed: int) -> list[np.ndarray]:
    """Cut the examples into parts in the ratio `weights`, each part with the same class shares.

    Args:
        labels: integer labels [N].
        weights: one positive integer per part, for instance [5, 1, 1].
        seed: seeds the permutation.

    Returns:
        One array of example indices per part, in random order.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    # Going through the classes one after the other, deal the examples out like cards: each part
    # gets `weights[p]` of every sum(weights) cards.
    hand = np.repeat(np.arange(len(weights)), weights)  # [0, 0, 0, 0, 0, 1, 2] for 5:1:1
    part_of = np.empty(len(labels), dtype=int)
    part_of[order[np.argsort(labels[order], kind="stable")]] = np.resize(hand, len(labels))
    return [order[part_of[order] == part] for part in range(len(weights))]


def prepare(source: str = "sample", data_dir: str | Path = DATA_DIR, seed: int = 0) -> dict:
    """Write train.npz, valid.npz, test.npz and manifest.json into `data_dir`.

    One pool of images is cut 5:1:1, stratified by label; a source with its own test part keeps
    it, and its training part is cut 5:1.

    Returns:
        The manifest: source, seed, counts and SHA-256 of each file.

    Raises:
        DataError: the source cannot be read; `data_dir` is then as it was.
    """
    data_dir = Path(data_dir)
    (images, labels), test = read_source(source, data_dir)
    weights = [5, 1, 1] if test is None else [5, 1]
    parts = [(images[i], labels[i]) for i in stratified_parts(labels, weights, seed)]
    if test is not None:
        parts.append(test)
    if min(len(part_labels) for _, part_labels in parts) == 0:
        raise DataError(f"--source {source}: {len(labels)} images are too few to split 5:1:1.")

    manifest = {"source": source, "seed": seed, "counts": {}, "sha256": {}}
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".prepare-") as temporary:
        for name, (part_images, part_labels) in zip(("train", "valid", "test"), parts, strict=True):
            file = Path(temporary) / f"{name}.npz"
            np.savez_compressed(file, images=part_images, labels=part_labels.astype(np.uint8))
            manifest["counts"][name] = len(part_labels)
            manifest["sha256"][f"{name}.npz"] = hashlib.sha256(file.read_bytes()).hexdigest()
        write_json(Path(temporary) / "manifest.json", manifest)
        # train.npz says "prepared": it goes first and comes last, so that a kill in between
        # can never leave a training part beside splits of another source.
        (data_dir / "train.npz").unlink(missing_ok=True)
        for name in ("manifest.json", "test.npz", "valid.npz", "train.npz"):
            (Path(temporary) / name).replace(data_dir / name)
    return manifest


def ensure_prepared(data_dir: str | Path) -> None:
    """Prepare the bundled sample where the default data folder has no training split yet."""
    if (Path(data_dir) / "train.npz").is_file():
        return
    if Path(data_dir) != Path(DATA_DIR):
        raise DataError(
            f"{data_dir} has no train.npz; make the split files with "
            f"`python data_utils.py --source sample|download|FOLDER --data_dir {data_dir}`."
        )
    counts = prepare("sample", data_dir)["counts"]
    print(f"No prepared data in {data_dir}/: split the bundled MNIST sample ({describe(counts)}).")


def describe(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def read_npz(path: Path) -> Images:
    """Read `images` and `labels` from one .npz file; DataError when it is missing or damaged."""
    try:
        images, labels = read_arrays(path, "images", "labels")
    except DataError as error:
        raise DataError(f"{error}; `python data_utils.py` makes the split files.") from error
    return images, labels


def load_split(data_dir: str | Path, split: str) -> Images:
    """Read `split`.npz of a data folder: images uint8 [N, 28, 28] and labels uint8 [N]."""
    path = Path(data_dir) / f"{split}.npz"
    images, labels = read_npz(path)
    check_images(images, labels, name=str(path))
    return images, labels


def gaussian2d(num_points: int, seed: int) -> Images:
    """Points of eight round Gaussians on a ring in the unit square, and their components.

    Returns:
        float32 [N, 2] and int64 [N]. Centres at radius 0.35 around (0.5, 0.5), standard
        deviation 0.04.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(8, size=num_points)
    angle = labels * np.pi / 4
    centres = 0.5 + 0.35 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = centres + 0.04 * rng.normal(size=(num_points, 2))
    return points.astype(np.float32), labels


# ----------------------------------------------------------------------------------------------
# The dataset


class JsaDataset(Dataset):
    """Examples with their indices: `dataset[i]` is (x, label, i).

    JSA keeps one latent state per example, so every example has to say which one it is.

    Args:
        images: uint8 [N, 28, 28] (pixels), or floats [N, ...] that are used as they are.
        labels: integers [N].
        binarize: "none"; "threshold" (pixel >= 128); "dynamic" (each pixel is drawn anew at each
            visit, one with the pixel's intensity as probability).

    To use other data, pass other arrays, or subclass and override `__getitem__`.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, binarize: str = "none"):
        self.images = torch.as_tensor(images)
        if self.images.dtype == torch.uint8:
            self.images = self.images.unsqueeze(1)  # (N, 1, 28, 28)
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.binarize = binarize

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        return self._pixels(self.images[i]), self.labels[i], i

    def __getitems__(self, indices: list[int] | torch.Tensor):
        """A whole batch by one indexing operation: (x, labels, index)."""
        index = torch.as_tensor(indices)
        if type(self).__getitem__ is not JsaDataset.__getitem__:
            return [self[i] for i in index.tolist()]  # a subclass has its own idea of one example
        images = self.images.index_select(0, index)  # much faster than self.images[index]
        return self._pixels(images), self.labels.index_select(0, index), index

    def _pixels(self, images: torch.Tensor) -> torch.Tensor:
        if images.dtype != torch.uint8:
            return images.float()
        if self.binarize == "threshold":
            return (images >= 128).float()
        x = images.float() / 255
        return torch.bernoulli(x) if self.binarize == "dynamic" else x

    def frozen(self, seed: int = 0) -> "JsaDataset":
        """The same examples with dynamic binarization drawn once, for validation and inference."""
        if self.binarize != "dynamic":
            return self
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            binary = self._pixels(self.images).squeeze(1).mul(255).byte()
        return JsaDataset(binary.numpy(), self.labels.numpy(), "threshold")


class OwnExamples(Sampler):
    """The positions of the examples that process `rank` of `size` owns: i mod size = rank.

    Shuffled by `generator`, in order without one. A shuffled pass has the same length in all
    processes; so it leaves out up to size - 1 examples, other ones each time.
    """

    def __init__(
        self,
        num_examples: int,
        rank: int = 0,
        size: int = 1,
        generator: torch.Generator | None = None,
    ):
        self.num_examples, self.rank, self.size = num_examples, rank, size
        self.generator = generator

    def __len__(self) -> int:
        if self.generator:
            return self.num_examples // self.size
        return len(range(self.rank, self.num_examples, self.size))

    def __iter__(self) -> Iterator[int]:
        if self.generator is None:
            return iter(range(self.rank, self.num_examples, self.size))
        # The same order in all processes, each of which takes its own.
        order = RandomSampler(range(self.num_examples), generator=self.generator)
        own = [i for i in order if i % self.size == self.rank]
        return iter(own[: len(self)])


class Batches(Sampler):
    """Batches of positions, each an int64 tensor: lists of integers would cost a conversion."""

    def __init__(self, order: OwnExamples, batch_size: int):
        self.order, self.batch_size = order, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.batch_size)

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from torch.tensor(list(self.order), dtype=torch.int64).split(self.batch_size)


def make_loader(dataset: Dataset, batch_size: int, order: OwnExamples | None = None):
    """Batches (x, labels, index) in the given order, without one in the dataset's.

    The dataset is a JsaDataset, or a torch.utils.data.Subset of one.
    """
    if order is None:
        order = OwnExamples(len(dataset))
    return DataLoader(
        dataset,
        batch_sampler=Batches(order, batch_size),
        generator=order.generator,
        collate_fn=_collate,
    )


def _collate(batch):
    if isinstance(batch, tuple):  # __getitems__ has already put the batch together
        return batch
    return torch.utils.data.default_collate(batch)


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Clip images to [0, 1] and round them to 8 bits: [N, 1, 28, 28] -> uint8 [N, 28, 28]."""
    pixels = images.detach().cpu().float().clamp(0, 1).mul(255).round()
    return pixels.to(torch.uint8).reshape(-1, 28, 28).numpy()


# ----------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write train.npz, valid.npz and test.npz.")
    parser.add_argument("--source", default="sample", help="sample, download, or an IDX folder")
    parser.add_argument("--data_dir", default=DATA_DIR, help="where the split files go")
    parser.add_argument("--seed", type=int, default=0, help="seeds the permutation before the cut")
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: give 0 or more")
    try:
        manifest = prepare(args.source, args.data_dir, args.seed)
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{args.data_dir}: {describe(manifest['counts'])} images from {args.source}.")


if __name__ == "__main__":
    main()
