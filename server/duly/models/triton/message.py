"""Reads messages out of protobuf's text format by the schema, each value with its line."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

from duly.models.triton.schema import ENUMS, MESSAGES
from duly.models.triton.text_format import Block, Scalar, TextError, shown

_INTEGERS = {
    "int32": (-(1 << 31), (1 << 31) - 1),
    "uint32": (0, (1 << 32) - 1),
    "int64": (-(1 << 63), (1 << 63) - 1),
    "uint64": (0, (1 << 64) - 1),
}
_BOOLEANS = {"true": True, "True": True, "t": True, "1": True, "false": False, "False": False, "f": False, "0": False}
_DIGITS_MAX = 32
_FLOATS = ("float", "double")


@dataclass(frozen=True, slots=True)
class Value:
    """One value with its line. An enum's is its name."""

    line: int
    value: str | int | float | bool


@dataclass(frozen=True, slots=True)
class Message:
    """One message. Fields that it does not state have no entry."""

    line: int
    scalars: dict[str, list[Value]] = field(default_factory=dict)
    inner: "dict[str, list[Message]]" = field(default_factory=dict)
    maps: "dict[str, dict[str | int, Value | Message]]" = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    """The line of each field that is stated, where it is stated first."""

    def line_of(self, name: str) -> int:
        """The line of a field; where it is not stated, that of the message."""
        return self.lines.get(name, self.line)

    def message(self, name: str) -> "Message | None":
        return next(iter(self.inner.get(name, ())), None)

    def messages(self, name: str) -> "list[Message]":
        return self.inner.get(name, [])

    def text(self, name: str) -> str:
        """The text, or the name of the enum's value; empty where it is not stated."""
        values = self.scalars.get(name)
        return str(values[0].value) if values else ""

    def integer(self, name: str) -> int:
        """The whole number; 0 where it is not stated."""
        values = self.scalars.get(name)
        return int(values[0].value) if values else 0

    def flag(self, name: str) -> bool:
        values = self.scalars.get(name)
        return bool(values[0].value) if values else False

    def numbers(self, name: str) -> list[int]:
        return [int(each.value) for each in self.scalars.get(name, ())]


def read_message(block: Block, kind: str = "ModelConfig", place: str = "") -> Message:
    """Checks a message and its fields. `place`: what leads to it, such as "input".

    Raises:
        TextError: a field is unknown, stands twice, or has a value that it cannot have.
    """
    schema, message = MESSAGES[kind], Message(block.line)
    chosen: dict[str, str] = {}
    for given in block.fields:
        where = f"{place}.{given.name}" if place else given.name
        if given.name not in schema:
            raise TextError(given.line, _unknown(given.name, where, schema))
        oneof, _, wanted = schema[given.name].rpartition("|")
        first = message.lines.setdefault(given.name, given.line)
        if (other := chosen.setdefault(oneof, given.name)) != given.name and oneof:
            raise TextError(given.line, f"{where}: only one of {other} and {given.name} can be stated; keep one")
        if wanted[0] not in "[{" and (given.name in message.scalars or given.name in message.inner):
            raise TextError(given.line, f"{where} stands twice, first on line {first}; keep one")
        if wanted[0] == "{":
            key, value = _entry(given.value, wanted, where, given.line)
            message.maps.setdefault(given.name, {})[key] = value
            continue
        wanted = wanted.strip("[]")
        if wanted in MESSAGES:
            message.inner.setdefault(given.name, []).append(_inner(given.value, wanted, where))
        else:
            message.scalars.setdefault(given.name, []).append(_scalar(given.value, wanted, where))
    return message


def _entry(value: Scalar | Block, wanted: str, where: str, line: int) -> "tuple[str | int, Value | Message]":
    """One entry of a map, which is written as a message with `key` and `value`."""
    if isinstance(value, Scalar):
        raise TextError(value.line, f'{where}: should be {{ key: "…" value: … }}, got {shown(value.text)}')
    key_kind, value_kind = wanted.strip("{}").split(": ")
    parts: dict[str, Scalar | Block] = {}
    for given in value.fields:
        if given.name not in ("key", "value"):
            raise TextError(given.line, f"{where}.{given.name}: there is no such field; there are key, value")
        if given.name in parts:
            raise TextError(given.line, f"{where}.{given.name} stands twice; keep one")
        parts[given.name] = given.value
    if "key" not in parts:
        raise TextError(line, f"{where}: its key is missing")
    key = _scalar(parts["key"], key_kind, f"{where}.key").value
    assert isinstance(key, str | int)
    inner = parts.get("value", Block(line, ()))
    if value_kind in MESSAGES:
        return key, _inner(inner, value_kind, f"{where}.value")
    if "value" not in parts:
        return key, Value(line, "")
    return key, _scalar(inner, value_kind, f"{where}.value")


def _inner(value: Scalar | Block, kind: str, where: str) -> Message:
    if isinstance(value, Scalar):
        raise TextError(value.line, f"{where}: should be a message in {{ }}, got {shown(value.text)}")
    return read_message(value, kind, where)


def _scalar(value: Scalar | Block, kind: str, where: str) -> Value:
    if isinstance(value, Block):
        raise TextError(value.line, f"{where}: should be {_said(kind)}, not a message in {{ }}")
    if kind in ENUMS:
        return Value(value.line, _enum(value, kind, where))
    if kind == "string":
        if value.kind != "string":
            raise TextError(value.line, f"{where}: should be a text in quotes, got {shown(value.text)}")
        return Value(value.line, value.text)
    if value.kind != "string":
        if kind == "bool" and value.text in _BOOLEANS:
            return Value(value.line, _BOOLEANS[value.text])
        if kind in _INTEGERS and (number := _integer(value.text)) is not None:
            low, high = _INTEGERS[kind]
            if low <= number <= high:
                return Value(value.line, number)
            raise TextError(value.line, f"{where}: {shown(value.text)} is no number from {low} to {high}")
        if kind in _FLOATS and (real := _float(value.text)) is not None:
            return Value(value.line, real)
    raise TextError(value.line, f"{where}: should be {_said(kind)}, got {shown(value.text)}")


def _integer(text: str) -> int | None:
    if len(text) > _DIGITS_MAX:
        return None
    digits = text.removeprefix("-")
    base = 16 if digits[:2].lower() == "0x" else 8 if digits.startswith("0") and digits.isdigit() else 10
    try:
        return int(text, base)
    except ValueError:
        return None


def _float(text: str) -> float | None:
    try:
        real = float(text.rstrip("fF")) if text[:2].lower() != "0x" else float(int(text, 16))
    except (ValueError, OverflowError):
        return None
    return real if isfinite(real) else None


def _enum(value: Scalar, kind: str, where: str) -> str:
    names = ENUMS[kind]
    if value.kind == "number" and (number := _integer(value.text)) is not None and 0 <= number < len(names):
        return names[number]
    if value.kind == "name" and value.text in names:
        return value.text
    quotes = ", without quotes" if value.kind == "string" and value.text in names else ""
    text = f"{where}: should be one of {', '.join(names)}{quotes}, got {shown(value.text)}"
    raise TextError(value.line, text + _likely(value.text.upper(), names))


def _said(kind: str) -> str:
    if kind in ENUMS:
        return f"one of {', '.join(ENUMS[kind])}"
    if kind in _INTEGERS:
        return "a whole number"
    return {"string": "a text in quotes", "bool": "true or false"}.get(kind, "a number")


def _unknown(name: str, where: str, schema: Mapping[str, str]) -> str:
    hint = _likely(name, schema) or (f"; there are {', '.join(schema)}" if 0 < len(schema) <= 12 else "")
    return f"{where}: there is no such field{hint}"


def _likely(word: str, known: Mapping[str, str] | Sequence[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
