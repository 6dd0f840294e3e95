"""A command line whose commands are files of their own, each imported only when it is asked for."""

import importlib
import os
import signal
import sys
from collections.abc import Mapping

import click


class Commands(click.Group):
    """`modules`: by the name of a command, the module that has it as an attribute, `-` in the name read as `_`."""

    def __init__(self, modules: Mapping[str, str], about: str) -> None:
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
        super().__init__(help=about, context_settings=settings)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._modules:
            return None
        module = importlib.import_module(self._modules[cmd_name])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


def run(cli: click.Group, program: str) -> None:
    """Runs the command line and exits. A SIGTERM ends it like Ctrl-C: everything that was started is stopped.

    Exit status 2 is for what the user typed or wrote into a scenario, 1 for what failed.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Processes of multiprocessing would import what lies in the working folder, such as a signal.py, before all else.
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        status = cli.main(prog_name=program, standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except ModuleNotFoundError as error:
        if (error.name or "duly").startswith("duly"):
            raise
        click.echo(f"Error: the module {error.name} is not installed: pip install 'duly[load]'", err=True)
        sys.exit(1)
