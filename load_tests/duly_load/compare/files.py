"""A comparison as files for other programs: all that was held as JSON, a row for each load and target as CSV."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from duly_load.compare.rounds import FIGURES, OUTCOMES, Row
from duly_load.results.formats import short, write_csv


def write_rows(file: Path, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Columns: load, target, rounds with a valid run, rounds with a pair, invalid runs, and the least, the median and
    the greatest of each of FIGURES, of its ratio to the first target, and of OUTCOMES; empty where there is none.
    """
    parts = ("least", "median", "greatest")
    columns = [*FIGURES, *(f"{name}_to_first" for name in FIGURES), *OUTCOMES]
    header = ["load", "target", "rounds_valid", "pairs", "runs_invalid"]
    header += [f"{name}_{part}" for name in columns for part in parts]

    def cells(row: Row) -> list[object]:
        spreads = [*map(row.figures.get, FIGURES), *map(row.ratios.get, FIGURES), *map(row.figures.get, OUTCOMES)]
        found = [short(getattr(spread, part, None)) for spread in spreads for part in parts]
        return [f"{row.load:g}", names[row.target], row.valid, row.pairs, len(row.spoiled), *found]

    write_csv(file, header, map(cells, rows))


def row_json(names: Sequence[str], row: Row) -> dict[str, Any]:
    """The row as plain data for `json`; a ratio to a first target that had none at all is infinite."""
    return {
        "load": row.load,
        "target": names[row.target],
        "rounds_valid": row.valid,
        "pairs": row.pairs,
        "invalid": list(row.spoiled),
        "figures": {name: asdict(spread) if spread else None for name, spread in row.figures.items()},
        "ratios_to_first": {name: asdict(spread) if spread else None for name, spread in row.ratios.items()},
    }
