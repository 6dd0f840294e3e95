"""`duly demo`: a camera and a microphone, each at the rate of its recording, on one machine."""

from rich.console import Console

from duly.demo.clips import load_clips
from duly.demo.sensors import Sensor, camera, microphone
from duly.demo.show import progress, stream_and_show
from duly.demo.summary import heard, law, milliseconds, perceived, print_summary
from duly_client import Client, Status


async def run(console: Console, address: str, seconds: float) -> float:
    """Streams for so many seconds to the server at `address`, and sums up.

    Returns for how many seconds it streamed, which are fewer after Ctrl-C.

    Raises:
        AssetError: a recording cannot be fetched.
        DulyError: the server refused or broke a stream.
        LawBroken: what the server promises did not hold.
    """
    async with Client(address, reconnect=False) as client:
        with progress(console, "Reading the recordings"):
            clips = await load_clips(client)
        planned_ns = clips.camera.terms.planned_latency_ns
        eye = camera(clips, period_ns=clips.camera.period_ns, planned_ns=planned_ns)
        ear = microphone(clips, planned_ns=planned_ns)
        console.print(
            f"Streaming for {seconds:g} s: a camera with {eye.rate_hz:g} pictures a second, each wanted within "
            f"{eye.budget_ms:g} ms of its capture, and a microphone with {ear.rate_hz:g} chunks of sound a second, "
            f"each wanted within {ear.budget_ms:g} ms.\n"
        )
        streamed_s = await stream_and_show(console, client, [eye, ear], seconds)
    print_summary(console, {"camera": _camera(eye), "microphone": heard(ear), "in all": law([eye, ear])})
    return streamed_s


def _camera(sensor: Sensor) -> str:
    tally = sensor.tally
    superseded = tally.by_status[Status.SUPERSEDED]
    sentences = [f"{tally.on_time:,} of {tally.sent:,} pictures were looked at in time."]
    if superseded:
        sentences.append(f"{superseded:,} were superseded: a newer one took the place of one that still waited.")
    if tally.run_mean_ns is not None and tally.run_mean_ns > sensor.period_ns:
        sentences.append(
            f"That is as it should be: a picture comes every {milliseconds(sensor.period_ns)} and takes "
            f"{milliseconds(tally.run_mean_ns)} here, and the newest is worth most."
        )
    if tally.age_mean_ns is not None:
        sentences.append(f"The newest result was {milliseconds(tally.age_mean_ns)} old on average.")
    dropped = tally.by_status[Status.EXPIRED] + tally.by_status[Status.SHED]
    if dropped:
        sentences.append(f"{dropped:,} could no longer be done in time, and were not run.")
    return " ".join((*sentences, perceived(sensor)))
