"""`duly demo`: real models, real recordings, a real server, on one machine.

The demo fetches the models and recordings once, starts `duly serve` on loopback, streams to it as sensors would, and
says in plain words how the frames ended.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import click
from rich.console import Console

from duly.demo import overload as overload_demo
from duly.demo import run as sensors_demo
from duly.demo.assets import fetch
from duly.demo.clips import CLIP_ASSETS
from duly.demo.prepare import MODEL_ASSETS, prepare_models
from duly.demo.serving import serving
from duly.demo.show import progress


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(1, 3600), default=20.0, show_default=True, help="How long the sensors stream."
)
@click.option("--overload", is_flag=True, help="Ask for three times what this machine can do, in all three classes.")
def demo(seconds: float, overload: bool) -> None:
    """Watch duly work: a camera and a microphone, object detection and voice activity, on this machine.

    The first time it downloads 55 MB of models and recordings. Models run on the GPU where there is one that the
    installed packages can use.
    """
    console = Console(highlight=False)
    fetch((*MODEL_ASSETS, *CLIP_ASSETS))  # shows a progress bar of its own
    with progress(console, "Preparing the models"):
        models = prepare_models()
    ended_by: list[int] = []
    try:
        run = overload_demo.run if overload else sensors_demo.run
        streamed_s = asyncio.run(_run(console, models, run, seconds, ended_by))
    except asyncio.CancelledError:
        sys.exit(128 + ended_by[0])  # as a shell reports an end by a signal
    if streamed_s < seconds:
        sys.exit(128 + signal.SIGINT)


async def _run(
    console: Console,
    models: Path,
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

            address = await stack.enter_async_context(serving(models, on_loading))
        console.print(f"The server is ready after {time.monotonic() - started_s:.0f} s, on {address}.")
        return await stream(console, address, seconds)
