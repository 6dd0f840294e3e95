"""Puts the server's settings together.

A setting has one name everywhere: `streams_max` in `ServerConfig` and in the TOML file, `DULY_STREAMS_MAX` in the
environment, `--streams-max` on the command line. The command line wins over the environment, that over the file, that
over the default.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from duly.config import ServerConfig
from duly.settings import option_name, variable_name

NOT_SETTINGS = ("DULY_CACHE_DIR", "DULY_DEBUG")
"""Variables of duly that are no settings of the server: where the demo keeps its models, and tracebacks on errors."""

_OTHER_WORDS = {"host": "listen", "port": "listen", "address": "listen", "metrics_port": "metrics"}
"""What people call a setting, or a part of it, whose name is spelt otherwise."""

_LINKS = tuple(
    (re.compile(rf"DULY(_[A-Z0-9_]+)?{name}"), re.compile(value))
    for name, value in (
        ("_SERVICE_HOST", r"[^\s/]+"),
        (r"_SERVICE_PORT(_[A-Z0-9_]+)?", r"[0-9]+"),
        ("_PORT", r"(tcp|udp|sctp)://\S+"),
        (r"_PORT_[0-9]+_(TCP|UDP|SCTP)", r"(tcp|udp|sctp)://\S+"),
        (r"_PORT_[0-9]+_(TCP|UDP|SCTP)_(ADDR|PROTO|PORT|PORT_START|PORT_END)", r"\S+"),
        ("_NAME", r"/[^/]+/[^/]+"),
    )
)
"""Names and values of the variables that Kubernetes sets in every container for each service, and Docker for each link.
They begin with the service's name, which may be duly, or duly-metrics. No setting's variable looks so."""


class ConfigError(Exception):
    """The server's settings are wrong. The message has one line for each problem: its place and what would be right."""


@dataclass(frozen=True, slots=True)
class _Source:
    """One place that settings come from."""

    label: str
    """Stands before the setting's name in messages."""
    spelling: Callable[[str], str]
    """Makes the setting's name as it is written in this place."""
    values: Mapping[str, Any]

    def place(self, name: str) -> str:
        return self.label + self.spelling(name)


def service_links(environ: Mapping[str, str]) -> list[str]:
    """Returns the variables that look like settings, but were set by the platform that runs the container, for a
    service whose name begins with duly.
    """
    found = {
        variable
        for variable, value in environ.items()
        if any(name.fullmatch(variable) and of.fullmatch(value) for name, of in _LINKS)
    }
    # Docker hands on the variables of a container that is linked to.
    ends = ("_NAME", "_PORT")
    linked = tuple(name.removesuffix(end) + "_ENV_" for name in found for end in ends if name.endswith(end))
    return sorted(found | {name for name in environ if name.startswith(linked)})


def load_config(overrides: Mapping[str, Any], file: Path | None, environ: Mapping[str, str]) -> ServerConfig:
    """Puts the settings together from the command line (`overrides`, by field name), the environment, the TOML file and
    the defaults.

    Raises ConfigError, which lists every problem of every source, unknown names included.
    """
    sources = (
        _Source(f"{file}: ", str, {} if file is None else _read_toml(file)),
        _Source("environment ", variable_name, _read_environment(environ)),
        _Source("", option_name, overrides),
    )
    problems = []
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for source in sources:
        for name, value in source.values.items():
            if name in ServerConfig.model_fields:
                values[name] = value
                places[name] = source.place(name)
            else:
                problems.append(f"{source.place(name)}: unknown setting{_did_you_mean(name, source)}")
    try:
        config = ServerConfig.model_validate(values)
    except ValidationError as error:
        for detail in error.errors():
            if not detail["loc"]:  # it is about several settings together, and names them
                problems.append(detail["msg"].removeprefix("Value error, "))
                continue
            name = str(detail["loc"][0])
            place = places.get(name, name) + "".join(f"[{part}]" for part in detail["loc"][1:])
            problems.append(f"{place}: {_in_plain_words(detail['type'], name, detail['msg'], detail['input'])}")
        raise ConfigError("\n".join(problems)) from error
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{file}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: byte {error.start} is not UTF-8; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error


def _read_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Empty variables count as not set: many deployment files know no other way to unset one."""
    passed_over = {*NOT_SETTINGS, *service_links(environ)}
    return {
        variable.removeprefix("DULY_").lower(): value
        for variable, value in sorted(environ.items())
        if variable.startswith("DULY_") and value and variable not in passed_over
    }


def _did_you_mean(name: str, source: _Source) -> str:
    close = _OTHER_WORDS.get(name) or next(iter(difflib.get_close_matches(name, ServerConfig.model_fields, n=1)), "")
    return f"; did you mean {source.spelling(close)}?" if close else "; duly serve --help lists them all"


def _in_plain_words(kind: str, name: str, message: str, value: object) -> str:
    if kind == "missing":
        return f"is required: give {option_name(name)}, {variable_name(name)} or {name} in the TOML file"
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    if kind == "string_pattern_mismatch":
        message = "should be the octal digits of a mode, such as 0660"
    if value is None:
        return message
    shown = str(value) if isinstance(value, Path) else value
    return f"{message}, got {shown!r}"
