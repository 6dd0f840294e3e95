"""The names of a model's classes, from a text file with one name in each line: line n names class n, from 0 on.

A blank line is a class without a name, such as the background, so that the names after it keep their classes. Blank
lines at the end of the file are none.
"""

import re
from pathlib import Path, PurePosixPath

from duly.models.errors import BrokenModel
from duly.models.text_files import read_text, what_is_there

_LINE_END = re.compile(r"\r\n|\n|\r")
_NUMBERED = re.compile(r"""["']?(\d+)["']?(\s*[:,;=\t]\s*|\s+)\S""")


def read_labels(folder: Path, file: str) -> tuple[str, ...]:
    """Reads the names in `file`, which lies in the model's folder.

    Raises:
        BrokenModel: the file is not there or not a list of names.
    """
    path = folder / file
    if not path.is_file():
        raise BrokenModel(f"/model.toml: labels: {_missing(folder, file)}")
    text = read_text(path, file)
    lines = [line.strip() for line in _LINE_END.split(text)]
    while lines and not lines[-1]:
        del lines[-1]
    if not lines:
        raise BrokenModel(f"/{file}: no label is in it; write one class name a line")
    if found := _other_format(lines):
        raise BrokenModel(f"/{file}: {found}; write the names alone, one a line, from class 0 on")
    return tuple(lines)


def _missing(folder: Path, file: str) -> str:
    name = PurePosixPath(file).name
    deeper = sorted(folder.glob(f"*/{name}"))
    if (folder / file).is_dir() or (folder / file).is_symlink():
        return f"{file} {what_is_there(folder / file)}"
    if deeper:
        place = deeper[0].relative_to(folder)
        return f'there is no file {file} beside it; {place} is there: labels = "{place}"'
    return f"there is no file {file} beside it"


def _other_format(lines: list[str]) -> str:
    """Says which format of label files it is that holds more than names; empty: it holds names."""
    first = next(line for line in lines if line)
    if first[0] in "[{":
        return "it is JSON"
    if first.startswith("item") and "{" in first + "".join(lines[1:2]):
        return "it is a label map of TensorFlow (pbtxt)"
    if first in ("names:", "---") or first.startswith("names: "):
        return "it is YAML"
    if len(lines) == 1 and first.count(",") > 1:
        return "it is one line with commas"
    filled = [line for line in lines if line]
    if not _NUMBERED.match(first) and "," in first:
        del filled[0]  # the heading of a table
    matches = [match for line in filled if (match := _NUMBERED.match(line))]
    if len(filled) < 2 or len(matches) < len(filled):
        return ""
    numbers = [int(match[1]) for match in matches]
    separated = all(match[2].strip() or "\t" in match[2] for match in matches)
    # "1 euro", "2 euro", "5 euro" are names; "0 person", "1 bicycle" and "1: person" are numbered.
    if numbers == sorted(set(numbers)) and (separated or numbers[:2] == [0, 1]):
        return f"its lines begin with numbers, such as '{filled[0][:40]}'"
    return ""
