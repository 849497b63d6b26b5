"""Make the hidden split for quality: test digits, each moved a little by a secret.

    python -m instructor hidden --source download --seed "any secret text"

writes ~/hidden_split.npz, readable by you alone: up to 1,000 digits, each shifted, turned and
scaled a little in a way that only the secret tells. So nobody can look the images up, although
those of MNIST are public. The same secret and source make the same split again, with the same
versions of NumPy and SciPy.
"""

import hashlib
import os
import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from data_utils import check_images, load_split, prepare
from grade import mean_ssim
from instructor.door import make_parser
from kit.files import ROOT, DataError, atomic_write, fingerprint

OUT = "~/hidden_split.npz"
CENTRE = np.array([13.5, 13.5])


@dataclass(frozen=True)
class Hidden:
    """The hidden split."""

    images: np.ndarray  # uint8 [N, 28, 28], transformed: what is graded
    plain: np.ndarray  # uint8 [N, 28, 28], the same examples as the source has them
    labels: np.ndarray  # uint8 [N]
    noise_seed: int  # seeds all randomness of the grader
    source: str  # sample, download or the folder
    sha256: str  # of `images`

    def rng(self, purpose: str) -> np.random.Generator:
        """Random numbers for one purpose; one purpose's say nothing of another's."""
        return np.random.default_rng([self.noise_seed, zlib.crc32(purpose.encode())])

    def seed(self, purpose: str) -> int:
        """A seed that students' code may see."""
        return int(self.rng(purpose).integers(2**31))


def secret_rng(secret: str) -> np.random.Generator:
    """The random generator that a secret stands for.

    Raises:
        DataError: the secret is shorter than 8 characters.
    """
    if len(secret.strip()) < 8:
        raise DataError(
            f"--seed must be a secret of 8 characters or more, this has {len(secret.strip())}; "
            "a short one can be found by trying all."
        )
    digest = hashlib.sha256(secret.encode(errors="surrogatepass")).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def transform(
    images: np.ndarray,
    rng: np.random.Generator,
    shift: float = 1.0,
    degrees: float = 5.0,
    scale: float = 0.05,
) -> np.ndarray:
    """Shift, turn and scale every image a little, each in its own way.

    y = c + t + s R(a) (x - c) with the centre c = (13.5, 13.5); t, a and s are uniform within
    plus or minus `shift` pixels per axis, `degrees`, and 1 plus or minus `scale`. Bilinear; what
    comes in from outside is 0.

    Args:
        images: uint8 [N, 28, 28].

    Returns:
        uint8 [N, 28, 28].
    """
    t = rng.uniform(-shift, shift, size=(len(images), 2))
    angle = np.deg2rad(rng.uniform(-degrees, degrees, size=len(images)))
    s = rng.uniform(1 - scale, 1 + scale, size=len(images))
    changed = np.empty_like(images)
    for i, image in enumerate(images):
        cos, sin = np.cos(angle[i]), np.sin(angle[i])
        inverse = np.array([[cos, sin], [-sin, cos]]) / s[i]  # SciPy asks where a pixel came from
        offset = CENTRE - inverse @ (CENTRE + t[i])
        moved = ndimage.affine_transform(image.astype(float), inverse, offset, order=1, cval=0)
        changed[i] = np.rint(moved)
    return changed


def choose(labels: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `limit` examples, or all, in random order; equal class shares where possible."""
    order = rng.permutation(len(labels))
    turn = np.empty(len(labels), dtype=int)  # how many of its class come before an example
    for label in np.unique(labels):
        (where,) = np.nonzero(labels[order] == label)
        turn[where] = np.arange(len(where))
    first = np.argsort(turn, kind="stable")[:limit]  # one of each class, then a second, ...
    return rng.permutation(order[first])


def make_hidden(source: str, secret: str, limit: int = 1000) -> Hidden:
    """Make the hidden split from the test part of `source` (see data_utils.prepare).

    Raises:
        DataError: the source cannot be read, lacks a class, or the secret is too short.
    """
    rng = secret_rng(secret)
    with tempfile.TemporaryDirectory() as temporary:
        prepare(source, temporary)
        images, labels = load_split(temporary, "test")
    chosen = choose(labels, limit, rng)
    plain, labels = images[chosen], labels[chosen]
    _require_classes(labels, f"the test part of --source {source}")
    noise_seed = int(rng.integers(2**64, dtype=np.uint64))
    changed = transform(plain, rng)
    return Hidden(changed, plain, labels, noise_seed, source, fingerprint(changed))


def save_hidden(hidden: Hidden, path: Path) -> None:
    """Write the split so that at no moment anyone but its owner can read it (mode 0600)."""
    with atomic_write(path) as temporary:
        temporary.unlink(missing_ok=True)  # a killed run's
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            arrays = {name: getattr(hidden, name) for name in ("images", "plain", "labels")}
            numbers = {"noise_seed": np.uint64(hidden.noise_seed), "source": hidden.source}
            np.savez_compressed(file, **arrays, **numbers)


def load_hidden(path: str | Path) -> Hidden:
    """Read and check a hidden split.

    Raises:
        DataError: the file is missing, damaged, or not what this version writes.
    """
    path = Path(path)
    again = "make it with `python -m instructor hidden`"
    if not path.is_file():
        raise DataError(f"{path} does not exist; {again}.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, plain, labels = (archive[name] for name in ("images", "plain", "labels"))
            noise_seed, source = archive["noise_seed"], archive["source"]
    except KeyError as error:
        raise DataError(f"{path} is of another version ({error.args[0]}); {again}.") from error
    except Exception as error:  # NumPy, zipfile and Python's own parser: a dozen kinds
        reason = str(error).split("\n")[0] or type(error).__name__
        raise DataError(f"{path} is damaged ({reason}); {again}.") from error
    check_images(images, labels, name=f"{path}, images")
    check_images(plain, labels, name=f"{path}, plain")
    _require_classes(labels, str(path))
    if noise_seed.dtype != np.uint64 or noise_seed.shape != () or source.dtype.kind != "U":
        raise DataError(f"{path} is of another version (noise_seed or source); {again}.")
    labels = labels.astype(np.uint8)
    return Hidden(images, plain, labels, int(noise_seed), str(source), fingerprint(images))


def _require_classes(labels: np.ndarray, name: str) -> None:
    missing = sorted(set(range(10)) - set(labels.tolist()))
    if missing:
        raise DataError(f"{name} has no image of class {', '.join(map(str, missing))}.")


def warn(text: str) -> None:
    print(f"WARNING: {text}", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("--source", required=True, help="sample, download, or an IDX folder")
    parser.add_argument("--seed", required=True, help="a secret text, 8 characters or more")
    parser.add_argument("--limit", type=int, default=1000, help="at most so many (default: 1000)")
    parser.add_argument(
        "--out", type=Path, default=Path(OUT).expanduser(), help=f"the file (default: {OUT})"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    args = parser.parse_args(argv)
    if args.limit < 10:
        sys.exit("error: --limit must be 10 or more, one image of each class.")
    if args.out.exists() and not args.overwrite:
        sys.exit(f"error: {args.out} exists; --overwrite replaces it (grades would change).")
    try:
        hidden = make_hidden(args.source, args.seed, args.limit)
        save_hidden(hidden, args.out)
        hidden = load_hidden(args.out)
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
    if args.source in ("sample", "download"):
        warn(f"the images of --source {args.source} are public; only the secret transforms help")
    if args.out.resolve().is_relative_to(ROOT):
        warn(f"{args.out} is inside the repository; move it out, and never commit it")
    print(f"{args.out}: {len(hidden.labels):,} images from {hidden.source}, mode 0600")
    print(f"SHA-256 of the images: {hidden.sha256}")
    print(f"mean SSIM between plain and changed: {mean_ssim(hidden.plain, hidden.images):.3f}")
