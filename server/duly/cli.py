"""The command `duly`.

Each command is imported only when it runs, so that `duly version` needs nothing but the base packages, and a command
whose packages are missing can say which ones to install. Errors are one line each on standard error: exit status 2 for
what the user typed or configured, 1 for what failed. `DULY_DEBUG=1` shows tracebacks.
"""

import importlib.metadata
import os
import platform
import sys

import click

from duly import compiled
from duly.cli_lazy import Lazy

_SERVER_EXTRAS = "pip install 'duly[cpu]', or 'duly[gpu]' for an NVIDIA GPU"
_LOG_EXTRAS = "pip install 'duly[logs]'"
_OURS = ("duly", "duly_client", "duly_learn", "duly_logs")
_DEMO_EXTRAS = "pip install 'duly[cpu,demo]', or 'duly[gpu,demo]' for an NVIDIA GPU"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def cli() -> None:
    """A streaming inference server for real-time systems: every frame gets its prediction in time, or the reason why
    not.
    """


cli.add_command(Lazy("serve", "duly.cli_serve:serve", "Serve the models of a repository.", _SERVER_EXTRAS))
cli.add_command(Lazy("models", "duly.cli_models:models", "Look at a model repository.", _SERVER_EXTRAS))
cli.add_command(Lazy("doctor", "duly.cli_doctor:doctor", "Look at this machine and the settings.", _SERVER_EXTRAS))
cli.add_command(Lazy("stream", "duly.cli_stream:stream", "Stream a recording to a server.", "pip install duly"))
cli.add_command(Lazy("feedback", "duly.cli_feedback:feedback", "Send labels of frames.", "pip install duly"))
cli.add_command(Lazy("replay", "duly.cli_replay:replay", "Feed a recorded drive to a server.", _LOG_EXTRAS))
cli.add_command(Lazy("diff", "duly.cli_diff:diff", "Compare two replays of one drive.", _LOG_EXTRAS))
cli.add_command(Lazy("token", "duly.cli_token:token", "Make tokens for clients, and check them.", _SERVER_EXTRAS))
cli.add_command(Lazy("certs", "duly.cli_certs:certs", "Make certificates for a first try.", _SERVER_EXTRAS))
cli.add_command(Lazy("demo", "duly.demo.command:demo", "Watch duly work on real models.", _DEMO_EXTRAS))


@cli.command(short_help="Print the versions of duly and what it stands on.")
def version() -> None:
    """Print the versions of duly and of what it stands on, and whether what every frame passes is compiled."""
    click.echo(f"duly {_installed('duly') or 'run from its sources, not installed'}")
    click.echo(f"compiled {compiled.told()}")
    click.echo(f"python {platform.python_version()}")
    for package in ("grpcio", "protobuf", "onnxruntime", "onnxruntime-gpu"):
        found = _installed(package)
        if found:
            click.echo(f"{package} {found}")


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Runs the command line and exits."""
    _open_standard_files()
    compiled.choose()
    try:
        status = cli.main(prog_name="duly", standalone_mode=False)
        sys.stdout.flush()
    except Exception as error:
        if os.environ.get("DULY_DEBUG") == "1":
            raise
        sys.exit(_report(error))
    sys.exit(status if isinstance(status, int) else 0)


def _open_standard_files() -> None:
    """Opens standard input, output and error where whoever started this process has closed them.

    Otherwise a socket would get their numbers, and what is printed would go to a client, or end the process.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (it stays open as long as the process)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _report(error: Exception) -> int:
    """Prints what went wrong on standard error, in plain words, and returns the exit status."""
    if isinstance(error, click.Abort) and isinstance(error.__cause__, EOFError):
        error = error.__cause__  # click takes a file that ends too soon for Ctrl-D
    if isinstance(error, click.Abort):
        return 130  # as a shell reports an end by Ctrl-C
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return 2
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit needs an open file
        return 1
    status = 1
    if isinstance(error, click.ClickException):
        message, status = error.format_message(), error.exit_code
        if isinstance(error, click.UsageError) and error.ctx is not None:
            message += f" (see {error.ctx.command_path} --help)"
    elif isinstance(error, OSError) and error.filename is not None:
        message = f"{error.filename}: {error.strerror}"
    elif isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _OURS:
        message = str(error)
    else:
        message = f"internal error, {type(error).__name__}: {error} (DULY_DEBUG=1 shows where)"
    for line in message.splitlines() or [type(error).__name__]:
        click.echo(f"duly: {line}", err=True)
    return status


if __name__ == "__main__":
    main()
