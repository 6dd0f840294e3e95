"""`duly models load`, `unload`, `activate` and `rollback`: which versions a running server serves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from duly.cli_connection import Connection, connection_options

if TYPE_CHECKING:
    from duly.v1 import model_pb2
    from duly_client import Client

_NAME = click.argument("name")
_FORCE = click.option("--force", is_flag=True, help="Even if what open streams were promised no longer holds with it.")


def _on(connection: Connection, call: "Callable[[Client], Awaitable[model_pb2.Model]]") -> None:
    """Makes a call, and prints the model as it is then."""
    from duly.v1 import model_pb2

    client = connection.client()

    async def run() -> model_pb2.Model:
        async with client:
            return await call(client)

    model = asyncio.run(run())
    for version in model.versions:
        key = f"{model.name}/{version.version}" if version.version else model.name
        state = model_pb2.ModelState.Name(version.state).removeprefix("MODEL_STATE_")
        active = "  active" if version.version and version.version == model.active_version else ""
        click.echo(f"{key}  {state}{active}{f'  {version.error}' if version.error else ''}")
    if not model.versions:
        click.echo(f"{model.name}  not loaded")


@click.command()
@_NAME
@click.argument("version", default="")
@connection_options
def load(name: str, version: str, **connection: Any) -> None:
    """Load a version of NAME, or the newest, beside those that serve. It becomes active only where none is."""
    _on(Connection(**connection), lambda client: client.load_model(name, version))


@click.command()
@_NAME
@click.argument("version", default="")
@connection_options
def unload(name: str, version: str, **connection: Any) -> None:
    """Stop serving a version of NAME, or all of them; frames that wait for it are answered FAILED."""

    async def call(client: "Client") -> "model_pb2.Model":
        from duly.v1 import model_pb2

        await client.unload_model(name, version)
        return next((model for model in await client.models() if model.name == name), model_pb2.Model(name=name))

    _on(Connection(**connection), call)


@click.command()
@_NAME
@click.argument("version")
@_FORCE
@connection_options
def activate(name: str, version: str, force: bool, **connection: Any) -> None:
    """Serve streams of NAME that state no version with this loaded one, from their next frame on."""
    _on(Connection(**connection), lambda client: client.activate_version(name, version, force=force))


@click.command()
@_NAME
@_FORCE
@connection_options
def rollback(name: str, force: bool, **connection: Any) -> None:
    """Go back to the version of NAME that was active before. It is loaded still, so this takes no time."""

    async def call(client: "Client") -> "model_pb2.Model":
        model = await client.model(name)
        if not model.previous_version:
            raise click.ClickException(
                f"no version of {name} was active before {model.active_version or 'now'} and is loaded still; "
                f"load one: duly models load {name} VERSION"
            )
        return await client.activate_version(name, model.previous_version, force=force)

    _on(Connection(**connection), call)


COMMANDS = (load, unload, activate, rollback)
