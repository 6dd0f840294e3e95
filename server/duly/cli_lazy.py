"""Commands that are imported only when they run, so that one whose packages are missing holds up no other."""

import importlib
from typing import Any

import click


class Lazy(click.Command):
    """Stands for a command that is imported when it is called. Until then only its name and summary are known."""

    def __init__(self, name: str, target: str, summary: str, needs: str) -> None:
        super().__init__(name, short_help=summary)
        self._target = target
        self._needs = needs

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        module, _, attribute = self._target.partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            missing = (error.name or "duly").partition(".")[0]
            if missing.startswith("duly"):
                raise
            raise click.ClickException(
                f"{self.name} needs the module {missing}, which is not installed: {self._needs}"
            ) from error
        return command.make_context(info_name, args, parent, **extra)
