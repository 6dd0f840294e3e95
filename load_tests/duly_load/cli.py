"""The command `duly-load`: load tests of duly and of what it is compared with.

Each command is a file of its own and is imported only when it is asked for. Exit status 2 is for what the user typed or
wrote into a scenario, 1 for what failed.
"""

import importlib
import signal
import sys

import click

COMMANDS = {
    "run": "duly_load.cli_run",
    "sim": "duly_load.cli_sim",
    "replay": "duly_load.cli_replay",
    "grid": "duly_load.cli_grid",
    "truth": "duly_load.cli_truth",
    "capacity": "duly_load.cli_capacity",
    "compare": "duly_load.cli_compare",
    "soak": "duly_load.cli_soak",
    "peers": "duly_load.cli_peers",
}
"""By name: the module that has the command, as an attribute of the same name."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def cli() -> None:
    """Load tests of duly: what becomes of every frame, under loads that a seed makes again."""


def main() -> None:
    """Runs the command line and exits. A SIGTERM ends it like Ctrl-C: everything that was started is stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = cli.main(prog_name="duly-load", standalone_mode=False)
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


if __name__ == "__main__":
    main()
