"""A comparison as files for other programs: all that was held as JSON, a row for each load and target as CSV."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from duly_load.compare.rounds import FIGURES, OUTCOMES, Row, Spread


def write_json(file: Path, told: Mapping[str, Any]) -> None:
    """`told` holds plain data. A ratio to a first target that had none at all is infinite, which JSON knows nothing
    of: it is written as null.
    """
    file.write_text(json.dumps(_finite(told), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(file: Path, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Columns: load, target, rounds with a valid run, rounds with a pair, invalid runs, and the least, the median and
    the greatest of each of FIGURES, of its ratio to the first target, and of OUTCOMES; empty where there is none.
    """
    header = ["load", "target", "rounds_valid", "pairs", "runs_invalid"]
    for name in (*FIGURES, *(f"{name}_to_first" for name in FIGURES), *OUTCOMES):
        header += [f"{name}_least", f"{name}_median", f"{name}_greatest"]
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            spreads = [row.figures[name] for name in FIGURES] + [row.ratios[name] for name in FIGURES]
            spreads += [row.figures[name] for name in OUTCOMES]
            cells = [cell for spread in spreads for cell in _cells(spread)]
            writer.writerow([f"{row.load:g}", names[row.target], row.valid, row.pairs, len(row.spoiled), *cells])


def row_json(names: Sequence[str], row: Row) -> dict[str, Any]:
    return {
        "load": row.load,
        "target": names[row.target],
        "rounds_valid": row.valid,
        "pairs": row.pairs,
        "invalid": list(row.spoiled),
        "figures": {name: _spread_json(spread) for name, spread in row.figures.items()},
        "ratios_to_first": {name: _spread_json(spread) for name, spread in row.ratios.items()},
    }


def _spread_json(spread: Spread | None) -> dict[str, float] | None:
    if spread is None:
        return None
    least, median, greatest = spread.least, spread.median, spread.greatest
    return {"least": least, "median": median, "greatest": greatest, "rounds": spread.rounds}


def _cells(spread: Spread | None) -> list[str]:
    return (
        ["", "", ""] if spread is None else [f"{part:.6g}" for part in (spread.least, spread.median, spread.greatest)]
    )


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
