"""`duly-egodriver`: reads its settings, connects to duly's server, and drives until it is told to stop."""

import asyncio
import signal
from typing import Any

import click

from duly.addresses import is_local
from duly.cli_connection import Connection, connection_options
from duly_client import Client
from duly_gateways import settings_file
from duly_gateways.egodriver.settings import Settings, read_settings
from duly_gateways.first_look import look
from duly_gateways.needs import needing
from duly_gateways.settings_file import SettingsError


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--model", default="", help="The policy's name in duly's repository.")
@click.option("--listen", default="127.0.0.1:50051", show_default=True, help="HOST:PORT; port 0: any that is free.")
@click.option("--mode", type=click.Choice(["carla", "alpasim"]), default="carla", show_default=True)
@click.option("--config", type=click.Path(), help="TOML file: what feeds which input, and more.")
@click.option("--open-to-all", is_flag=True, help="Listen where other machines can connect: the contract has no keys.")
@connection_options
def main(model: str, listen: str, mode: str, config: str | None, open_to_all: bool, **to: Any) -> None:
    """Serve a driving policy to simulators that speak the egodriver contract."""
    try:
        settings = read_settings(settings_file.read(config) if config else settings_file.Table("", {}), model)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise click.UsageError(f"--listen: should be HOST:PORT, got {listen!r}")
    if not open_to_all and not is_local(listen):
        raise click.UsageError(f"--listen: others can reach {host}, and nothing asks who they are; say --open-to-all")
    asyncio.run(_run(Connection(**to).client(), settings, host, int(port), mode))


async def _run(client: Client, settings: Settings, host: str, port: int, mode: str) -> None:
    with needing("duly-egodriver", "egodriver"):
        from carla_driver_interface.server import build_server

        from duly_gateways.egodriver.driver import DulyDriver
        from duly_gateways.egodriver.links import Links
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with client:
        links = Links(client, settings)
        threads = 2 * settings.sessions_max + 8  # a call waits in its thread, and none may wait for a thread
        try:
            server, bound = build_server(DulyDriver(links, settings), port, host, threads, mode)
        except RuntimeError as error:
            raise click.ClickException(f"--listen: {error}") from None
        server.start()
        click.echo(f"driving with {settings.model} at {host}:{bound}")
        await look(client, [settings.model])
        await stop.wait()
        await asyncio.to_thread(server.stop(1.0).wait)
        await links.end()


if __name__ == "__main__":
    main()
