"""Which version a command is about."""

import difflib
from pathlib import Path

import click

from duly.models.repository import ModelVersion, NotARepository, Repository


def version_of(folder: Path, model: str) -> ModelVersion:
    """Returns the version NAME/VERSION, or the newest one of NAME. Raises click's errors, which say what there is."""
    try:
        versions, problems = Repository(folder).scan()
    except NotARepository as error:
        raise click.UsageError(str(error)) from error
    found = next((version for version in versions if model in (version.key, version.name)), None)
    if found is not None:
        return found
    if reasons := [problem.reason for problem in problems if problem.name == model.partition("/")[0]]:
        raise click.ClickException(reasons[0])
    known = sorted({name for version in versions for name in (version.name, version.key)})
    close = difflib.get_close_matches(model, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none'}"
    raise click.ClickException(f"no model {model} in {folder}; {hint}")
