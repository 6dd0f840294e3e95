"""`duly models`: what is in a model repository, and whether it would load."""

import difflib
import os
import sys
from pathlib import Path

import click

from duly.config import ConfigError, load_config
from duly.models.repository import ModelVersion, Repository

_FOLDER = click.argument(
    "folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True
)


@click.group()
def models() -> None:
    """Look at a model repository, a folder of NAME/VERSION/*.onnx."""


@models.command("list")
@_FOLDER
def list_models(folder: Path) -> None:
    """Print one line for each version of each model. What is broken goes to standard error."""
    versions, problems = Repository(folder).scan()
    width = max((len(version.key) for version in versions), default=0)
    for version in versions:
        click.echo(f"{version.key:{width}}  {_summary(version)}".rstrip())
    if not versions and not problems:
        click.echo(f"no models in {folder}: it should hold NAME/VERSION/*.onnx")
    for problem in problems:
        click.echo(f"duly: {problem.reason}", err=True)
    sys.exit(1 if problems else 0)


def _summary(version: ModelVersion) -> str:
    config = version.config
    variants = ", ".join(variant.name for variant in config.variants)
    parts = [f"variants: {variants}", f"budget: {config.default_budget_ms:g} ms", f"class: {config.default_class}"]
    return "  ".join([*parts, config.description])


@models.command()
@_FOLDER
@click.argument("model", metavar="NAME[/VERSION]")
def show(folder: Path, model: str) -> None:
    """Print the settings of a model as JSON, defaults filled in: of its newest version, or of the one named."""
    versions, problems = Repository(folder).scan()
    for version in versions:
        if model in (version.key, version.name):
            click.echo(version.config.model_dump_json(by_alias=True, indent=2))
            return
    for problem in problems:
        click.echo(f"duly: {problem.reason}", err=True)
    known = sorted({name for version in versions for name in (version.name, version.key)})
    close = difflib.get_close_matches(model, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none'}"
    raise click.ClickException(f"no model {model} in {folder}; {hint}")


@models.command()
@_FOLDER
@click.option("--lanes", metavar="TEXT", help="Lanes to load on, such as cpu:0,cuda:0; not set: as duly serve chooses.")
@click.option("--threads", metavar="N", help="Intra-op threads on a CPU lane; 0: as duly serve chooses.")
def check(folder: Path, lanes: str | None, threads: str | None) -> None:
    """Load and warm up every model just as the server would, and say which ones do not work."""
    given = {"models": folder, "lanes": lanes, "threads": threads}
    try:
        config = load_config({name: value for name, value in given.items() if value is not None}, None, os.environ)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    from duly import app  # it imports all of gRPC, which the other commands do not need

    results = app.check_models(folder, config.lanes, config.threads)
    width = max((len(checked.key) for checked in results), default=0)
    for checked in results:
        click.echo(f"{checked.key:{width}}  {checked.problem or 'ok'}")
        for note in checked.notes:
            click.echo(f"{'':{width}}  note: {note}")
    if not results:
        click.echo(f"no models in {folder}: it should hold NAME/VERSION/*.onnx")
    sys.exit(0 if results and not any(checked.problem for checked in results) else 1)
