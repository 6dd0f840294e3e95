"""`duly serve`: its options are the fields of `ServerConfig`, so that each setting is written down once."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from duly.cli_settings import CONFIG_OPTION, setting_option
from duly.config import ServerConfig
from duly.config_sources import ConfigError, load_config
from duly.models.repository import NotARepository


def _serve(config: Path | None, words: tuple[str, ...], **settings: Any) -> None:
    if words:
        raise click.UsageError(f"{words[0]} belongs to no option; the folder of models is given as --models {words[0]}")
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
        click.Argument(["words"], nargs=-1, metavar=""),
        CONFIG_OPTION,
        *map(setting_option, ServerConfig.model_fields),
    ],
)
