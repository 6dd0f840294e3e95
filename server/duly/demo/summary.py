"""The texts with which both demos end."""

from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from duly.demo.sensors import Sensor
from duly_client import Status


class LawBroken(Exception):
    """A frame did not get exactly one outcome, or got one that it should not get."""


def law(sensors: list[Sensor]) -> str:
    """Says in sentences how all frames ended.

    Raises:
        LawBroken: a frame has no outcome, or failed.
    """
    for sensor in sensors:
        tally = sensor.tally
        if tally.answered != tally.sent:
            raise LawBroken(f"{sensor.name}: {tally.sent:,} frames were sent, but {tally.answered:,} outcomes came")
        if tally.fault:
            raise LawBroken(f"{sensor.name}: a frame ended as {tally.fault}")
    counts: Counter[Status] = sum((sensor.tally.by_status for sensor in sensors), Counter())
    outcomes = ", ".join(f"{count:,} {status.name}" for status, count in sorted(counts.items()))
    sentences = [f"Each of the {counts.total():,} frames sent got exactly one outcome: {outcomes}."]
    dropped = counts.total() - counts[Status.ON_TIME] - counts[Status.LATE]
    early = sum(sensor.tally.refused_early for sensor in sensors)
    if dropped:
        how_many = "all" if early == dropped else f"{early:,}"
        sentences.append(f"Of the {dropped:,} that were not run, {how_many} got their outcome before their deadline.")
    return " ".join(sentences)


def heard(microphone: Sensor) -> str:
    """Says how many chunks of sound were heard in time, and what was in them."""
    tally = microphone.tally
    return f"{tally.on_time:,} of {tally.sent:,} chunks were heard in time. {perceived(microphone)}"


def perceived(sensor: Sensor) -> str:
    """Says what the sensor perceived in all; empty: nothing."""
    return "" if sensor.perception is None else sensor.perception.summary()


def milliseconds(duration_ns: float) -> str:
    """The duration for people, such as `53 ms` or `0.12 ms`."""
    return f"{duration_ns / 1e6:.0f} ms" if duration_ns >= 9_950_000 else f"{duration_ns / 1e6:.2g} ms"


def print_summary(console: Console, paragraphs: dict[str, str]) -> None:
    """Prints each paragraph beside its heading."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for heading, text in paragraphs.items():
        grid.add_row(Text(heading, "bold"), Text(text.strip()))
    console.print()
    console.print(grid)
