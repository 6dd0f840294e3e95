"""Streams of clients that keep account: which frames they sent, what became of each, and whether that was right.

The law from outside: every frame sent has exactly one outcome by the time the stream ends well, and a result is right.
"""

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from duly.v1 import inference_pb2 as pb
from duly.v1 import inference_pb2_grpc, tensor_pb2

END_SECONDS_MAX = 20.0
"""How long a stream that was half-closed may take to answer what is left."""
RESULTS = (pb.OUTCOME_STATUS_ON_TIME, pb.OUTCOME_STATUS_LATE)
CLASSES = {"CRITICAL": 1, "STANDARD": 2, "BEST_EFFORT": 3}


def frame(frame_id: int, values: Any, name: str = "x") -> pb.Frame:
    array = np.asarray(values, np.float32)
    tensor = tensor_pb2.Tensor(name=name, datatype=tensor_pb2.DATA_TYPE_FP32, shape=array.shape, data=array.tobytes())
    return pb.Frame(frame_id=frame_id, tensors=[tensor])


@dataclass(slots=True)
class Answer:
    """What became of one frame."""

    status: int
    due_s: float
    """When it was to be sent, on the monotonic clock of this machine."""
    came_s: float
    """When its outcome was read."""
    version: str = ""
    reason: str = ""
    lane_s: float = 0.0
    """How long its batch took its lane."""


@dataclass(slots=True)
class Account:
    """What a stream sent and got."""

    sent: dict[int, float] = field(default_factory=dict)
    """When each frame was to be sent."""
    answers: dict[int, Answer] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    """Answers that break the law, in words."""
    broken: str = ""
    """Why the stream broke; empty: it did not."""

    @property
    def missing(self) -> int:
        return len(self.sent) - len(self.answers)

    def statuses(self) -> Counter[str]:
        return Counter(
            pb.OutcomeStatus.Name(each.status).removeprefix("OUTCOME_STATUS_") for each in self.answers.values()
        )  # type: ignore[arg-type]

    def on_time(self, budget_s: float, since_s: float = 0.0, until_s: float = float("inf")) -> tuple[int, int]:
        """Returns (frames in time at the client, frames) of those that were to be sent in that stretch."""
        frames = [frame_id for frame_id, due_s in self.sent.items() if since_s <= due_s < until_s]
        hits = 0
        for frame_id in frames:
            answer = self.answers.get(frame_id)
            if answer and answer.status == pb.OUTCOME_STATUS_ON_TIME and answer.came_s - answer.due_s <= budget_s:
                hits += 1
        return hits, len(frames)


class AccountedStream:
    """Sends at its own period until it is told to stop, and reads what comes.

    A result must be `factor` times what was sent, or, where `factor` is None, the number of the version that the
    outcome names times what was sent.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        model: str,
        *,
        period_s: float,
        budget_s: float,
        stream_class: str = "STANDARD",
        backlog: int = pb.BACKLOG_POLICY_ALL,
        factor: float | None = 2.0,
        shape: tuple[int, ...] = (4,),
        ordering: int = pb.ORDERING_UNORDERED,
        phase_s: float = 0.0,
        promise: bool = False,
    ) -> None:
        self.account = Account()
        self.budget_s = budget_s
        self._call = inference_pb2_grpc.InferenceServiceStub(channel).Stream()
        self._open = pb.OpenStream(
            model=model,
            stream_class=CLASSES[stream_class],  # type: ignore[arg-type]
            backlog_policy=backlog,  # type: ignore[arg-type]
            ordering=ordering,  # type: ignore[arg-type]
            default_budget_nano=int(budget_s * 1e9),
            expected_period_nano=int(period_s * 1e9) if promise else 0,
        )
        self.period_s = period_s
        """It may be changed while the stream runs."""
        self._phase_s = phase_s
        self._factor = factor
        self._shape = shape
        self._stopping = asyncio.Event()

    async def open(self) -> None:
        """Raises AioRpcError where the stream is refused."""
        # The call's own `write` would put INTERNAL in place of the status of a server that refuses at once.
        call: Any = self._call
        with contextlib.suppress(grpc.aio.InternalError):
            await call.wait_for_connection()
            await call._cython_call.send_serialized_message(pb.StreamRequest(open=self._open).SerializeToString())
        response = await self._call.read()
        if response is grpc.aio.EOF or response.WhichOneof("response") != "opened":
            raise grpc.aio.AioRpcError(
                await self._call.code(),
                await self._call.initial_metadata(),
                await self._call.trailing_metadata(),
                await self._call.details(),
            )

    async def run(self) -> Account:
        """Sends and reads until `stop`, then until all is answered. The stream must be open."""
        reading = asyncio.create_task(self._read())
        try:
            await self._send(reading)
            await self._call.done_writing()
            await asyncio.wait_for(reading, END_SECONDS_MAX)
        except TimeoutError:
            self.account.broken = f"{self.account.missing} frames had no outcome {END_SECONDS_MAX:g} s after the end"
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            self.account.broken = self.account.broken or _told(error)
        finally:
            reading.cancel()
            self._call.cancel()
        return self.account

    def stop(self) -> None:
        self._stopping.set()

    def cancel(self) -> None:
        self._call.cancel()

    async def send_once(self, due_s: float) -> None:
        frame_id = len(self.account.sent) + 1
        self.account.sent[frame_id] = due_s
        values = np.full(self._shape, frame_id % 1000 + 1, np.float32)
        await self._call.write(pb.StreamRequest(frames=pb.FrameBatch(frames=[frame(frame_id, values)])))

    async def _send(self, reading: "asyncio.Task[None]") -> None:
        due_s = time.monotonic() + self._phase_s
        while not self._stopping.is_set() and not reading.done():
            pause_s = due_s - time.monotonic()
            if pause_s > 0:
                try:
                    await asyncio.wait_for(self._stopping.wait(), pause_s)
                    return
                except TimeoutError:
                    pass
            await self.send_once(due_s)
            due_s += self.period_s

    async def _read(self) -> None:
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                if response.WhichOneof("response") == "outcomes":
                    came_s = time.monotonic()
                    for outcome in response.outcomes.outcomes:
                        self._take(outcome, came_s)
        except grpc.aio.AioRpcError as error:
            self.account.broken = _told(error)
            return
        code = await self._call.code()
        if code is not grpc.StatusCode.OK:
            self.account.broken = f"{code.name}: {await self._call.details()}"

    def _take(self, outcome: pb.Outcome, came_s: float) -> None:
        account, frame_id = self.account, outcome.frame_id
        if frame_id in account.answers:
            account.wrong.append(f"frame {frame_id} was answered twice")
        elif frame_id not in account.sent:
            account.wrong.append(f"frame {frame_id} was answered and never sent")
            return
        lane_s = (outcome.timing.finished_nano - outcome.timing.dispatched_nano) / 1e9
        account.answers[frame_id] = Answer(
            outcome.status, account.sent[frame_id], came_s, outcome.version, outcome.reason, lane_s
        )
        if outcome.status in RESULTS:
            got = np.frombuffer(outcome.outputs[0].data, np.float32) if outcome.outputs else np.empty(0)
            factor = float(outcome.version) if self._factor is None else self._factor
            expected = (frame_id % 1000 + 1) * factor
            if not len(got) or not (got == expected).all():
                account.wrong.append(
                    f"frame {frame_id} of version {outcome.version} got {got[:4].tolist()}, expected {expected}"
                )
        elif not outcome.reason:
            account.wrong.append(f"frame {frame_id} has status {outcome.status} without a reason")


def _told(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"
