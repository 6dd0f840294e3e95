"""A TOML file as checked tables, and every problem of it in plain words, with its place: `stream[2].budget_ms: ...`."""

import difflib
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from duly_load.scenario.arrivals import Gamma, Mmpp, OnOff, Periodic, Poisson, Table, Trace
from duly_load.scenario.tables import one_of, read_text

KINDS: dict[str, type[Table]] = {
    "periodic": Periodic,
    "poisson": Poisson,
    "gamma": Gamma,
    "mmpp": Mmpp,
    "on_off": OnOff,
    "trace": Trace,
}

SCENARIOS = Path(__file__).resolve().parents[2] / "scenarios"
"""Where the scenarios of a checkout lie."""

_Root = TypeVar("_Root", bound=Table)


class ScenarioError(Exception):
    """The scenario is wrong; one line for each problem, each with its place and what would be right."""


def read_toml(file: Path) -> dict[str, Any]:
    """The parsed file. Raises ScenarioError."""
    try:
        return tomllib.loads(read_text(file))
    except OSError as error:
        hint = _likely(file) if isinstance(error, FileNotFoundError) else ""
        raise ScenarioError(f"{file}: can't be read: {error.strerror}{hint}") from error
    except ValueError as error:
        raise ScenarioError(f"{file}: not valid TOML: {error}") from error


def _likely(file: Path) -> str:
    """Names the scenario of this checkout that was likely meant by a file that is not there."""
    known = {path.stem: path for path in sorted(SCENARIOS.glob("*.toml"))}
    if not known:
        return ""
    close = difflib.get_close_matches(file.stem, list(known), n=1)
    place = SCENARIOS.relative_to(Path.cwd()) if SCENARIOS.is_relative_to(Path.cwd()) else SCENARIOS
    if close:
        return f"; did you mean {place / known[close[0]].name}?"
    return f"; scenarios lie in {place}: {', '.join(known)}"


def checked(root: type[_Root], content: dict[str, Any], source: str, folder: Path) -> _Root:
    """`content` as a `root`. `source` names the file in messages, files it names are relative to `folder`.

    Raises ScenarioError that lists every problem.
    """
    try:
        return root.model_validate(content, context={"folder": folder})
    except ValidationError as error:
        lines = [line for detail in error.errors() for line in _in_plain_words(root, detail)]
        raise ScenarioError("\n".join(f"{source}: {line}" for line in lines)) from error


def twice(place: str, names: list[str]) -> Iterator[str]:
    """A problem for each name that is there more than once."""
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{place}: should name each once, {name!r} is there {count} times"


def _in_plain_words(root: type[Table], detail: Any) -> list[str]:
    """Lines for one problem that pydantic found; those that `root` found itself carry their place already."""
    kind, loc, value = detail["type"], detail["loc"], detail["input"]
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not loc:
        return [str(line) for line in message.splitlines()]
    place = ""
    for index, part in enumerate(loc):
        if isinstance(part, int):
            place += f"[{part}]"
        elif not (index and loc[index - 1] == "arrivals" and part in KINDS):  # there pydantic names the kind it chose
            place += f".{part}" if place else part
    if kind == "missing":
        return [f"{place}: is required"]
    if kind == "extra_forbidden":
        return [f"{place}: unknown key; should be {one_of(_keys(root, loc[:-1]))}"]
    if kind == "union_tag_not_found":
        return [f"{place}.kind: is required; should be {one_of(list(KINDS))}"]
    if kind == "union_tag_invalid":
        place, message, value = f"{place}.kind", f"should be {one_of(list(KINDS))}", value["kind"]
    elif kind in ("model_type", "model_attributes_type", "dict_type"):
        message = "should be a table"
    elif kind == "tuple_type":
        message = "should be an array"
    if isinstance(value, dict | list):
        return [f"{place}: {message}"]
    shown = repr(value)
    return [f"{place}: {message}, got {shown if len(shown) <= 200 else shown[:200] + '...'}"]


def _keys(root: type[Table], place: tuple[str | int, ...]) -> list[str]:
    """The keys of the table at `place`, where pydantic names the kind that it chose of several tables."""
    table = root
    for part in place:
        if part in KINDS:
            table = KINDS[str(part)]
        elif isinstance(part, str):
            table = _tables_of(table.model_fields[part].annotation)[0]
    return [field.alias or name for name, field in table.model_fields.items()]


def _tables_of(annotation: Any) -> list[type[Table]]:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return [annotation]
    return [table for part in get_args(annotation) for table in _tables_of(part)]
