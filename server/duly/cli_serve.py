"""`duly serve`: its options are the fields of `ServerConfig`, so that each setting is written down once."""

import os
import sys
from pathlib import Path
from typing import Any, get_args

import click
from pydantic.fields import FieldInfo

from duly.config import ConfigError, ServerConfig, load_config, option_name, variable_name
from duly.models.repository import NotARepository


def _option(name: str, setting: FieldInfo) -> click.Option:
    """Makes the option for a setting. Its value stays text: `load_config` checks the values of all sources alike."""
    text = f"{setting.description or ''}  [{_default(setting)}; {variable_name(name)}]"
    if setting.annotation is bool:
        return click.Option([f"{option_name(name)}/--no-{name.replace('_', '-')}"], default=None, help=text)
    return click.Option([option_name(name)], metavar=_metavar(setting), help=text)


def _default(setting: FieldInfo) -> str:
    if setting.is_required():
        return "required"
    if setting.default is None or setting.default == ():
        return "not set"
    return f"default: {setting.default:g}" if isinstance(setting.default, float) else f"default: {setting.default}"


def _metavar(setting: FieldInfo) -> str:
    words = [word for word in get_args(setting.annotation) if isinstance(word, str)]
    if words:
        return "|".join(words)
    if setting.annotation in (int, float):
        return "N"
    if setting.annotation == Path | None:
        return "FILE"
    return "DIR" if setting.annotation is Path else "TEXT"


def _serve(config: Path | None, **settings: Any) -> None:
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        checked = load_config(given, config, os.environ)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    from duly import app  # it imports all of gRPC, which neither --help nor a wrong setting needs

    try:
        sys.exit(app.serve(checked))
    except NotARepository as error:
        raise click.UsageError(f"--models: {error}") from error


serve = click.Command(
    "serve",
    callback=_serve,
    help="""Serve the models of a repository until SIGTERM or Ctrl-C, then finish what can be finished in time.

    Every option can also be set by its variable in the environment, or under its name (streams_max = 64) in the TOML
    file. The command line wins over the environment, and the environment over the file.""",
    params=[
        click.Option(["--config"], type=click.Path(path_type=Path), metavar="FILE", help="TOML file of settings."),
        *(_option(name, setting) for name, setting in ServerConfig.model_fields.items()),
    ],
)
