"""duly as a target, through its own client, as a sensor would use it."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Self, cast

from duly.core.types import BacklogPolicy
from duly_client import Client, Stream, types
from duly_client.errors import DulyError, StreamRefused
from duly_client.types import Encoding, Payload, TensorSpec
from duly_load.protocols.clock import unix_minus_monotonic_ns
from duly_load.protocols.connection import AnswerSink, FrameAnswer, Refused, TargetError
from duly_load.results.outcomes import FrameOutcome
from duly_load.scenario.schedule import Session
from duly_load.scenario.tables import Sensor


class DulyTarget:
    """A server of duly.v1. One connection to it, shared by all streams."""

    def __init__(self, endpoint: str, difference_ns: int | None = None, follow_advice: bool = False) -> None:
        """`endpoint`: HOST:PORT or unix:PATH. `difference_ns`: `unix_minus_monotonic_ns`; None: as it is now."""
        self._follow_advice = follow_advice
        self._client = Client(endpoint, reconnect=False)
        self._difference_ns = unix_minus_monotonic_ns() if difference_ns is None else difference_ns

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def inputs(self, model: str) -> tuple[TensorSpec, ...]:
        try:
            async with self._client.stream(model, name="what does it take") as stream:
                return stream.opened.inputs
        except DulyError as error:
            raise TargetError(str(error)) from error

    def connection(
        self, sensor: Sensor, session: Session, encoding: Encoding | None, sink: AnswerSink
    ) -> "DulyConnection":
        stream = self._client.stream(
            sensor.model,
            budget_ms=sensor.budget_ms,
            name=session.name,
            stream_class=cast(types.StreamClass, sensor.stream_class.name),
            backlog=cast(types.BacklogPolicy, sensor.backlog_policy.name),
            backlog_frames=sensor.backlog_frames if sensor.backlog_policy is BacklogPolicy.KEEP_LAST else 0,
            period_ms=None if sensor.stated_period_s is None else sensor.stated_period_s * 1e3,
            variant_lowest=sensor.variant_lowest or "",
            floor=sensor.floor,
            fusion=_fusion(sensor, session),
            check=False,  # the payloads were made for the model
            follow_advice=self._follow_advice,
        )
        only = sensor.fusion.input if sensor.fusion is not None else ""
        return DulyConnection(stream, encoding, sink, self._difference_ns, only)


class DulyConnection:
    """One stream."""

    def __init__(
        self, stream: Stream, encoding: Encoding | None, sink: AnswerSink, difference_ns: int, only: str = ""
    ) -> None:
        """`only`: the one input that frames have; empty: they have all."""
        self._only = only
        self._stream = stream
        self._encoding = encoding
        self._sink = sink
        self._sent = 0
        self._waiting: dict[int, tuple[int, int]] = {}
        """Frames without an answer by frame id: place in the schedule, capture in ns since 1970."""
        self._unix_minus_monotonic_ns = difference_ns
        self._reader: asyncio.Task[None] | None = None
        self._finished = False

    async def open(self) -> None:
        try:
            await self._stream.__aenter__()
        except StreamRefused as error:
            raise Refused(str(error)) from error
        except DulyError as error:
            raise TargetError(str(error)) from error
        self._reader = asyncio.create_task(self._read())

    async def send(self, place: int, payload: Payload, capture_unix_ns: int) -> None:
        # The client numbers frames from 1 on in the order of its calls; the answer may be there before it returns.
        if self._only and isinstance(payload, Mapping):
            payload = payload[self._only]
        self._sent += 1
        self._waiting[self._sent] = (place, capture_unix_ns)
        with contextlib.suppress(DulyError, RuntimeError):  # the stream has ended, which its reader reports
            await self._stream.send(payload, capture_time_ns=capture_unix_ns, encoding=self._encoding)

    async def finish(self) -> None:
        self._finished = True
        await self._stream.finish()
        if self._reader is not None:
            await asyncio.wait((self._reader,))

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait((self._reader,))
        await self._stream.close()

    async def _read(self) -> None:
        why = "the server ended the stream"
        try:
            async for outcome in self._stream:
                timing = outcome.timing
                if outcome.status is types.Status.CANCELLED and not timing.received_unix_ns:
                    continue  # the client's own word: the connection was lost
                place, capture_unix_ns = self._waiting.pop(outcome.frame_id)
                answer = FrameAnswer(
                    place,
                    FrameOutcome(outcome.status),
                    capture_unix_ns + outcome.latency_ns - self._unix_minus_monotonic_ns,
                    outcome.batch_size,
                    timing.received_unix_ns + timing.dispatched_ns if outcome.batch_size else 0,
                    timing.sent_ns - timing.dispatched_ns if outcome.batch_size else 0,
                    claimed=outcome.status is types.Status.ON_TIME,
                )
                self._sink.answered(answer)
        except DulyError as error:
            why = str(error)
        if self._waiting or not self._finished:
            self._sink.ended(why)


def _fusion(sensor: Sensor, session: Session) -> types.Fusion | None:
    fused = sensor.fusion
    if fused is None:
        return None
    return types.Fusion(sensor.group_of(session.name), fused.input, fused.tolerance_ms, fused.wait)
