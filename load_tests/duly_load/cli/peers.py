"""`duly-load peers`: which servers duly can be compared with, and how to get those that are not there."""

import click
from rich.console import Console
from rich.markup import escape

from duly_load.report.terminal import terminal_table
from duly_load.targets.all_peers import PEERS
from duly_load.targets.peer import PeerError


@click.group(name="peers")
def peers() -> None:
    """Servers that the harness starts itself, to compare duly with."""


@peers.command(name="list")
def list_peers() -> None:
    """Show which servers there are, and what each lacks."""
    table = terminal_table("", ["peer"], [])
    for heading in ("what it is", "state"):
        table.add_column(heading)
    for peer in PEERS.values():
        table.add_row(peer.name, escape(peer.about), escape(peer.missing()) or "ready")
    Console().print(table)


@peers.command()
@click.argument("name", type=click.Choice([*PEERS]))
@click.option("--force", is_flag=True, help="Install it anew, though it is there.")
def install(name: str, force: bool) -> None:
    """Install NAME into an environment of its own, below the user's cache folder."""
    peer = PEERS[name]
    if not force and not peer.missing():
        click.echo(f"{name}: is there already; --force installs it anew")
        return
    try:
        peer.install(lambda line: click.echo(line, err=True))
    except PeerError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{name}: ready")
