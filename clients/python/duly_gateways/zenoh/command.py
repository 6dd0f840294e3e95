"""`duly-zenoh`: reads its settings, opens a session of Zenoh, and bridges until it is told to stop."""

import asyncio
import signal
from typing import Any

import click

from duly.cli_connection import Connection, connection_options
from duly_client import Client
from duly_gateways import settings_file
from duly_gateways.first_look import look
from duly_gateways.needs import needing
from duly_gateways.settings_file import SettingsError
from duly_gateways.zenoh.settings import Settings, read_settings


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.argument("config", type=click.Path())
@connection_options
def main(config: str, **to: Any) -> None:
    """Bridge key expressions of Zenoh to models, as the TOML file CONFIG says."""
    try:
        settings = read_settings(settings_file.read(config))
        asyncio.run(_run(Connection(**to).client(), settings))
    except SettingsError as error:
        raise click.UsageError(str(error)) from None


async def _run(client: Client, settings: Settings) -> None:
    with needing("duly-zenoh", "zenoh"):
        from duly_gateways.zenoh.bridge import Bridging
        from duly_gateways.zenoh.session import Session
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with client:
        session = Session(settings)
        try:
            bridgings = [Bridging(bridge, client, session.publish) for bridge in settings.bridges]
            session.begin(bridgings)
            for bridge in settings.bridges:
                click.echo(f"bridging {bridge.subscribe} to {bridge.model}, outcomes at {bridge.publish}")
            await look(client, [bridge.model for bridge in settings.bridges])
            await stop.wait()
            for bridging in bridgings:
                await bridging.close()
        finally:
            session.close()


if __name__ == "__main__":
    main()
