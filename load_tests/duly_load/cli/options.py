"""What the commands share: errors of who typed them, numbers, and a folder for what they write."""

import math
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


def make_folder(out: Path, files: tuple[str, ...]) -> None:
    """For `files`. What can't be written is told before the work, not after it. Raises UsageError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in files:
            (out / name).touch()
    except OSError as error:
        raise UsageError(f"--out: {error.filename} can't be written: {error.strerror}") from error
