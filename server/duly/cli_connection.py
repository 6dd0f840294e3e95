"""How the commands that are clients reach their server: the options, and the client that follows from them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from duly_client import BlockingClient, Client

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Client = TypeVar("_Client")

_OPTIONS = (
    click.option("--server", default="127.0.0.1:8500", show_default=True, help="HOST:PORT or unix:PATH."),
    click.option("--tls", is_flag=True, help="Speak TLS, by the CAs that the system trusts."),
    click.option("--tls-ca", type=click.Path(), help="PEM file of the server's CA; speaks TLS, as the next two do."),
    click.option(
        "--tls-cert", type=click.Path(), help="PEM file of the client's certificate, where the server asks for one."
    ),
    click.option("--tls-key", type=click.Path(), help="PEM file of its private key."),
    click.option("--token-file", type=click.Path(), help="File of the bearer token to show."),
)


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the server is, and what to show it."""

    server: str
    tls: bool
    tls_ca: str | None
    tls_cert: str | None
    tls_key: str | None
    token_file: str | None

    def client(self) -> "Client":
        """Returns a client that is not entered yet. Raises click.UsageError where an option cannot be right."""
        from duly_client import Client  # it imports gRPC, which commands that look at a folder do not need

        return self._made(Client)

    def blocking_client(self) -> "BlockingClient":
        """Does the same for a client without asyncio."""
        from duly_client import BlockingClient

        return self._made(BlockingClient)

    def _made(self, kind: Callable[..., _Client]) -> _Client:
        from duly_client import Tls

        try:
            speaks_tls = self.tls or self.tls_ca or self.tls_cert or self.tls_key
            tls = Tls(self.tls_ca, self.tls_cert, self.tls_key) if speaks_tls else None
            return kind(self.server, tls=tls, token_file=self.token_file)
        except ValueError as error:
            text = str(error).replace("use tls, or say token_in_clear_text=True", "use --tls or --tls-ca")
            raise click.UsageError(f"--server: {text}" if text.startswith("target") else text) from error


def connection_options(command: _Command) -> _Command:
    """Adds the options to a command, which gets them by their names."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
