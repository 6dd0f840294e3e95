"""`duly stream`: sends a recording to a server at its real rate and prints each outcome in plain words or as JSON.

Frames are due by a schedule that is fixed when the first one leaves, and they count as captured when they are due. A
frame that leaves late is as old as it is, so a slow sender cannot make the server look quick.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from duly.cli_connection import Connection, connection_options
from duly.cli_numbers import Number
from duly.cli_outcomes import OutcomePrinter, Unusable
from duly_client import Client, Stream, StreamRefused, StreamTerms
from duly_client.recordings import Frame, Recording, RecordingError, open_recording
from duly_client.types import BacklogPolicy, StreamClass
from duly_client.wall_clock import WallClock

if TYPE_CHECKING:
    from duly_logs.live import LiveLog

CAMERA_GONE_S_MAX = 60.0
"""With --repeat, a camera that was lost is opened again for this long."""
CAMERA_PAUSE_S = 1.0
"""Pause between two tries to open it."""
READ_AHEAD = 2
"""Number of frames that are read from the recording before they are due."""


@click.command()
@click.argument("model")
@click.option(
    "--input",
    "path",
    required=True,
    help="Picture, folder of pictures, video, WAV, .npy, lines of text (.txt), rtsp://, /dev/video0, or -: stdin.",
)
@connection_options
@click.option("--version", default="", help="Version of the model.  [default: the active one]")
@click.option(
    "--budget-ms",
    type=Number(1e-6, 86_400_000),
    help="How long after its capture a result is worth having.  [default: the model's]",
)
@click.option(
    "--class",
    "stream_class",
    type=click.Choice(get_args(StreamClass)),
    help="Criticality.  [default: the model's]",
)
@click.option(
    "--backlog",
    type=click.Choice(get_args(BacklogPolicy)),
    help="What waits while the model is busy.  [default: the model's]",
)
@click.option("--backlog-frames", type=click.IntRange(0, 65_536), default=0, help="How many wait, with KEEP_LAST.")
@click.option("--rate", "rate_hz", type=Number(1e-4, 1e6), help="Frames a second.  [default: the recording's]")
@click.option("--repeat", is_flag=True, help="Begin again when the recording ends.")
@click.option("--seconds", "seconds_max", type=Number(0, 1e9, min_open=True), help="Stop after this many seconds.")
@click.option("--follow-advice", is_flag=True, help="Send frames no faster than the server advises.")
@click.option("--strict", is_flag=True, help="End with status 1 at what cannot be used, rather than pass over it.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="MCAP to write frames and outcomes to.")
@click.option("--json", "as_json", is_flag=True, help="Print each outcome as a JSON object on a line.")
def stream(
    model: str,
    path: str,
    server: str,
    rate_hz: float | None,
    repeat: bool,
    seconds_max: float | None,
    strict: bool,
    record: Path | None,
    as_json: bool,
    tls: bool,
    tls_ca: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    token_file: str | None,
    **terms: Any,
) -> None:
    """Stream a recording to MODEL at its real rate and print the outcome of every frame. Ctrl-C ends it.

    A picture, file or piece that cannot be used is told on standard error and passed over. The exit status is 1 where
    nothing was served.
    """
    if terms["stream_class"] == "CRITICAL" and rate_hz is None:
        raise click.UsageError("--class CRITICAL needs --rate: what a CRITICAL stream is promised is its rate")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what it and FFmpeg find wrong with a file is told below
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    client = Connection(server, tls, tls_ca, tls_cert, tls_key, token_file).client()
    try:
        asyncio.run(
            _run(model, path, server, client, rate_hz, repeat, seconds_max, Unusable(strict), record, as_json, terms)
        )
    except StreamRefused as error:
        period_ns = int(error.metadata.get("period_nano", 0))
        if period_ns:  # rounded so that it is no shorter
            raise click.ClickException(f"{error}, which is --rate {0.995e9 / period_ns:.3g}") from error
        raise


async def _run(
    model: str,
    path: str,
    server: str,
    client_of_server: Client,
    rate_hz: float | None,
    repeat: bool,
    seconds_max: float | None,
    unusable: "Unusable",
    record: Path | None,
    as_json: bool,
    terms: dict[str, Any],
) -> None:
    period_ms = 1000 / rate_hz if rate_hz else None
    async with client_of_server as client, client.stream(model, period_ms=period_ms, **terms) as opened:
        recording = open_recording(path, opened.opened)
        if repeat and not recording.repeatable:
            raise RecordingError("--repeat: stdin comes only once")
        period_s = 1 / rate_hz if rate_hz else recording.period_s
        printer = OutcomePrinter(opened.opened, as_json, unusable)
        printer.begin(model, server, recording, period_s)
        log = None if record is None else _live_log(record, model, recording, opened.opened)
        sending = asyncio.create_task(_send(opened, recording, period_s, repeat, seconds_max, unusable, log))
        loop = asyncio.get_running_loop()
        interrupted = False

        def stop() -> None:
            nonlocal interrupted
            interrupted = True
            sending.cancel()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)  # a second signal ends the process at once

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        try:
            async for outcome in opened:
                if log is not None:
                    log.outcome(outcome)
                printer.outcome(outcome, opened.key_of(outcome.frame_id))
        except BaseException:
            sending.cancel()
            raise
        finally:
            await asyncio.wait((sending,))
            if log is not None:
                log.close()
        try:
            if not sending.cancelled():
                sending.result()
        except (TypeError, ValueError) as error:  # the recording is damaged, or not what the model takes
            raise click.ClickException(str(error)) from error
        printer.end()
        if not interrupted and not printer.served:
            raise click.ClickException(printer.nothing_served(recording))


async def _send(
    opened: Stream,
    recording: Recording,
    period_s: float,
    repeat: bool,
    seconds_max: float | None,
    unusable: "Unusable",
    log: "LiveLog | None",
) -> None:
    """Sends until the recording or the time is over or the task is cancelled, then finishes the stream."""
    loop = asyncio.get_running_loop()
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds_max), aclosing(_read_ahead(recording, repeat, unusable)) as frames:
                start_s, start_ns, sent = 0.0, 0, 0
                wall = WallClock()
                async for frame in frames:
                    if not sent:
                        start_s, start_ns = loop.time(), wall.now_ns() - wall.moved_ns
                    captured_ns = None
                    if period_s:
                        await asyncio.sleep(start_s + sent * period_s - loop.time())
                        wall.now_ns()  # sees whether it was set meanwhile
                        captured_ns = start_ns + wall.moved_ns + round(sent * period_s * 1e9)
                    sent += 1
                    try:
                        number = await opened.send(
                            frame.value, capture_time_ns=captured_ns, encoding=recording.encoding
                        )
                    except (TypeError, ValueError) as error:  # it is not what the model takes
                        unusable.pass_over(RecordingError(f"{frame.name}: {error}" if frame.name else str(error)))
                    else:
                        unusable.names[number] = frame.name
                        if log is not None:
                            log.sent(number, captured_ns, frame.value, recording.encoding)
    finally:
        await opened.finish()


def _live_log(path: Path, model: str, recording: Recording, terms: StreamTerms) -> "LiveLog":
    try:
        from duly_logs.live import LiveLog
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("duly"):
            raise
        raise click.ClickException(
            f"--record needs the module {error.name}, which is not installed: pip install 'duly[logs]'"
        ) from error
    about = {
        "source": recording.description,
        "budget_ms": f"{terms.default_budget_ns / 1e6:g}",
        "class": terms.stream_class,
        "backlog": terms.backlog,
    }
    return LiveLog(path, model, terms, about)


async def _read_ahead(recording: Recording, repeat: bool, unusable: "Unusable") -> AsyncGenerator[Frame, None]:
    """Gives the recording's frames. A thread reads them: decoding and waiting for stdin must not delay the outcomes."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Frame | Exception | None] = asyncio.Queue()
    room = threading.Semaphore(READ_AHEAD)
    over = False

    def frames() -> Iterator[Frame]:
        seen_s: float | None = None
        while not over:
            given = False
            try:
                for frame in recording.frames(unusable.pass_over):
                    given, seen_s = True, time.monotonic()
                    yield frame
            except RecordingError as error:
                gone = seen_s is None or time.monotonic() - seen_s > CAMERA_GONE_S_MAX
                if not repeat or recording.period_s or gone:
                    raise
                unusable.pass_over(error)
                time.sleep(CAMERA_PAUSE_S)
                continue
            if not repeat or not given:
                return

    def read() -> None:
        end: Exception | None = None
        try:
            for frame in frames():
                room.acquire()
                if over:
                    return
                loop.call_soon_threadsafe(queue.put_nowait, frame)
        except Exception as error:  # whatever it is, the reader of the queue has to raise it
            end = error
        with suppress(RuntimeError):  # the loop is closed: nobody reads the queue any more
            loop.call_soon_threadsafe(queue.put_nowait, end)

    # The thread is a daemon because nothing interrupts one that waits for stdin.
    threading.Thread(target=read, name="recording", daemon=True).start()
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
            room.release()
    finally:
        over = True
        room.release()
