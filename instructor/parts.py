"""The parts of the assignment that have code: what each is called, its task and its points."""

import argparse
from dataclasses import dataclass

import grade


@dataclass(frozen=True)
class Part:
    name: str
    task: str
    points: float  # of the autograder
    needs: str = ""  # the part whose code its task uses


PARTS = {
    "2": Part("VAE", "VAEwolabel", 30),
    "3": Part("GenModel", "Genwithlabel", 20, needs="2"),
    "4": Part("JSA", "JSA", 40),
    "5": Part("CGAE", "CGAE", 20, needs="4"),
}
USUAL = ("2", "3", "4")  # the challenge only where it is asked for


def read_parts(text: str) -> tuple[str, ...]:
    """An argparse type: "2,3,4" -> ("2", "3", "4")."""
    parts = tuple(sorted(set(text.replace(" ", "").split(","))))
    for part in parts:
        if part not in PARTS:
            raise argparse.ArgumentTypeError(f"there is no part {part!r} with code; {list(PARTS)}")
        if (needs := PARTS[part].needs) and needs not in parts:
            raise argparse.ArgumentTypeError(f"part {part} needs part {needs}")
    return parts


def tasks_of(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(PARTS[part].task for part in parts)


def code_points(parts: tuple[str, ...]) -> float:
    return float(sum(PARTS[part].points for part in parts))


def max_total(parts: tuple[str, ...]) -> float:
    """Points for code and quality together."""
    return code_points(parts) + sum(grade.QUALITY_POINTS[task] for task in tasks_of(parts))
