"""Reads protobuf's text format without knowing what it says: fields in their order, each with its line.

It is a reader of our own because that of protobuf says the line of what it cannot parse, and none of what it has parsed
and duly does not serve. It also needs descriptors, which must not clash with those of an installed tritonclient. Names
and values are what `message` checks. Extensions and messages of type Any are not read, as no model configuration has
them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

DEPTH_MAX = 16
"""Messages within messages. A model configuration has at most seven."""
FIELDS_MAX = 50_000
"""Fields in all, which a file of the largest size has if it is written densely."""

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f\v]+|\#[^\n]*)
    |(?P<newline>\n)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>(?:0[xX][0-9a-fA-F]+|[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)[fF]?)
    |(?P<string>"(?:[^"\\\n]|\\.)*+"|'(?:[^'\\\n]|\\.)*+')
    |(?P<mark>[{}<>\[\]:;,\-])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:([abfnrtv\\'\"?])|([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")
_SIMPLE = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34, "?": 63}
NAME_CHARS_MAX = 128
"""A field's name or a word that is longer is none of a model configuration."""
_SHOWN_CHARS_MAX = 40
_CLOSES = {"{": "}", "<": ">"}

Kind = Literal["name", "number", "string"]


class TextError(Exception):
    """The text cannot be read. The message begins with the line, and says what would be right."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(f"line {line}: {text}")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value that is no message, as it is written."""

    line: int
    kind: Kind
    """Whether it is a word, such as `true` and TYPE_FP32; a number, with its sign; or a string, without its quotes."""
    text: str


@dataclass(frozen=True, slots=True)
class Block:
    """A message between braces, or the whole file."""

    line: int
    fields: "tuple[Field, ...]"


@dataclass(frozen=True, slots=True)
class Field:
    """One field. A list `[a, b]` is as many fields of the same name."""

    line: int
    name: str
    value: Scalar | Block


class _Token(NamedTuple):
    line: int
    kind: str
    """A Kind, or "mark", or "end"."""
    text: str


def parse(text: str) -> Block:
    """Reads the whole text. Raises TextError."""
    return _Parser(text).file()


def shown(text: str) -> str:
    """A piece of the file, as errors quote it."""
    cut = text if len(text) <= _SHOWN_CHARS_MAX else text[: _SHOWN_CHARS_MAX - 1] + "…"
    return f"'{cut}'"


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._next = next(self._tokens)
        self._fields = 0

    def file(self) -> Block:
        return Block(1, self._fields_until("", 1, 1))

    def _take(self) -> _Token:
        taken, self._next = self._next, next(self._tokens, self._next)
        return taken

    def _takes(self, mark: str) -> bool:
        """Takes the mark if it is the next token."""
        if self._next.kind == "mark" and self._next.text == mark:
            self._take()
            return True
        return False

    def _fields_until(self, closes: str, opened: int, depth: int) -> tuple[Field, ...]:
        """The fields up to the mark `closes`, which is taken; "": up to the end. `opened`: the line where it begins."""
        fields: list[Field] = []
        while not (self._takes(closes) if closes else self._next.kind == "end"):
            token = self._take()
            if token.kind == "end":
                raise TextError(token.line, f"the file ends, and the message of line {opened} lacks its '{closes}'")
            if token.kind != "name":
                expected = f"a field's name or '{closes}'" if closes else "a field's name"
                if token.text == "[":
                    raise TextError(
                        token.line, f"{expected} is expected; extensions and messages of type Any are not read"
                    )
                raise TextError(token.line, f"{expected} is expected, got {shown(token.text)}")
            fields += self._values(token, depth)
            if not self._takes(","):
                self._takes(";")
        return tuple(fields)

    def _values(self, name: _Token, depth: int) -> list[Field]:
        colon = self._takes(":")
        if not self._takes("["):
            return [self._value(name, colon, depth)]
        fields: list[Field] = []
        if self._takes("]"):
            return fields
        while True:
            fields.append(self._value(name, colon, depth))
            if self._takes("]"):
                return fields
            if not self._takes(","):
                token = self._next
                got = "the file ends" if token.kind == "end" else f"got {shown(token.text)}"
                raise TextError(token.line, f"{name.text}: ',' or ']' is expected in its list, {got}")

    def _value(self, name: _Token, colon: bool, depth: int) -> Field:
        self._fields += 1
        token = self._take()
        if self._fields > FIELDS_MAX:
            raise TextError(token.line, f"more than {FIELDS_MAX:,} fields; no model has so many")
        if token.kind == "mark" and token.text in _CLOSES:
            if depth >= DEPTH_MAX:
                raise TextError(token.line, f"{name.text}: more than {DEPTH_MAX} messages within one another")
            fields = self._fields_until(_CLOSES[token.text], token.line, depth + 1)
            return Field(name.line, name.text, Block(token.line, fields))
        if not colon:
            raise TextError(token.line, f"{name.text}: ':' and a value are expected, or '{{' and fields{_got(token)}")
        return Field(name.line, name.text, self._scalar(name, token))

    def _scalar(self, name: _Token, token: _Token) -> Scalar:
        sign = ""
        if token.kind == "mark" and token.text == "-":
            sign, token = "-", self._take()
        if token.kind == "number" or (sign and token.kind == "name"):
            return Scalar(token.line, "number", sign + token.text)
        if token.kind == "name":
            return Scalar(token.line, "name", token.text)
        if token.kind != "string" or sign:
            raise TextError(token.line, f"{name.text}: a value is expected{_got(token)}")
        parts = [token]
        while self._next.kind == "string":  # neighbours are one string
            parts.append(self._take())
        return Scalar(token.line, "string", _joined(parts))


def _got(token: _Token) -> str:
    return ", and the file ends" if token.kind == "end" else f", got {shown(token.text)}"


def _tokens(text: str) -> Iterator[_Token]:
    line, at = 1, 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            if text[at] in "\"'":
                raise TextError(
                    line, f"the string has no end: {shown(text[at:].partition(chr(10))[0])}; close it on its line"
                )
            raise TextError(line, f"{shown(text[at])} is no part of protobuf's text format")
        at = match.end()
        kind = str(match.lastgroup)
        if kind == "newline":
            line += 1
        elif kind != "space":
            if kind == "number" and at < len(text) and (text[at].isalnum() or text[at] in "_."):
                raise TextError(line, f"{shown(match[0] + text[at])} is no number")
            if kind == "name" and len(match[0]) > NAME_CHARS_MAX:
                raise TextError(line, f"{shown(match[0])} is longer than any name of a model configuration")
            yield _Token(line, kind, match[0])
    yield _Token(line, "end", "")


def _joined(parts: list[_Token]) -> str:
    """What strings that follow one another hold together."""
    held = bytearray()
    for token in parts:
        inner, at = token.text[1:-1], 0
        while at < len(inner):
            if inner[at] != "\\":
                until = inner.find("\\", at)
                piece, at = inner[at : until if until >= 0 else len(inner)], until if until >= 0 else len(inner)
                held += piece.encode("utf-8", "surrogatepass")
                continue
            match = _ESCAPE.match(inner, at)
            if match is None:
                raise TextError(
                    token.line, f"{shown(inner[at : at + 2])} is no escape; a backslash itself is written \\\\"
                )
            at = match.end()
            held += _escaped(match, token.line)
    try:
        return held.decode("utf-8")
    except UnicodeDecodeError:
        raise TextError(parts[0].line, "the string is not UTF-8 by its escapes") from None


def _escaped(match: "re.Match[str]", line: int) -> bytes:
    simple, octal, hexadecimal, short, long = match.groups()
    if simple is not None:
        return bytes([_SIMPLE[simple]])
    if octal is not None or hexadecimal is not None:
        return bytes([int(octal, 8) & 0xFF if octal is not None else int(hexadecimal, 16)])
    point = int(short or long, 16)
    if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
        raise TextError(line, f"{shown(match[0])} is no character")
    return chr(point).encode()
