"""Runs a demo against a server: reads its recordings, streams them, and sums up."""

from collections.abc import Sequence

from rich.console import Console

from duly.demo.description import Demo, Files
from duly.demo.serving import Event
from duly.demo.show import progress, stream_and_show
from duly.demo.summary import law, print_summary
from duly_client import Client


async def run(
    demo: Demo, files: Files, events: Sequence[Event], console: Console, address: str, seconds: float
) -> float:
    """Streams for so many seconds to the server at `address`, and sums up. `events`: what its log has told so far.

    Returns for how many seconds it streamed, which are fewer after Ctrl-C.

    Raises:
        DulyError: the server refused or broke a stream.
        LawBroken: what the server promises did not hold.
    """
    async with Client(address, reconnect=False) as client:
        with progress(console, "Reading the recordings"):
            sensors = await demo.sensors(client, files)
        console.print(f"{demo.words(sensors, seconds)}\n")
        streamed_s = await stream_and_show(console, client, sensors, seconds)
    learnt = demo.learnt(sensors, events) if demo.learnt is not None else {}
    print_summary(console, {**demo.summary(sensors), **learnt, "in all": law(sensors)})
    return streamed_s
