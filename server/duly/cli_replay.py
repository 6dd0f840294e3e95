"""`duly replay`: feeds a recorded drive through a server and writes down what became of every frame."""

import asyncio
import json
import os
import signal
import time
from collections import Counter, deque
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

from duly.cli_connection import Connection, connection_options
from duly.cli_numbers import Number
from duly.cli_outcomes import LATENCIES_MAX, Unusable
from duly.demo.serving import serving
from duly_client import Client, Outcome, Status, StreamTerms
from duly_client.recordings import RecordingError
from duly_client.types import BacklogPolicy, StreamClass
from duly_logs.drive import PATIENCE_MS, Drive
from duly_logs.feeds import Feed, Frame, TopicUnclear, find_feed
from duly_logs.log import Log, LogError
from duly_logs.opening import open_log
from duly_logs.outcome_log import OutcomeLog, took_alone_ns


class _Speed(Number):
    """How many times as fast; None: as fast as deadlines allow."""

    name = "speed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "max":
            return value
        try:
            return super().convert(str(value).removesuffix("x"), param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message} Expected a number such as 1 or 2.5, or max.", param, ctx)


@click.command()
@click.argument("log", metavar="LOG", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="Name of the model.")
@click.option("--topic", default="", help="Topic to feed it with.  [default: the only one that fits]")
@click.option("--field", "fields", multiple=True, help="Field with the numbers to feed it with; may be given again.")
@click.option("--models", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Serve these meanwhile.")
@connection_options
@click.option("--version", default="", help="Version of the model.  [default: the active one]")
@click.option("--speed", type=_Speed(1e-3, 1e4), default="1", show_default=True, help="1, 2.5, ..., or max.")
@click.option("--budget-ms", type=Number(1e-6, 86_400_000), help="In the log's time.  [default: the model's]")
@click.option("--class", "stream_class", type=click.Choice(get_args(StreamClass)), help="Criticality.")
@click.option("--backlog", type=click.Choice(get_args(BacklogPolicy)), help="What waits while the model is busy.")
@click.option("--backlog-frames", type=click.IntRange(0, 65_536), default=0, help="How many wait, with KEEP_LAST.")
@click.option("--seconds", "seconds_max", type=Number(0, 1e9, min_open=True), help="Stop after this much of the log.")
@click.option("--write", type=click.Path(dir_okay=False, path_type=Path), help="MCAP to write outcomes to.")
@click.option("--draw", is_flag=True, help="Write pictures with boxes drawn into them, too.")
@click.option("--strict", is_flag=True, help="End with status 1 at what cannot be used, rather than pass over it.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def replay(
    log: Path,
    model: str,
    topic: str,
    fields: tuple[str, ...],
    models: Path | None,
    speed: str | float,
    budget_ms: float | None,
    seconds_max: float | None,
    write: Path | None,
    draw: bool,
    strict: bool,
    as_json: bool,
    version: str,
    server: str,
    tls: bool,
    tls_ca: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    token_file: str | None,
    **terms: Any,
) -> None:
    """Feed the recorded drive LOG to a model: an MCAP file, a .bag of ROS 1, or the folder of a bag of ROS 2.

    Without --models it goes to the server at --server, with it to one that is started for the time. What of the log
    cannot be used is told on standard error and passed over. The exit status is 0 where the drive was replayed, 1
    where it cannot be read, does not fit, or nothing of it was served, and 2 where options are wrong or --topic is
    missing.
    """
    if draw and write is None:
        raise click.UsageError("--draw needs --write: it draws into the log that is written")
    if models is not None and click.get_current_context().get_parameter_source("server") is not None:
        given = click.get_current_context().get_parameter_source("server")
        if given is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError("--models starts a server of its own: give it or --server")
    if write is not None and write.exists() and log.exists() and write.samefile(log):
        raise click.UsageError(f"--write {write}: the log that is replayed; name another file")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    opened = open_log(log)
    told = Unusable(strict)
    if opened.damage:
        told.pass_over(RecordingError(opened.damage))
    client = None if models else Connection(server, tls, tls_ca, tls_cert, tls_key, token_file).client()
    run = _Run(opened, model, version, topic, fields, None if speed == "max" else float(speed), told, as_json)
    try:
        asyncio.run(run.run(models, client, budget_ms, seconds_max, write, draw, terms))
    except TopicUnclear as error:
        raise click.UsageError(str(error)) from error


class _Run:
    """One replay, and what its summary says."""

    def __init__(
        self,
        log: Log,
        model: str,
        version: str,
        topic: str,
        fields: tuple[str, ...],
        speed: float | None,
        told: Unusable,
        as_json: bool,
    ) -> None:
        self._log = log
        self._model = model
        self._version = version
        self._topic = topic
        self._fields = fields
        self._speed = speed
        self._told = told
        self._as_json = as_json
        self._counts: Counter[Status] = Counter()
        self._latencies_ms: deque[float] = deque(maxlen=LATENCIES_MAX)

    async def run(
        self,
        models: Path | None,
        client: Client | None,
        budget_ms: float | None,
        seconds_max: float | None,
        write: Path | None,
        draw: bool,
        terms: dict[str, Any],
    ) -> None:
        async with AsyncExitStack() as stack:
            if models is not None:
                client = Client(await stack.enter_async_context(serving(models, lambda model: None)))
            assert client is not None
            await stack.enter_async_context(client)
            if models is not None and self._version:
                await client.load_model(self._model, self._version)
            async with client.stream(self._model, version=self._version, budget_ms=PATIENCE_MS) as probe:
                feed = find_feed(self._log, probe.opened, self._topic, self._fields)
                version = probe.opened.version
            if terms["stream_class"] == "CRITICAL":  # what it is promised is its rate
                terms["period_ms"] = feed.period_ms() / (self._speed or 1)
            # At a speed, frames that have to be in time are let in; without one, deadlines are the log's affair.
            stream = await stack.enter_async_context(
                client.stream(
                    self._model,
                    version=self._version,
                    budget_ms=PATIENCE_MS if self._speed is None else budget_ms and budget_ms / self._speed,
                    **terms,
                )
            )
            budget_ns = round((budget_ms or await self._default_budget_ms(client, version)) * 1e6)
            self._begin(feed, stream.opened, budget_ns)
            outcome_log = None
            if write is not None:
                about = self._about(feed, stream.opened, budget_ns)
                outcome_log = stack.enter_context(OutcomeLog(write, self._model, stream.opened, about, draw))
            drive = Drive(
                stream,
                feed.frames(self._told.pass_over),
                self._speed,
                budget_ns=budget_ns,
                pass_over=self._told.pass_over,
                tell=self._told.tell,
                log=outcome_log,
                seconds_max=seconds_max,
            )
            interrupted = _stopped_by_signals(drive)
            began_s = time.monotonic()
            await drive.run(self._outcome)
            self._end(drive.log_ns / 1e9, time.monotonic() - began_s, write)
        if not interrupted and not any(status not in (Status.INVALID, Status.FAILED) for status in self._counts):
            parts = [f"{self._told.passed_over} passed over"] if self._told.passed_over else []
            parts += [f"{count} {status.name.lower()}" for status, count in sorted(self._counts.items())]
            raise LogError(f"{self._log.path}: nothing was served: {', '.join(parts) or 'no frame came'}")

    async def _default_budget_ms(self, client: Client, version: str) -> float:
        """The budget that the model has for streams that state none."""
        for model in await client.models():
            for found in model.versions:
                if (model.name, found.version) == (self._model, version):
                    return found.default_budget_nano / 1e6
        raise LogError(f"{self._model} version {version} is no longer there")

    def _about(self, feed: Feed, terms: StreamTerms, budget_ns: int) -> dict[str, str]:
        return {
            "log": str(self._log.path),
            "topic": feed.topic,
            "speed": "max" if self._speed is None else f"{self._speed:g}",
            "budget_ms": f"{budget_ns / 1e6:g}",
            "class": terms.stream_class,
            "backlog": terms.backlog,
            "variants": " ".join(terms.variants),
        }

    def _begin(self, feed: Feed, terms: StreamTerms, budget_ns: int) -> None:
        count = sum(channel.messages for channel in self._log.topics[feed.topic])
        pace = "as fast as deadlines allow" if self._speed is None else f"at {self._speed:g}x"
        click.echo(
            f"{self._log.path}: {count} messages on {feed.topic} ({feed.channel.schema or 'no schema'}), {pace}, to "
            f"{self._model} version {terms.version}; budget {budget_ns / 1e6:g} ms, one frame takes about "
            f"{terms.planned_latency_ns / 1e6:.3g} ms",
            err=True,
        )
        if terms.admission_warning:
            click.echo(f"the server expects misses: {terms.admission_warning}", err=True)

    def _outcome(self, frame: Frame, outcome: Outcome) -> None:
        self._counts[outcome.status] += 1
        if outcome.ok:
            self._latencies_ms.append((took_alone_ns(outcome) if self._speed is None else outcome.latency_ns) / 1e6)
        if outcome.status in (Status.INVALID, Status.FAILED):
            text = f"message {frame.number}: {outcome.status.name}: {outcome.reason}"
            if self._told.strict:
                raise LogError(f"{self._log.path}: {text}")
            self._told.tell(text)

    def _end(self, log_s: float, took_s: float, write: Path | None) -> None:
        sent = self._counts.total()
        p50_ms, p99_ms = np.percentile(self._latencies_ms, (50, 99)) if self._latencies_ms else (0.0, 0.0)
        counts = {status.name: count for status, count in sorted(self._counts.items())}
        if self._as_json:
            summary = {
                "sent": sent,
                "passed_over": self._told.passed_over,
                "outcomes": counts,
                "latency_ms": {"p50": round(p50_ms, 3), "p99": round(p99_ms, 3)} if self._latencies_ms else None,
                "log_s": round(log_s, 3),
                "took_s": round(took_s, 3),
                "written": str(write) if write else None,
            }
            click.echo(json.dumps(summary))
            return
        shares = ", ".join(f"{count} {name.lower().replace('_', ' ')}" for name, count in counts.items())
        what = "one frame alone" if self._speed is None else "latency"
        latency = f"; {what} p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms" if self._latencies_ms else ""
        more = f"; {self._told.passed_over} passed over" if self._told.passed_over else ""
        speed = f" ({log_s / took_s:.3g}x)" if took_s > 0 and log_s > 0 else ""
        click.echo(
            f"{sent} frame{'' if sent == 1 else 's'} sent: {shares or 'none'}{more}{latency}; {log_s:.1f} s of the log "
            f"in {took_s:.1f} s{speed}"
        )
        if write is not None:
            click.echo(f"written to {write}")


def _stopped_by_signals(drive: Drive) -> list[int]:
    """Lets Ctrl-C and SIGTERM end the sending; a second one ends the process. Gives which came."""
    came: list[int] = []
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        came.append(number)
        drive.stop()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    return came
