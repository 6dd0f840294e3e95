"""What a model configuration of Triton comes to: settings in the words of model.toml, the lines that they are from, and
what its author should know.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from duly.models.triton.message import Message
from duly.models.triton.schema import DATA_TYPES
from duly.models.triton.text_format import TextError


@dataclass(slots=True)
class Written:
    """What has been read so far."""

    table: dict[str, object] = field(default_factory=dict)
    """The contents of model.toml, by key."""
    lines: dict[str, int] = field(default_factory=dict)
    """The line of config.pbtxt that a place of model.toml is from, such as `input[0].shape`."""
    notes: list[tuple[int, str]] = field(default_factory=list)
    """What is otherwise than with Triton, by line."""

    def put(self, key: str, value: object, line: int) -> None:
        """Sets a key of the whole model."""
        self.table[key] = value
        self.lines.setdefault(key, line)

    def note(self, line: int, text: str) -> None:
        self.notes.append((line, text))

    def add(self, key: str, line: int) -> "Table":
        """Begins one more of the tables `[[key]]`."""
        tables = self.table.setdefault(key, [])
        assert isinstance(tables, list)
        place = f"{key}[{len(tables)}]"
        table: dict[str, object] = {}
        tables.append(table)
        self.lines.setdefault(key, line)
        self.lines[place] = line
        return Table(table, place, self.lines)


@dataclass(frozen=True, slots=True)
class Table:
    """One of several tables of a kind."""

    values: dict[str, object]
    place: str
    lines: dict[str, int]

    def put(self, key: str, value: object, line: int) -> None:
        self.values[key] = value
        self.lines[f"{self.place}.{key}"] = line


def refused(message: Message, names: Sequence[str], where: str, why: str) -> None:
    """Raises TextError where one of these fields is stated, be it a message, a list or a flag that is true."""
    for name in names:
        if name in message.inner or name in message.maps or any(each.value for each in message.scalars.get(name, ())):
            raise TextError(message.line_of(name), f"{where}{name} is not served: {why}")


def unused(written: Written, message: Message, names: Sequence[str], where: str, why: str) -> None:
    """Notes which of these fields are stated and have no effect."""
    for name in names:
        stated = message.scalars.get(name, ())
        if name in message.inner or name in message.maps or any(each.value for each in stated):
            written.note(message.line_of(name), f"{where}{name} has no effect: {why}")


def dims_of(message: Message, name: str, where: str) -> list[int] | None:
    """The extents that a field lists; None where it lists none. Raises TextError."""
    values = message.scalars.get(name)
    if not values:
        return None
    for each in values:
        if int(each.value) < 1 and each.value != -1:
            raise TextError(each.line, f"{where}: an extent is 1 or more, or -1 for any, got {each.value}")
    return message.numbers(name)


def put_datatype(table: Table, message: Message, where: str) -> None:
    """Sets the datatype where one is stated. Raises TextError."""
    name = message.text("data_type")
    if name == "TYPE_INVALID":
        raise TextError(message.line_of("data_type"), f"{where}.data_type: TYPE_INVALID is no type of a tensor")
    if name:
        table.put("datatype", DATA_TYPES[name], message.line_of("data_type"))


def needed(message: Message, name: str, where: str) -> str:
    """A text that must be stated. Raises TextError."""
    text = message.text(name)
    if not text:
        raise TextError(message.line_of(name), f"{where}: its {name} is missing")
    return text
