"""What the demo shows while it streams: a table of the streams and what they perceive, drawn four times a second.

Where there is no terminal to draw on, it prints a line every few seconds instead.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from duly.demo.sensors import Sensor, run_sensors
from duly_client import Client, Status

DRAW_PERIOD_S = 0.25
LINE_PERIOD_S = 5.0

WIDE_COLUMNS = 100
"""Width of the terminal in characters from which on words are written out and columns stand apart."""
NARROW_COLUMNS = 76
"""Width of the terminal below which the table leaves out what can be done without: ages, models and batches."""

_CLASSES = {"CRITICAL": ("crit", "critical"), "STANDARD": ("std", "standard"), "BEST_EFFORT": ("best", "best effort")}
"""Names of the classes in a narrow table and in a wide one."""


@contextmanager
def progress(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """Shows `text` while the block runs, and gives a function that changes the text."""
    if _drawable(console):
        with console.status(text) as status:
            yield status.update
    else:
        console.print(text)
        yield console.print


def _drawable(console: Console) -> bool:
    return console.is_interactive and console.file.isatty()


async def stream_and_show(console: Console, client: Client, sensors: list[Sensor], seconds: float) -> float:
    """Has the sensors stream for so many seconds, shows how it goes, and at the end how it went.

    The first Ctrl-C ends the streams early, and what they sent until then is answered. Returns for how many seconds
    they streamed.

    Raises:
        DulyError: the server refused or broke a stream.
    """
    screen = _Screen(console, sensors, seconds)
    showing = asyncio.create_task(screen.show())
    try:
        with _ctrl_c() as stop:
            await run_sensors(client, sensors, seconds, screen.begin, stop)
    finally:
        showing.cancel()
        await asyncio.wait((showing,))
    console.print(table(sensors, 0, console.width))
    return max(screen.elapsed_s(time.monotonic_ns()), DRAW_PERIOD_S) if stop.is_set() else seconds


@contextmanager
def _ctrl_c() -> Iterator[asyncio.Event]:
    """Gives an event that the first Ctrl-C sets while the block runs. A second one does what it did before."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT)

    def pressed(signum: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        loop.call_soon_threadsafe(stop.set)

    signal.signal(signal.SIGINT, pressed)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


class _Screen:
    """Shows the progress of the sensors, on a terminal or in lines."""

    def __init__(self, console: Console, sensors: list[Sensor], seconds: float) -> None:
        self._console = console
        self._sensors = sensors
        self._seconds = seconds
        self._start_ns = 0

    def begin(self, start_ns: int) -> None:
        """Sets when streaming starts, by the monotonic clock, in nanoseconds."""
        self._start_ns = start_ns

    async def show(self) -> None:
        """Shows how it goes until it is cancelled."""
        if _drawable(self._console):
            with Live(console=self._console, auto_refresh=False, transient=True) as live:
                while True:
                    live.update(self._picture(time.monotonic_ns()), refresh=True)
                    await asyncio.sleep(DRAW_PERIOD_S)
        while True:
            await asyncio.sleep(LINE_PERIOD_S)
            self._console.print(self._line(time.monotonic_ns()), soft_wrap=True)

    def elapsed_s(self, now_ns: int) -> float:
        """Returns for how many seconds the sensors have streamed at `now_ns`, by the monotonic clock."""
        elapsed_s = (now_ns - self._start_ns) / 1e9 if self._start_ns else 0.0
        return min(max(elapsed_s, 0.0), self._seconds)

    def _picture(self, now_ns: int) -> RenderableType:
        now = Table.grid(padding=(0, 1))
        for sensor in self._sensors:
            if sensor.perception is not None:
                now.add_row(Text(sensor.name, "bold"), Text(sensor.perception.now() or "…"))
        head = Text(f"{self.elapsed_s(now_ns):.0f} of {self._seconds:g} s", "dim")
        return Group(head, "", table(self._sensors, now_ns, self._console.width), "", now)

    def _line(self, now_ns: int) -> str:
        streams = []
        for sensor in self._sensors:
            tally = sensor.tally
            outcomes = [f"{sensor.name} {tally.by_status[Status.ON_TIME]} of {tally.sent} on time"]
            for status, count in sorted(tally.by_status.items()):
                if status is not Status.ON_TIME:
                    outcomes.append(f"{count} {status.name.lower()}")
            streams.append(", ".join(outcomes))
        now = [f"{s.name}: {s.perception.now()}" for s in self._sensors if s.perception and s.perception.now()]
        return f"{self.elapsed_s(now_ns):3.0f} s  {'; '.join(streams)}. Now {'; '.join(now) or 'nothing yet'}."


def table(sensors: list[Sensor], now_ns: int, width: int) -> Table:
    """Makes a table with a row for each stream. Its ages are those at `now_ns`, monotonic; 0: the means of the run."""
    wide, narrow = width >= WIDE_COLUMNS, width < NARROW_COLUMNS
    drawn = Table(box=None, padding=(0, 2 if wide else 1, 0, 0), pad_edge=False, header_style="dim")
    drawn.add_column("stream", vertical="bottom", no_wrap=True)
    drawn.add_column("class", vertical="bottom", no_wrap=True)
    for heading in ("sent", "on\ntime", "%", "late", "super-\nseded", "ex-\npired", "shed"):
        drawn.add_column(heading, justify="right", vertical="bottom", no_wrap=True)
    for heading in ("p50\nms", "p99\nms"):
        drawn.add_column(heading, justify="right", vertical="bottom", no_wrap=True)
    if not narrow:
        drawn.add_column("age\nms" if now_ns else "mean\nage", justify="right", vertical="bottom", no_wrap=True)
        drawn.add_column("model", vertical="bottom", no_wrap=True)
        drawn.add_column("batch", justify="right", vertical="bottom", no_wrap=True)
    for sensor in sensors:
        tally = sensor.tally
        count = tally.by_status
        ratio = tally.on_time_ratio
        less_needed = (
            _ms(tally.age_ns(now_ns) if now_ns else tally.age_mean_ns),
            f"{sensor.model}/{tally.version}" if tally.version else sensor.model,
            str(tally.batch_size) if tally.version else "",
        )
        drawn.add_row(
            sensor.name,
            Text(_CLASSES[sensor.stream_class][wide], "bold" if sensor.stream_class == "CRITICAL" else "dim"),
            str(tally.sent),
            Text(str(count[Status.ON_TIME]), "green"),
            Text("" if ratio is None else percent(ratio), "" if ratio is None else _colour(ratio)),
            _count(count[Status.LATE], "yellow"),
            _count(count[Status.SUPERSEDED], "cyan"),
            _count(count[Status.EXPIRED], "red"),
            _count(count[Status.SHED], "magenta"),
            _ms(tally.latency_ns(50)),
            _ms(tally.latency_ns(99)),
            *(() if narrow else less_needed),
        )
    return drawn


def percent(ratio: float) -> str:
    """The ratio in whole percent. It is 100 only where the ratio is 1, and 0 only where the ratio is 0."""
    if 0 < ratio < 0.01:
        return "<1"
    return f"{min(99, round(ratio * 100)) if ratio < 1 else 100}"


def _colour(ratio: float) -> str:
    return "bold green" if ratio >= 0.99 else "yellow" if ratio >= 0.5 else "red"


def _count(number: int, style: str) -> Text:
    return Text(str(number), style if number else "dim")


def _ms(duration_ns: float | None) -> str:
    if duration_ns is None:
        return ""
    return f"{duration_ns / 1e6:.0f}" if duration_ns >= 9_950_000 else f"{duration_ns / 1e6:.1f}"
