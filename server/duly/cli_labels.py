"""Labels in a file, as `duly feedback` reads them: CSV with a line of names, or a JSON object on each line.

A label is `stream` and `frame_id`, which name the frame, `label`, and perhaps `weight` and `source`. A line that is
none is named with its number and what would be right, and the next one is read.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from duly_client import BFLOAT16, Feedback
from duly_client.bfloat16 import to_bfloat16
from duly_client.convert import DTYPES, Array
from duly_client.feedback import BYTES_MAX

LINE_BYTES_MAX = 16 << 20
"""A longer line is passed over; a label of BYTES_MAX has room in it, whatever its numbers look like."""
NAME_BYTES_MAX = 128
"""A server takes no longer key and source."""
NEEDED, OPTIONAL = ("stream", "frame_id", "label"), ("weight", "source")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BOM = b"\xef\xbb\xbf"
_RIGHT = 'a label is a class\'s number or name, or an object such as {"OUTPUT": [0.5, 0.5]}'


class NoLabels(Exception):
    """A file cannot be read as labels at all. The text says why, and what would be right."""


class _Wrong(Exception):
    """A line is no label."""


@dataclass(frozen=True, slots=True)
class LabelLine:
    """A label, and the line that it ends on."""

    number: int
    feedback: Feedback
    size_bytes: int
    """Of its tensors."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no label, and why."""

    number: int
    reason: str


def read_labels(file: BinaryIO) -> Iterator[LabelLine | BadLine]:
    """Gives the labels of a file, read as they are wanted. What it is follows from its first character: `{` begins JSON
    lines, all else the names of CSV's columns. Raises NoLabels, or OSError.
    """
    lines = _Lines(file)
    first = next(filter(None, lines), None)
    if first is None:
        yield from lines.told()
        return
    yield from _from_json(first, lines) if first.lstrip().startswith("{") else _from_csv(first, lines)


class _Lines:
    """The lines of a file that are text. Others are noted and passed over."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.number = 0
        """That of the line that was given last."""
        self.problems: list[BadLine] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while data := self._file.readline(LINE_BYTES_MAX):
            self.number += 1
            if self.number == 1:
                data = data.removeprefix(_BOM)
            if len(data) == LINE_BYTES_MAX and not data.endswith(b"\n"):
                while (rest := self._file.readline(LINE_BYTES_MAX)) and not rest.endswith(b"\n"):
                    pass
                self.problems.append(BadLine(self.number, f"it is longer than {LINE_BYTES_MAX:,} bytes"))
                return ""
            try:
                text = data.decode()
            except UnicodeDecodeError as error:
                self.problems.append(BadLine(self.number, f"it is no UTF-8: {error.reason} at byte {error.start}"))
                return ""
            if text.strip():
                return text
        raise StopIteration

    def told(self) -> list[BadLine]:
        """Returns what was noted since it was last asked."""
        told, self.problems = self.problems, []
        return told


def _from_json(first: str, lines: _Lines) -> Iterator[LabelLine | BadLine]:
    line: str | None = first
    while line is not None:
        yield from lines.told()
        if line:
            try:
                yield _label(lines.number, _parsed(line))
            except _Wrong as error:
                yield BadLine(lines.number, str(error))
        line = next(lines, None)
    yield from lines.told()


def _from_csv(first: str, lines: _Lines) -> Iterator[LabelLine | BadLine]:
    csv.field_size_limit(LINE_BYTES_MAX)
    try:
        names = [name.strip() for name in next(csv.reader([first], strict=True), [])]
    except csv.Error as error:
        raise NoLabels(f"the first line is no CSV: {error}") from error
    if missing := [name for name in NEEDED if name not in names]:
        raise NoLabels(
            f"the first line lacks {', '.join(missing)}; a file of labels begins with the names of its columns, such "
            "as stream,frame_id,label, or has a JSON object on each line"
        )
    try:
        _check_names(dict.fromkeys(names))
        if len(set(names)) < len(names):
            raise _Wrong("it names a column twice")
    except _Wrong as error:
        raise NoLabels(f"the first line: {error}") from error
    rows = csv.reader(lines, strict=True)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            yield from lines.told()
            return
        except csv.Error as error:
            yield from lines.told()
            yield BadLine(lines.number, f"it is no CSV: {error}")
            continue
        yield from lines.told()
        if row:
            try:
                yield _label(lines.number, _of_row(names, row))
            except _Wrong as error:
                yield BadLine(lines.number, str(error))


def _label(number: int, values: Mapping[str, object]) -> LabelLine:
    """Raises _Wrong."""
    _check_names(values)
    if missing := [name for name in NEEDED if values.get(name) in (None, "")]:
        raise _Wrong(f"it lacks {', '.join(missing)}; it needs {', '.join(NEEDED)}, and may have {', '.join(OPTIONAL)}")
    stream, frame_id = values["stream"], values["frame_id"]
    weight, source = values.get("weight", 1.0), values.get("source", "")
    if not isinstance(stream, str) or len(stream.encode()) > NAME_BYTES_MAX:
        raise _Wrong("stream is no key: give what StreamOpened.stream_key or key_of said, as text")
    if not isinstance(frame_id, int) or isinstance(frame_id, bool) or not 0 <= frame_id < 1 << 64:
        raise _Wrong(f"frame_id is {_told(frame_id)}; it is a whole number, that of the frame")
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < math.inf:
        raise _Wrong(f"weight is {_told(weight)}; it is a number above 0")
    if not isinstance(source, str) or len(source.encode()) > NAME_BYTES_MAX:
        raise _Wrong(f"source is {_told(source)}; it is a text of at most {NAME_BYTES_MAX} bytes")
    label = values["label"]
    given = {name: _value(each) for name, each in label.items()} if isinstance(label, dict) else _class(label)
    size_bytes = sum(_size_bytes(each) for each in given.values()) if isinstance(given, dict) else 0
    if size_bytes > BYTES_MAX:
        raise _Wrong(f"its label has {size_bytes:,} bytes; at most {BYTES_MAX:,} are sent for a frame")
    return LabelLine(number, Feedback(stream, frame_id, given, float(weight), source), size_bytes)


def _check_names(names: Mapping[str, object]) -> None:
    if unknown := [name for name in names if name not in NEEDED + OPTIONAL]:
        known = ", ".join(NEEDED + OPTIONAL)
        raise _Wrong(f"{_told(unknown[0])} is unknown; known are {known}")


# ---- a line ----


def _parsed(line: str) -> Mapping[str, object]:
    values = _json(line)
    if not isinstance(values, dict):
        raise _Wrong('it is no object; a line is one such as {"stream": "...", "frame_id": 7, "label": 1}')
    return values


def _of_row(names: list[str], row: list[str]) -> Mapping[str, object]:
    if len(row) != len(names):
        raise _Wrong(f"it has {len(row)} fields, and the first line names {len(names)}")
    values: dict[str, object] = {name: text.strip() for name, text in zip(names, row, strict=True)}
    for name in OPTIONAL:
        if values.get(name) == "":
            del values[name]
    frame_id, label, weight = values["frame_id"], str(values["label"]), str(values.get("weight", ""))
    if _INTEGER.fullmatch(str(frame_id)):
        values["frame_id"] = _integer(str(frame_id))
    if _NUMBER.fullmatch(weight):
        values["weight"] = float(weight)
    if _INTEGER.fullmatch(label):
        values["label"] = _integer(label)
    elif _NUMBER.fullmatch(label):
        values["label"] = float(label)
    elif label.startswith(("{", "[", '"')):
        values["label"] = _json(label)
    return values


def _integer(text: str) -> int:
    if len(text) > 20:  # no number that could be meant, and converting it takes long
        raise _Wrong(f"{_told(text)} is too large a number")
    return int(text)


def _json(text: str) -> object:
    try:
        parsed: object = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        why = f"{error.msg} at character {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise _Wrong(f"it is no JSON: {why}") from error
    return parsed


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number that a label can have")


# ---- a label ----


def _class(value: object) -> int | str:
    """Raises _Wrong where it is neither the number of a class nor its name."""
    if isinstance(value, str):
        _as_text([value])
        return value
    if isinstance(value, float) and value.is_integer():  # as spreadsheets write whole numbers
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63:
        return value
    raise _Wrong(f"label is {_told(value)}; {_RIGHT}")


def _value(value: object) -> int | str | Array:
    """What is right for one output, as an array. Numbers with a point are FP32 where nothing else is said."""
    datatype = ""
    if isinstance(value, dict):
        if value.keys() != {"datatype", "data"}:
            raise _Wrong(
                f'{_told(value)} is no tensor; one is {{"datatype": "FP32", "data": [0.5]}}, or its numbers alone'
            )
        datatype, value = str(value["datatype"]), value["data"]
        if datatype not in DTYPES:
            raise _Wrong(f"{_told(datatype)} is no element type; there are {', '.join(DTYPES)}")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise _Wrong(f"its lists are not equally long: {_told(value)}") from error
    kind = array.dtype.kind
    if kind == "U":
        if datatype not in ("", "STRING"):
            raise _Wrong(f"{_told(value)} is text, and no {datatype}")
        return _as_text(np.asarray(value, object))
    if kind not in "biuf" or not array.size:
        raise _Wrong(f"{_told(value)} has no value that a label can have")
    wanted = DTYPES[datatype or {"b": "BOOL", "f": "FP32"}.get(kind, "INT64")]
    try:
        return _converted(array, wanted)
    except (OverflowError, ValueError, TypeError) as error:
        raise _Wrong(f"{_told(value)} is no {datatype or 'INT64'}") from error


def _converted(array: Array, wanted: "np.dtype[Any]") -> Array:
    """Raises ValueError where the numbers are none of that type."""
    if wanted.kind == "O" or (array.dtype.kind == "b") != (wanted.kind == "b"):
        raise ValueError
    with np.errstate(over="ignore"):
        converted: Array = to_bfloat16(array) if wanted == BFLOAT16 else array.astype(wanted)
        if wanted.kind in "iu" and (converted.astype(np.float64) != array.astype(np.float64)).any():
            raise ValueError
        if wanted.kind == "f" and not np.isfinite(converted).all():
            raise ValueError
    return converted


def _as_text(texts: Any) -> Array:
    array = np.asarray(texts, object)
    for text in array.ravel().tolist():
        try:
            if not isinstance(text, str):
                raise _Wrong(f"{_told(text)} is no text, as its neighbours are")
            text.encode()
        except UnicodeEncodeError as error:
            raise _Wrong("it has half a character") from error
    return array


def _size_bytes(value: int | str | Array) -> int:
    array = np.asarray(value)
    return sum(len(text.encode()) for text in array.ravel().tolist()) if array.dtype.kind in "OU" else array.nbytes


def _told(value: object) -> str:
    """A value as an error names it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"
