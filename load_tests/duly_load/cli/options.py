"""What the commands share: errors of who typed them, numbers, and a folder for what they write."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click


class UsageError(click.ClickException):
    """What was typed, or what the scenario says, is wrong: the exit status is 2."""

    exit_code = 2


class Number(click.FloatRange):
    """click's own range lets nan through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("should be a number, got nan", param, ctx)
        return number


def make_folder(out: Path, files: Sequence[str]) -> None:
    """Makes the folder for `files`, so that the work does not begin where one can't be written. Raises UsageError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in files:
            (out / name).touch()
    except OSError as error:
        raise UsageError(f"--out: {error.filename} can't be written: {error.strerror}") from error


@contextmanager
def writing(out: Path, files: Sequence[str]) -> Iterator[None]:
    """The block writes `files` into the folder, those that cost nothing first: a fault in drawing must lose no figures.
    Raises ClickException where one can't be written.
    """
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"--out: {error.filename or out} can't be written: {error.strerror}") from error
    except ModuleNotFoundError as error:
        raise click.ClickException(f"--out: a page can't be drawn: {error}") from error
    click.echo(f"written: {', '.join(str(out / name) for name in files)}")
