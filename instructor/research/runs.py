"""Read what train.py left in run folders, for the commands that draw several runs."""

import csv
import json
import sys
from pathlib import Path

from kit.settings import completed


def read_run(run: Path, column: str) -> tuple[dict, list[tuple[int, float]]]:
    """The settings of a run, and (epoch, value) of one column of its log where it has a value.

    Ends the program where this is no run folder, or one whose log has no such column.
    """
    try:
        config = completed(json.loads((run / "config.json").read_text()))
        with (run / "log.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row.get(column)]
    except (OSError, ValueError) as error:
        sys.exit(f"error: {run} is not the folder of a run ({error})")
    if not rows:
        sys.exit(f"error: {run}/log.csv has no values in the column {column}")
    return config, [(int(row["epoch"]), float(row[column])) for row in rows]
