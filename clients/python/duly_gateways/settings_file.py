"""Reads what a gateway is told by a TOML file, and names the key where something is wrong with it."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

_T = TypeVar("_T")

FILE_BYTES_MAX = 1 << 20
"""A settings file of a gateway that is larger is refused."""

_WORDS = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
}


class SettingsError(Exception):
    """What is wrong with a setting, with its name."""


class Table:
    """A table of the file. Each key is taken once; `finish` names those that nobody took."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        """`name`: as people know it, such as "bridge[0]"; empty: the file itself."""
        self.name = name
        self._values = dict(values)
        self._known: list[str] = []

    def take(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        """Returns the value of a key. Raises SettingsError where it is not of that kind, or missing without a default.
        A whole number will do where a number is wanted.
        """
        self._known.append(key)
        value = self._values.pop(key, None)
        if value is None:
            if default is None:
                raise SettingsError(f"{self.spelled(key)}: is missing; it should be {_WORDS[kind]}")
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return cast(_T, float(value))
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise SettingsError(f"{self.spelled(key)}: should be {_WORDS[kind]}, got {value!r}")
        return value

    def number(self, key: str, default: float, lowest: float, highest: float) -> float:
        """Returns a number within bounds, both included."""
        value = self.take(key, float, default)
        if not lowest <= value <= highest:
            raise SettingsError(f"{self.spelled(key)}: should be {lowest:g} to {highest:g}, got {value:g}")
        return value

    def whole(self, key: str, default: int, lowest: int, highest: int) -> int:
        """Returns a whole number within bounds, both included."""
        value = self.take(key, int, default)
        if not lowest <= value <= highest:
            raise SettingsError(f"{self.spelled(key)}: should be {lowest} to {highest}, got {value}")
        return value

    def word(self, key: str, default: str, words: tuple[str, ...]) -> str:
        """Returns one of some words."""
        value = self.take(key, str, default)
        if value not in words:
            raise SettingsError(f"{self.spelled(key)}: should be one of {', '.join(words)}, got {value!r}")
        return value

    def texts(self, key: str) -> dict[str, str]:
        """Returns a table of strings; empty where it is not stated."""
        table = self.take(key, dict, {})
        for name, value in table.items():
            if not isinstance(value, str):
                raise SettingsError(f"{self.spelled(key)}.{name}: should be a string, got {value!r}")
        return cast(dict[str, str], table)

    def list_of_texts(self, key: str) -> list[str]:
        """Returns a list of strings; empty where it is not stated."""
        values = self.take(key, list, [])
        if not all(isinstance(value, str) for value in values):
            raise SettingsError(f"{self.spelled(key)}: should be a list of strings, got {values!r}")
        return cast(list[str], values)

    def table(self, key: str) -> "Table":
        """Returns a table within this one; empty where it is not stated."""
        return Table(self.spelled(key), self.take(key, dict, {}))

    def tables(self, key: str) -> Iterator["Table"]:
        """Iterates over an array of tables."""
        for nth, values in enumerate(self.take(key, list, [])):
            name = f"{self.spelled(key)}[{nth}]"
            if not isinstance(values, dict):
                raise SettingsError(f"{name}: should be a table, got {values!r}")
            yield Table(name, values)

    def names(self) -> list[str]:
        """The keys that nobody took yet."""
        return list(self._values)

    def spelled(self, key: str) -> str:
        """The whole name of a key."""
        return f"{self.name}.{key}" if self.name else key

    def finish(self) -> None:
        """Raises SettingsError where there are keys that nobody took."""
        if self._values:
            raise SettingsError(f"{self.spelled(next(iter(self._values)))}: there is no such key; {self._expected()}")

    def _expected(self) -> str:
        return f"there are: {', '.join(dict.fromkeys(self._known))}"


def read(path: str | Path) -> Table:
    """Returns the file as a table. Raises SettingsError where it cannot be read or is no TOML."""
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise SettingsError(f"{path}: is larger than {FILE_BYTES_MAX} bytes")
        return Table("", tomllib.loads(content.decode()))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # TOML's errors and those of UTF-8 are such
        raise SettingsError(f"{path}: {error}") from None
