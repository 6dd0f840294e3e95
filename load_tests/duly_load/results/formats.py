"""How the harness writes files: text, JSON and CSV. A file is there whole, or as it was before."""

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """A path beside `file` for the block to write to; it takes the place of `file` where the block raises nothing. What
    is no plain file, such as a pipe, is written to as it is.
    """
    if file.exists() and not file.is_file():
        yield file
        return
    part = file.with_name(f".{file.name}.part")
    try:
        yield part
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Raises OSError, as everything here that writes does."""
    with replaced(file) as part:
        part.write_text(text, "utf-8")


def write_json(file: Path, data: Any) -> None:
    """Writes plain data, after `finite`, with a line for each value."""
    write_text(file, json.dumps(finite(data), indent=2, allow_nan=False) + "\n")


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Writes what `write_rows` writes, to a file of its own."""
    with replaced(file) as part, part.open("w", encoding="utf-8", newline="") as lines:
        write_rows(lines, header, rows)


def write_rows(lines: Any, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Writes to a text file that is open; a cell is empty where its value is None."""
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)


def short(value: float | None) -> str:
    """A number with six digits, which are more than any figure has; empty for None."""
    return "" if value is None else f"{value:.6g}"


def finite(value: Any) -> Any:
    """The same data with None for every number that JSON does not have: infinity and nan."""
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
