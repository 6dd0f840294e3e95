"""What a gateway says when it starts of the server and the models behind it."""

import asyncio
from collections.abc import Iterable

import click

from duly_client import Client, DulyError, NotAllowed

ANSWER_S_MAX = 3.0
"""A server that has not answered by then counts as one that is not there yet."""


async def look(client: Client, models: Iterable[str]) -> None:
    """Says on standard error which of the models are not there, and why. It ends nothing: they may come later, and the
    gateway's clients are told as long as they are not there.
    """
    for name in dict.fromkeys(models):
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                await client.model(name)
        except NotAllowed:
            pass  # who may stream need not be allowed to look
        except DulyError as error:
            click.echo(f"model {name} cannot be asked for yet: {error}", err=True)
        except TimeoutError:
            click.echo(f"model {name} cannot be asked for yet: the server does not answer", err=True)
