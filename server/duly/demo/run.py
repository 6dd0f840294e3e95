"""`duly demo`: a camera and a microphone, each at the rate of its recording, on one machine."""

from rich.console import Console

from duly.demo.clips import load_clips
from duly.demo.sensors import Sensor, camera, microphone
from duly.demo.show import progress, stream_and_show
from duly.demo.summary import law, milliseconds, print_summary
from duly_client import Client, Status


async def run(console: Console, address: str, seconds: float) -> None:
    """Streams for so long to the server at `address`, and sums up.

    Raises:
        AssetError: a recording can't be had.
        DulyError: the server refused or broke a stream.
        LawBroken: what the server promises did not hold.
    """
    async with Client(address, reconnect=False) as client:
        with progress(console, "Reading the recordings"):
            clips = await load_clips(client)
        eye, ear = camera(clips, period_ns=clips.camera.period_ns), microphone(clips)
        console.print(
            f"Streaming for {seconds:g} s: a camera with {eye.rate_hz:g} pictures a second, each wanted within "
            f"{eye.budget_ms:g} ms of its capture, and a microphone with {ear.rate_hz:g} chunks of sound a second, "
            f"each wanted within {ear.budget_ms:g} ms.\n"
        )
        await stream_and_show(console, client, [eye, ear], seconds)
    print_summary(console, {"camera": _camera(eye), "microphone": _microphone(ear), "in all": law([eye, ear])})


def _camera(sensor: Sensor) -> str:
    tally = sensor.tally
    superseded = tally.by_status[Status.SUPERSEDED]
    sentences = [f"{tally.on_time:,} of {tally.sent:,} pictures were looked at in time."]
    if superseded and tally.run_mean_ns is not None:
        sentences.append(
            f"{superseded:,} were superseded: a picture comes every {milliseconds(sensor.period_ns)} and takes "
            f"{milliseconds(tally.run_mean_ns)} here, so a newer one takes the place of the one that still waits."
        )
    if tally.age_mean_ns is not None:
        sentences.append(f"What is known is {milliseconds(tally.age_mean_ns)} old on average.")
    if not tally.results:
        sentences.append("This machine is too slow for the model: none could be made in time, so none was run.")
    return " ".join((*sentences, _perceived(sensor)))


def _microphone(sensor: Sensor) -> str:
    return f"{sensor.tally.on_time:,} of {sensor.tally.sent:,} chunks were heard in time. {_perceived(sensor)}"


def _perceived(sensor: Sensor) -> str:
    return "" if sensor.perception is None else sensor.perception.told()
