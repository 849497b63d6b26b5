"""Make the archive that Gradescope asks for, with a secret seed.

    python -m instructor gradescope --out build/                     # parts 2, 3 and 4
    python -m instructor gradescope --out build/ --parts 2,3,4,5     # with the challenge
    python -m instructor gradescope --out build/ --seed 12345        # a seed of an earlier archive

writes build/gradescope.zip, which only you can read (mode 0600): the submission.py in it is the
solved one, since with a secret seed the expected values come from it, and seed.txt is that seed.
Upload it as the autograder, with Ubuntu 24.04 or later as base image and 2 GB of memory for the
container. Students upload submission.py alone.
"""

import argparse
import secrets
import sys
from pathlib import Path

from instructor.door import add_parts, make_parser
from instructor.handout.build import collect, pack
from instructor.handout.checks import Files, HandoutError
from instructor.layout import ON_GRADESCOPE, PLATFORMS, SCRIPTS, SOLVED, files
from kit.files import ROOT, atomic_write


def autograder(parts: tuple[str, ...], seed: int) -> Files:
    """The files of the archive: the handout's tests, engine and data, the solutions, the sandbox.

    Raises:
        HandoutError: as `build.collect`.
    """
    contents = {
        path: content
        for path, content in collect(parts=parts).items()
        if not path.endswith((".md", ".png", ".gitignore"))
    }
    for path in (SOLVED, *files(*ON_GRADESCOPE)):
        contents[path] = (ROOT / path).read_bytes()
    for name in SCRIPTS:
        contents[name] = (PLATFORMS / name).read_bytes()
    contents["seed.txt"] = f"{seed}\n".encode()
    return contents


def read_seed(text: str) -> int:
    """An argparse type: what run_autograder takes, digits only."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or larger")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("--out", type=Path, default=Path("build"), help="default: build")
    add_parts(parser)
    parser.add_argument("--seed", type=read_seed, help="the secret one (default: a new one)")
    args = parser.parse_args(argv)
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    try:
        contents = autograder(args.parts, seed)
    except HandoutError as error:
        sys.exit(f"error: {error}")
    path = args.out / "gradescope.zip"
    with atomic_write(path) as temporary:
        temporary.unlink(missing_ok=True)  # a killed run's
        temporary.touch(mode=0o600)
        temporary.write_bytes(pack(contents, folder="", programs=SCRIPTS))
    print(f"{path}: {len(contents)} files, mode 0600. Upload it as the autograder.")
    print("It holds the solutions and the secret seed (seed.txt): keep it, and do not commit it.")
