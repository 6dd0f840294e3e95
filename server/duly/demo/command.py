"""`duly demo`: real models, real recordings, a real server, on one machine.

A demo fetches its models and recordings once, trains what is to be trained, starts `duly serve` on loopback, streams to
it as sensors would, and says in plain words how the frames ended.
"""

import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from duly.demo import overload as overload_demo
from duly.demo.assets import fetch
from duly.demo.catalogue import DEMOS, demo_named
from duly.demo.description import Demo
from duly.demo.prepare import prepare_models
from duly.demo.run import run
from duly.demo.serving import Event, serving
from duly.demo.show import progress

EVENTS_MAX = 1000
"""Number of newest lines of the server's log that are kept for the summary."""


@click.command()
@click.argument("name", type=click.Choice(list(DEMOS)), default="street")
@click.option("--list", "listing", is_flag=True, help="Say what demos there are.")
@click.option(
    "--seconds", type=click.FloatRange(1, 3600), default=20.0, show_default=True, help="How long the sensors stream."
)
@click.option(
    "--overload", is_flag=True, help="street: ask for three times what this machine can do, in all three classes."
)
def demo(name: str, listing: bool, seconds: float, overload: bool) -> None:
    """Watch duly work on this machine, in one of the fields that it is made for.

    The first time a demo downloads its models and recordings, at most 55 MB, and trains what is to be trained. Models
    run on the GPU where there is one that the installed packages can use.
    """
    console = Console(highlight=False)
    if listing:
        _list(console)
        return
    if overload and name != "street":
        raise click.UsageError(f"--overload is of the demo street, not of {name}")
    chosen = demo_named(name)
    files = fetch(chosen.assets)  # shows a progress bar of its own
    with progress(console, "Preparing the models"):
        try:
            models = prepare_models(chosen)
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"the demo {name} trains its models with {error.name}, which is not installed: "
                "pip install 'duly[cpu,demo,learn]'"
            ) from error
    ended_by: list[int] = []
    try:
        with _learning(chosen, models) as (models, options):
            events: deque[Event] = deque(maxlen=EVENTS_MAX)
            stream = partial(overload_demo.run, files) if overload else partial(run, chosen, files, events)
            served = partial(serving, models, options=options, on_event=events.append)
            streamed_s = asyncio.run(_run(console, served, stream, seconds, ended_by))
    except asyncio.CancelledError:
        sys.exit(128 + ended_by[0])  # as a shell reports an end by a signal
    if streamed_s < seconds:
        sys.exit(128 + signal.SIGINT)


def _list(console: Console) -> None:
    listed = Table.grid(padding=(0, 2, 0, 0))
    for name, what in DEMOS.items():
        listed.add_row(Text(name, "bold"), what)
    console.print(listed)


@contextmanager
def _learning(chosen: Demo, models: Path) -> Iterator[tuple[Path, list[str]]]:
    """Gives the repository to serve, and the options of the server. Where it learns, both are for this run alone."""
    if chosen.learnt is None:
        yield models, []
        return
    with tempfile.TemporaryDirectory(prefix="duly-demo-", ignore_cleanup_errors=True) as folder:
        copy, store = Path(folder, "models"), Path(folder, "learn")
        shutil.copytree(models, copy)
        store.mkdir(mode=0o700)
        yield copy, [f"--learn={store}", "--learn-frames-per-s-max=1000", "--watch=activate", "--watch-settle-s=0.2"]


async def _run(
    console: Console,
    served: Callable[[Callable[[str], None]], AbstractAsyncContextManager[str]],
    stream: Callable[[Console, str, float], Awaitable[float]],
    seconds: float,
    ended_by: list[int],
) -> float:
    """Starts the server, streams, and stops the server. Returns for how many seconds it streamed.

    SIGTERM and SIGHUP are put into `ended_by` and cancel the task; asyncio handles Ctrl-C, but for that which ends the
    streams early.
    """
    task = asyncio.current_task()
    assert task is not None

    def end(signum: int) -> None:
        ended_by.append(signum)
        task.cancel()

    for signum in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(signum, end, signum)
    started_s = time.monotonic()
    async with AsyncExitStack() as stack:
        with progress(console, "Starting the server") as show:

            def on_loading(model: str) -> None:
                show(f"The server loads {model}, warms it up and measures how long it takes")

            address = await stack.enter_async_context(served(on_loading))
        console.print(f"The server is ready after {time.monotonic() - started_s:.0f} s, on {address}.")
        return await stream(console, address, seconds)
