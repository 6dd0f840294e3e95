"""`duly models convert`: the model.toml that says what a config.pbtxt of Triton says."""

import sys
from pathlib import Path

import click

from duly.models.errors import BrokenModel
from duly.models.folders import CONFIG_FILE, subfolders
from duly.models.toml_text import toml_text
from duly.models.triton.config_pbtxt import read_pbtxt
from duly.models.triton.origin import TRITON_FILE


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--write", is_flag=True, help="Write each model.toml beside its config.pbtxt, where there is none yet.")
def convert(folder: Path, write: bool) -> None:
    """Print the model.toml that says what config.pbtxt says, of one model or of all in a repository.

    DIR is the folder of a model or of a repository. What has no effect, and what is not served, goes to standard error
    with its line.
    """
    models = [folder] if (folder / TRITON_FILE).exists() else subfolders(folder)
    models = [model for model in models if (model / TRITON_FILE).exists()]
    if not models:
        raise click.ClickException(f"there is no {TRITON_FILE} in {folder}, nor in a folder of it")
    converted = [_convert(model.resolve(), write, len(models) > 1) for model in models]
    sys.exit(0 if all(converted) else 1)


def _convert(model: Path, write: bool, several: bool) -> bool:
    """Returns whether the model could be converted."""
    name, target = model.name, model / CONFIG_FILE
    try:
        settings = read_pbtxt(model)
    except BrokenModel as error:
        click.echo(f"duly: {name}{error}", err=True)
        return False
    for note in settings.notes:
        click.echo(f"duly: {name}{note}", err=True)
    text = toml_text(settings.config)
    if not write:
        click.echo((f"# {name}/{CONFIG_FILE}\n" if several else "") + text, nl=several)
        return True
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        click.echo(f"duly: {name}/{CONFIG_FILE} is there already; take it away for it to be written anew", err=True)
        return False
    except OSError as error:
        click.echo(f"duly: {name}/{CONFIG_FILE} cannot be written: {error.strerror}", err=True)
        return False
    click.echo(f"{name}/{CONFIG_FILE}")
    return True
