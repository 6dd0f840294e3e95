"""Options of commands that are settings of the server, each written down once: as a field of `ServerConfig`."""

from pathlib import Path
from typing import get_args

import click
from pydantic.fields import FieldInfo

from duly.config import ServerConfig
from duly.settings import option_name, variable_name

CONFIG_OPTION = click.Option(
    ["--config"], type=click.Path(path_type=Path), metavar="FILE", help="TOML file of settings."
)

_FOLDERS = ("learn", "sample")
"""Settings that are folders, though their names do not say so."""


def setting_option(name: str) -> click.Option:
    """Makes the option for a setting. Its value stays text: `load_config` checks the values of all sources alike."""
    setting = ServerConfig.model_fields[name]
    text = f"{setting.description or ''}  [{_default(setting)}; {variable_name(name)}]"
    if setting.annotation is bool:
        return click.Option([f"{option_name(name)}/--no-{name.replace('_', '-')}"], default=None, help=text)
    folder = name.endswith("_folder") or name in _FOLDERS
    return click.Option([option_name(name)], metavar="DIR" if folder else _metavar(setting), help=text)


def _default(setting: FieldInfo) -> str:
    if setting.is_required():
        return "required"
    if setting.default is None or setting.default == ():
        return "not set"
    if isinstance(setting.default, tuple):
        return f"default: {','.join(map(str, setting.default))}"
    return f"default: {setting.default:.10g}" if isinstance(setting.default, float) else f"default: {setting.default}"


def _metavar(setting: FieldInfo) -> str:
    words = [word for word in get_args(setting.annotation) if isinstance(word, str)]
    if words:
        return "|".join(words)
    if setting.annotation in (int, float):
        return "N"
    if setting.annotation == Path | None:
        return "FILE"
    return "DIR" if setting.annotation is Path else "TEXT"
