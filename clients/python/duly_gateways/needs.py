"""What a gateway stands on comes with its own extra, and who lacks it is told which."""

from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def needing(command: str, extra: str) -> Iterator[None]:
    """Raises click.ClickException with the extra to install where an import within the context finds no module."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing.startswith("duly"):
            raise
        text = f"{command} needs the module {missing}, which is not installed: pip install 'duly[{extra}]'"
        raise click.ClickException(text) from error
