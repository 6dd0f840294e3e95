"""`duly certs`: certificates for a first try of TLS."""

import re
from pathlib import Path

import click

from duly.access.dev_certificates import DAYS, write_dev_certificates


@click.group()
def certs() -> None:
    """Make certificates for a first try of TLS."""


@certs.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--host", default="", help="Name or address of the server, beside localhost.")
@click.option("--days", type=click.IntRange(1, 825), default=DAYS, show_default=True, help="How long they are valid.")
def dev(folder: Path, host: str, days: int) -> None:
    """Make a CA, a certificate for a server and one for a client in DIR, and print how to use them. The CA's own key is
    not kept, so these are all that it ever signs.
    """
    if not re.fullmatch(r"[0-9A-Za-z.:_*-]*", host):
        raise click.UsageError(f"--host: should be a name or an address, got {host!r}")
    try:
        paths = write_dev_certificates(folder, host, days)
    except FileExistsError as error:
        raise click.ClickException(str(error)) from None
    ca, server, server_key, client, client_key = paths
    click.echo(f"server: duly serve --tls-cert {server} --tls-key {server_key} --tls-client-ca {ca} ...")
    click.echo(f"client: duly stream --tls-ca {ca} --tls-cert {client} --tls-key {client_key} ...")
