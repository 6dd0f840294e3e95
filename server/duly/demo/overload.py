"""`duly demo street --overload`: cameras that ask for three times what the machine can do, in all three classes."""

import itertools
import time
from collections import Counter

from rich.console import Console

from duly.demo.clips import Clip
from duly.demo.description import Files
from duly.demo.sensors import Sensor
from duly.demo.show import percent, progress, stream_and_show
from duly.demo.street import Clips, camera, load_clips, microphone
from duly.demo.summary import heard, law, print_summary
from duly_client import Client, Status
from duly_client.types import BacklogPolicy, StreamClass

CAMERAS: tuple[tuple[StreamClass, BacklogPolicy, float], ...] = (
    ("CRITICAL", "LATEST", 0.25),
    ("STANDARD", "LATEST", 0.45),
    ("STANDARD", "LATEST", 0.55),
    ("BEST_EFFORT", "ALL", 0.8),
    ("BEST_EFFORT", "ALL", 0.95),
)
"""Class and backlog policy of each camera, and the share of what the machine can do that it asks for. The shares sum up
to three. No two rates are equal: else the cameras' phases would decide for good which of them comes first."""

MEASURED_S = 3.0
MEASURED_IN_FLIGHT = 16
"""Pictures in flight while the capacity is measured: enough for the largest batches, so that no lane waits."""
MEASURED_BUDGET_MS = 60_000.0


async def run(files: Files, console: Console, address: str, seconds: float) -> float:
    """Measures what the machine can do, asks for three times as much for so many seconds, and sums up.

    Returns for how many seconds it streamed, which are fewer after Ctrl-C.

    Raises:
        DulyError: the server refused or broke a stream.
        LawBroken: what the server promises did not hold.
    """
    async with Client(address, reconnect=False) as client:
        with progress(console, "Reading the recordings"):
            clips = await load_clips(client, files)
        with progress(console, f"Measuring how many pictures a second this machine can do, {MEASURED_S:g} s"):
            capacity_hz = await measure_capacity(client, clips.camera)
        async with client.stream("yolo") as stream:
            planned_ns = stream.opened.planned_latency_ns  # the server learnt from the measurement
        cameras = _cameras(clips, capacity_hz, planned_ns)
        ear = microphone(clips, planned_ns=planned_ns)
        demand_hz = sum(sensor.rate_hz for sensor in cameras)
        console.print(
            f"This machine does {capacity_hz:.1f} pictures a second. For {seconds:g} s, {len(cameras)} cameras ask for "
            f"{demand_hz:.1f} a second, each wanted within {cameras[0].budget_ms:g} ms of its capture.\n"
        )
        sensors = [cameras[0], ear, *cameras[1:]]
        streamed_s = await stream_and_show(console, client, sensors, seconds)
    paragraphs = {
        "critical": _class(cameras, "CRITICAL"),
        "standard": _class(cameras, "STANDARD"),
        "best effort": _class(cameras, "BEST_EFFORT"),
        "microphone": heard(ear),
        "machine": _machine(cameras, capacity_hz, streamed_s),
        "in all": law(sensors),
    }
    print_summary(console, paragraphs)
    return streamed_s


async def measure_capacity(client: Client, clip: Clip) -> float:
    """Measures how many pictures a second the lanes do while there is always one more to run."""
    async with client.stream("yolo", budget_ms=MEASURED_BUDGET_MS, backlog="ALL", name="capacity") as stream:
        pictures = itertools.cycle(clip.payloads)
        for picture in itertools.islice(pictures, MEASURED_IN_FLIGHT):
            await stream.send(picture, encoding=clip.encoding)
        await anext(stream)
        started_s = now_s = time.monotonic()
        results = 0
        while now_s - started_s < MEASURED_S:
            await stream.send(next(pictures), encoding=clip.encoding)
            await anext(stream)
            results += 1
            now_s = time.monotonic()
        return results / (now_s - started_s)


def _cameras(clips: Clips, capacity_hz: float, planned_ns: int) -> list[Sensor]:
    sensors = []
    for index, (stream_class, backlog, share) in enumerate(CAMERAS):
        period_ns = round(1e9 / (share * capacity_hz))
        sensor = camera(
            clips,
            f"camera {index + 1}",
            planned_ns=planned_ns,
            period_ns=period_ns,
            phase_ns=period_ns * index // len(CAMERAS),  # so that the cameras do not all send at the same time
            stream_class=stream_class,
            backlog=backlog,
            watched=index == 0,
        )
        sensors.append(sensor)
    return sensors


def _class(cameras: list[Sensor], stream_class: StreamClass) -> str:
    tallies = [sensor.tally for sensor in cameras if sensor.stream_class == stream_class]
    sent, on_time = sum(tally.sent for tally in tallies), sum(tally.on_time for tally in tallies)
    counts: Counter[Status] = sum((tally.by_status for tally in tallies), Counter())
    others = [f"{count:,} {status.name}" for status, count in sorted(counts.items()) if status is not Status.ON_TIME]
    ratio = f"{percent(on_time / sent)} % " if sent else ""
    return f"{ratio}on time: {on_time:,} of {sent:,} pictures{''.join(f', {other}' for other in others)}."


def _machine(cameras: list[Sensor], capacity_hz: float, seconds: float) -> str:
    asked_hz = sum(sensor.tally.sent for sensor in cameras) / seconds
    done_hz = sum(sensor.tally.on_time for sensor in cameras) / seconds
    return (
        f"It was asked for {asked_hz:.1f} pictures a second, {asked_hz / capacity_hz:.1f} times the {capacity_hz:.1f} "
        f"that it can do; {done_hz:.1f} a second were done in time, {done_hz / capacity_hz:.0%} of what it can do."
    )
