"""The names of a model's classes, from a text file with one name in each line: line n names class n, from 0 on.

A blank line is a class without a name, such as the background, so that the names after it keep their classes. Blank
lines at the end of the file are none.
"""

import re
from collections.abc import MutableMapping
from pathlib import Path, PurePosixPath

from duly.models.errors import BrokenModel
from duly.models.folders import CONFIG_FILE, subfolders
from duly.models.text_files import read_text, what_is_there

_LINE_END = re.compile(r"\r\n|\n|\r")
_NUMBERED = re.compile(r"""[("']?(\d+)[)"']?(\s*[:,;=\t]\s*|[.)]?\s+)(\S.*)""")
_NUMBERED_LAST = re.compile(r"""(.*\S)(\s*[:,;=\t]\s*|\s+)["']?(\d+)["']?""")
_HEADING = re.compile(r"[^,;\t]*[,;\t].*")


def read_labels(
    folder: Path, file: str, digests: MutableMapping[str, str] | None = None, toml: str = CONFIG_FILE
) -> tuple[str, ...]:
    """Reads the names in `file`, which lies in the model's folder and which `toml` names. `digests`: as for
    `read_text`.

    Raises:
        BrokenModel: the file is not there or not a list of names.
    """
    path = folder / file
    if not path.exists() or path.is_dir():
        raise BrokenModel(f"/{toml}: labels: {_missing(folder, file)}")
    text = read_text(path, file, digests=digests)
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
    deeper = [inside / name for inside in subfolders(folder) if name and (inside / name).is_file()]
    if (folder / file).is_dir() or (folder / file).is_symlink():
        return f"{file} {what_is_there(folder / file)}"
    if deeper:
        place = deeper[0].relative_to(folder)
        return f'there is no file {file} beside it; {place} is there: labels = "{place}"'
    return f"there is no file {file} beside it"


def _other_format(lines: list[str]) -> str:
    """Says which format of label files it is that holds more than names; empty: it holds names."""
    filled = [line for line in lines if line]
    first = filled[0]
    if first[0] in "[{":
        return "it is JSON"
    if first.startswith("item") and "{" in first + "".join(lines[1:2]):
        return "it is a label map of TensorFlow (pbtxt)"
    if first == "---" or any(line == "names:" or line.startswith("names: ") for line in filled):
        return "it is YAML"
    if all(line.startswith("- ") for line in filled):
        return "it is YAML, a list"
    if first.startswith("<?xml") or any(line.startswith("</") for line in filled):
        return "it is XML"
    if first.startswith("# "):
        return "it begins with a comment, which would be the name of class 0"
    if len(lines) == 1 and (first.count(",") > 1 or re.search(r"\S[,;\t]\S", first)):
        return "it is one line with commas" if "," in first else "it is one line with several names"
    if len(filled) > 1 and all(line.endswith(",") for line in filled[:-1]):
        return "its lines end with commas"
    for place, numbered in (("begin", _begin_with_numbers), ("end", _end_with_numbers)):
        without_heading = filled[1:] if _HEADING.fullmatch(first) and len(filled) > 2 else filled
        for rows in (filled, without_heading):
            if numbered(rows):
                return f"its lines {place} with numbers, such as '{rows[0][:40]}'"
    return ""


def _begin_with_numbers(lines: list[str]) -> bool:
    """Whether the names stand behind their numbers: "0 person", "1: bicycle". "1 euro", "2 euro" are names."""
    matches = [match for line in lines if (match := _NUMBERED.fullmatch(line))]
    numbers = [int(match[1]) for match in matches]
    if len(matches) < len(lines) or numbers != sorted(set(numbers)):
        return False
    if len(lines) == 1:
        return numbers == [0]
    return _are_columns([match[2] for match in matches]) or numbers[:2] == [0, 1] or _differ([m[3] for m in matches])


def _end_with_numbers(lines: list[str]) -> bool:
    """Whether the names stand before their numbers: "person 0", "bicycle,1". "class 0", "class 1" are names."""
    matches = [match for line in lines if (match := _NUMBERED_LAST.fullmatch(line))]
    numbers = [int(match[3]) for match in matches]
    if len(lines) < 2 or len(matches) < len(lines) or numbers != sorted(set(numbers)):
        return False
    columns = _are_columns([match[2] for match in matches]) or numbers == list(range(len(lines)))
    return columns and _differ([match[1] for match in matches])


def _are_columns(gaps: list[str]) -> bool:
    """Whether more than blanks, a full stop or a bracket stands between all numbers and names."""
    return all(gap.strip(" .)") for gap in gaps)


def _differ(names: list[str]) -> bool:
    """Whether no name is another one's, nor its plural."""
    return len({name.removesuffix("s") for name in names}) == len(names)
