"""`duly stream`: sends a recording to a server at its real rate and prints each outcome in plain words or as JSON.

Frames are due by a schedule that is fixed when the first one leaves, and they count as captured when they are due. A
frame that leaves late is as old as it is, so a slow sender cannot make the server look quick.
"""

import asyncio
import json
import math
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from typing import Any, get_args

import click
import numpy as np

from duly.cli_connection import Connection, connection_options
from duly.cli_numbers import Number
from duly_client import Client, Outcome, Status, Stream, StreamTerms
from duly_client.convert import Array
from duly_client.recordings import Frame, Recording, RecordingError, open_recording
from duly_client.types import BacklogPolicy, StreamClass
from duly_client.wall_clock import WallClock

READ_AHEAD = 2
"""Number of frames that are read from the recording before they are due."""
OUTPUT_ELEMENTS_MAX = 1024
"""Larger outputs are shown by their shape alone."""
LATENCIES_MAX = 100_000
"""Number of newest results whose latency the summary counts."""
DETECTIONS_MAX = 8
"""Number of detections that a line in plain words shows."""

TOLD_MAX = 20
"""Number of pieces of a recording that cannot be used and are told one by one. Further ones are counted."""


@click.command()
@click.argument("model")
@click.option("--input", "path", required=True, help="Picture, folder of pictures, video, WAV, .npy, or - for stdin.")
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
@click.option("--json", "as_json", is_flag=True, help="Print each outcome as a JSON object on a line.")
def stream(
    model: str,
    path: str,
    server: str,
    rate_hz: float | None,
    repeat: bool,
    seconds_max: float | None,
    strict: bool,
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
    asyncio.run(_run(model, path, server, client, rate_hz, repeat, seconds_max, Unusable(strict), as_json, terms))


async def _run(
    model: str,
    path: str,
    server: str,
    client_of_server: Client,
    rate_hz: float | None,
    repeat: bool,
    seconds_max: float | None,
    unusable: "Unusable",
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
        sending = asyncio.create_task(_send(opened, recording, period_s, repeat, seconds_max, unusable))
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
                printer.outcome(outcome)
        except BaseException:
            sending.cancel()
            raise
        finally:
            await asyncio.wait((sending,))
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
    finally:
        await opened.finish()


async def _read_ahead(recording: Recording, repeat: bool, unusable: "Unusable") -> AsyncGenerator[Frame, None]:
    """Gives the recording's frames. A thread reads them: decoding and waiting for stdin must not delay the outcomes."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Frame | Exception | None] = asyncio.Queue()
    room = threading.Semaphore(READ_AHEAD)
    over = False

    def frames() -> Iterator[Frame]:
        while True:
            given = False
            for frame in recording.frames(unusable.pass_over):
                given = True
                yield frame
            if not repeat or not given or over:
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


class Unusable:
    """Tells what of a recording cannot be used, each with its name on a line of standard error, or ends the run."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.passed_over = 0
        self.names: dict[int, str] = {}
        """Where the frames in flight come from, by frame number."""
        self._told = 0

    def pass_over(self, error: RecordingError) -> None:
        """Tells of a piece that is not sent. Raises it where nothing may be passed over."""
        if self.strict:
            raise error
        self.passed_over += 1
        self.tell(f"passed over: {error}")

    def tell(self, text: str) -> None:
        self._told += 1
        if self._told <= TOLD_MAX:
            click.echo(f"duly: {text}", err=True)
        elif self._told == TOLD_MAX + 1:
            click.echo("duly: what else cannot be used is counted and no longer told", err=True)


class OutcomePrinter:
    """Prints the terms of a stream, its outcomes as they come, and a summary."""

    def __init__(self, terms: StreamTerms, as_json: bool, unusable: Unusable) -> None:
        self._terms = terms
        self._unusable = unusable
        self._as_json = as_json
        self._labels = next((spec.labels for spec in terms.outputs if spec.labels), ())
        self._counts: Counter[Status] = Counter()
        self._latencies_ms: deque[float] = deque(maxlen=LATENCIES_MAX)

    def begin(self, model: str, server: str, recording: Recording, period_s: float) -> None:
        rate = f"every {period_s * 1000:.4g} ms" if period_s else "as they come"
        text = (
            f"{recording.description}, {rate}, to {model} version {self._terms.version} at {server}; "
            f"budget {self._terms.default_budget_ns / 1e6:g} ms, one frame takes about "
            f"{self._terms.planned_latency_ns / 1e6:.3g} ms"
        )
        click.echo(text, err=True)
        if recording.left_out:
            click.echo(recording.left_out, err=True)
        if self._terms.admission_warning:
            click.echo(f"the server expects misses: {self._terms.admission_warning}", err=True)

    def outcome(self, outcome: Outcome) -> None:
        """Prints an outcome. Raises ClickException where it is INVALID and nothing may be passed over."""
        source = self._unusable.names.pop(outcome.frame_id, "")
        if outcome.status is Status.INVALID:
            if self._unusable.strict:
                raise click.ClickException(f"{source or f'frame {outcome.frame_id}'}: {outcome.reason}")
            if source:
                self._unusable.tell(f"{source}: {outcome.reason}")
        latency_ms = outcome.latency_ns / 1e6
        self._counts[outcome.status] += 1
        if outcome.ok:
            self._latencies_ms.append(latency_ms)
        if self._as_json:
            click.echo(json.dumps(_as_json(outcome)))
            return
        words = outcome.status.name.lower().replace("_", " ")
        line = f"frame {outcome.frame_id}  {words}"
        if outcome.ok:
            line += f"  {latency_ms:.1f} ms  {_in_words(outcome.outputs, self._labels)}"
        click.echo(f"{line}  ({outcome.reason})" if outcome.reason else line)

    @property
    def served(self) -> bool:
        """Some frame was one that the model could run on, whatever became of it."""
        return any(status not in (Status.INVALID, Status.FAILED) for status in self._counts)

    def nothing_served(self, recording: Recording) -> str:
        parts = [f"{self._unusable.passed_over} passed over"] if self._unusable.passed_over else []
        parts += [f"{count} {status.name.lower()}" for status, count in sorted(self._counts.items())]
        why = f"nothing was served: {', '.join(parts)}" if parts else "no frame came"
        return f"{recording.description}: {why}"

    def end(self) -> None:
        sent = self._counts.total()
        p50_ms, p99_ms = np.percentile(self._latencies_ms, (50, 99)) if self._latencies_ms else (0.0, 0.0)
        counts = {status.name: count for status, count in sorted(self._counts.items())}
        if self._as_json:
            latency = {"p50": round(p50_ms, 3), "p99": round(p99_ms, 3)} if self._latencies_ms else None
            passed_over = self._unusable.passed_over
            summary = {"sent": sent, "passed_over": passed_over, "outcomes": counts, "latency_ms": latency}
            click.echo(json.dumps(summary))
            return
        shares = ", ".join(f"{count} {name.lower().replace('_', ' ')}" for name, count in counts.items())
        latency_text = f"; latency p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms" if self._latencies_ms else ""
        more = f"; {self._unusable.passed_over} passed over" if self._unusable.passed_over else ""
        click.echo(f"{sent} frame{'' if sent == 1 else 's'} sent: {shares or 'none'}{more}{latency_text}")


def _in_words(outputs: dict[str, Array], labels: tuple[str, ...]) -> str:
    if outputs.keys() >= {"scores", "classes"}:
        found = [
            f"{labels[number] if number < len(labels) else f'class {number}'} {score:.2f}"
            for score, number in zip(outputs["scores"].tolist(), outputs["classes"].tolist(), strict=True)
        ]
        more = f", and {len(found) - DETECTIONS_MAX} more" if len(found) > DETECTIONS_MAX else ""
        return (", ".join(found[:DETECTIONS_MAX]) or "nothing found") + more
    if len(outputs) == 1 and (only := next(iter(outputs.values()))).size == 1:
        return f"{only.item():.3g}"
    return ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in outputs.items())


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "frame_id": outcome.frame_id,
        "status": outcome.status.name,
        "latency_ms": round(outcome.latency_ns / 1e6, 3),
        "slack_ms": round(outcome.slack_ns / 1e6, 3),
        "version": outcome.version,
        "variant": outcome.variant,
        "batch_size": outcome.batch_size,
        "reason": outcome.reason,
        "outputs": {
            name: _elements(array) if array.size <= OUTPUT_ELEMENTS_MAX else {"shape": list(array.shape)}
            for name, array in outcome.outputs.items()
        },
    }


def _elements(array: Array) -> Any:
    """The elements as JSON can hold them, which has no number for "NaN", "Infinity" and "-Infinity"."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return array.tolist()
    if array.ndim:
        return [_elements(part) for part in array]
    number = float(array)
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
