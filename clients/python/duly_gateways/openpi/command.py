"""`duly-openpi`: reads its settings, connects to duly's server, and serves until it is told to stop."""

import asyncio
import signal
from pathlib import Path
from typing import Any, get_args

import click

from duly.addresses import is_local
from duly.cli_connection import Connection, connection_options
from duly_client import Client
from duly_client.types import StreamClass
from duly_gateways import settings_file
from duly_gateways.first_look import look
from duly_gateways.needs import needing
from duly_gateways.openpi.mapping import read_mapping
from duly_gateways.openpi.settings import BUDGET_MS_MAX, Settings
from duly_gateways.settings_file import SettingsError

_KEY_BYTES_MAX = 4096


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--model", default="", help="The policy's name in duly's repository.")
@click.option("--listen", default="127.0.0.1:8000", show_default=True, help="HOST:PORT; port 0: any that is free.")
@click.option("--budget-ms", type=float, help="How long a request may take.  [default: the model's]")
@click.option("--config", type=click.Path(), help="TOML file: which key of an observation feeds which input, and more.")
@click.option("--api-key-file", type=click.Path(), help="File of the api_key that clients have to show.")
@connection_options
def main(
    model: str, listen: str, budget_ms: float | None, config: str | None, api_key_file: str | None, **to: Any
) -> None:
    """Serve a policy to clients of openpi, over WebSocket."""
    try:
        settings = _settings(model, budget_ms, config, api_key_file)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise click.UsageError(f"--listen: should be HOST:PORT, got {listen!r}")
    if not settings.api_key and not is_local(listen):
        raise click.UsageError(f"--listen: others can reach {host}; say with --api-key-file who may connect")
    try:
        asyncio.run(_run(Connection(**to).client(), settings, host.strip("[]"), int(port)))
    except OSError as error:
        raise click.ClickException(f"--listen: {error.strerror or error}") from None


def _settings(model: str, budget_ms: float | None, config: str | None, api_key_file: str | None) -> Settings:
    table = settings_file.read(config) if config else settings_file.Table("", {})
    api_key = ""
    if api_key_file:
        try:
            api_key = Path(api_key_file).read_text()[:_KEY_BYTES_MAX].strip()
        except (OSError, UnicodeError) as error:
            raise SettingsError(f"--api-key-file: {error}") from None
        if not api_key:
            raise SettingsError(f"--api-key-file: {api_key_file} is empty")
    named = table.take("model", str, "")
    stated_ms = table.number("budget_ms", 0.0, 0.0, BUDGET_MS_MAX)
    settings = Settings(
        model=model or named,
        observed=read_mapping(table),
        budget_ms=stated_ms if budget_ms is None else budget_ms,
        stream_class=table.word("class", "", ("", *get_args(StreamClass))),
        connections_max=table.whole("connections_max", 64, 1, 4096),
        message_bytes_max=table.whole("message_bytes_max", 16 << 20, 1024, 1 << 30),
        metadata=table.take("metadata", dict, {}),
        api_key=api_key,
    )
    table.finish()
    if not settings.model:
        raise SettingsError("--model: is missing; it is the policy's name in duly's repository")
    if not 0 <= settings.budget_ms <= BUDGET_MS_MAX:
        raise SettingsError(f"--budget-ms: should be up to {BUDGET_MS_MAX:g}, got {settings.budget_ms:g}")
    return settings


async def _run(client: Client, settings: Settings, host: str, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with needing("duly-openpi", "openpi"):
        from duly_gateways.openpi.server import Gateway
    async with client:
        gateway = Gateway(client, settings)
        gateway.told = lambda text: click.echo(text, err=True)
        server = await gateway.serve(host, port)
        name, bound = next(iter(server.sockets)).getsockname()[:2]
        click.echo(f"serving {settings.model} at ws://{f'[{name}]' if ':' in name else name}:{bound}")
        await look(client, [settings.model])
        await stop.wait()
        server.close()
        await server.wait_closed()


if __name__ == "__main__":
    main()
