"""The target that is none: each frame is answered at once, in the sender itself. What is measured is the harness."""

import time
from typing import Self

from duly_client.types import Encoding, Payload, TensorSpec
from duly_load.protocols.connection import AnswerSink, FrameAnswer
from duly_load.results.outcomes import FrameOutcome
from duly_load.scenario.schedule import Session
from duly_load.scenario.tables import Sensor


class NullTarget:
    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def inputs(self, model: str) -> tuple[TensorSpec, ...]:
        return ()

    def connection(
        self, sensor: Sensor, session: Session, encoding: Encoding | None, sink: AnswerSink
    ) -> "NullConnection":
        return NullConnection(sink)


class NullConnection:
    def __init__(self, sink: AnswerSink) -> None:
        self._sink = sink

    async def open(self) -> None:
        pass

    async def send(self, place: int, payload: Payload, capture_unix_ns: int) -> None:
        self._sink.answered(FrameAnswer(place, FrameOutcome.ON_TIME, time.monotonic_ns()))

    async def finish(self) -> None:
        pass

    async def close(self) -> None:
        pass
