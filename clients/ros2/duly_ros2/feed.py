"""Feeds one stream from its topics, and says what became of every message: exactly one answer each.

It belongs to one event loop. Messages wait here only while the transport is full, no more of them than the topic's
quality of service says. Where the server ends the stream for good, it is opened again with growing pauses, and
messages that come meanwhile are answered with why.
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np

from duly_client import Advice, Client, ClockEstimate, DulyError, Outcome, Status, Stream, StreamTerms
from duly_client.types import TensorSpec, Value
from duly_ros2.answers import Answer, Publisher, Received
from duly_ros2.cdr import Unreadable
from duly_ros2.fitting import fitted
from duly_ros2.joining import Joining
from duly_ros2.report import Report
from duly_ros2.results import Unusable
from duly_ros2.samples import Sample, header_of, read
from duly_ros2.settings import StreamSettings

AGAIN_S_MIN, AGAIN_S_MAX = 0.5, 5.0
"""Pauses between two tries to open a stream that the server has ended for good. They double."""
OLD_NS = 60_000_000_000
"""Stamps that are older than this are named: no budget is as long."""
FINISH_S_MAX = 2.0
"""How long a feed that stops waits for the outcomes of what it has sent."""

_Frame = tuple[Received, ...]


class Feed:
    """The feed of one stream. `log` takes what somebody should read, once for each new problem."""

    def __init__(
        self, settings: StreamSettings, client: Client, publisher: Publisher, future_ns: int, log: Callable[[str], None]
    ) -> None:
        self.settings = settings
        self.report = Report(round((settings.budget or 0) * 1e6))
        self._client = client
        self._publisher = publisher
        self._future_ns = future_ns
        self._log = log
        self._inputs = tuple(settings.inputs.items())
        self._joining: Joining[Received] | None = None
        self._waiting: deque[_Frame] = deque()
        self._waiting_max = max(each.qos.waiting_max for _, each in self._inputs)
        self._keeps_all = any(each.qos.history == "keep_all" for _, each in self._inputs)
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        """Set where a frame was sent or answered, or the stream has ended."""
        self._sent: dict[int, _Frame] = {}
        self._early: dict[int, Outcome] = {}
        """Outcomes that came before `send` had said which frame they are of."""
        self._sending = False
        self._stream: Stream | None = None
        self._labels: dict[str, tuple[str, ...]] = {}
        self._why_not = "the stream is not open yet"
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False

    # ---- opening and ending ----

    async def open(self) -> None:
        """Opens the stream for the first time. Raises DulyError where the server refuses it, ValueError and TypeError
        where a setting can be no stream's.
        """
        stream = await self._open_stream()
        self._task = asyncio.get_running_loop().create_task(self._run(stream))

    async def stop(self, reason: str) -> None:
        """Takes no more messages, and returns when all that came are answered: with their outcomes, as long as these
        take no longer than FINISH_S_MAX, else with `reason`.
        """
        self._stopping, self._why_not = True, reason
        if self._joining is not None:
            self._answer_all(self._joining.take_all(), Status.CANCELLED, reason)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_S_MAX):
                while self._stream is not None and (self._sent or self._waiting or self._sending):
                    self._changed.clear()
                    await self._changed.wait()
        while self._waiting:
            self._answer_all(self._waiting.popleft(), Status.CANCELLED, reason)
        self._give_up(reason)

    def resume(self) -> None:
        """Takes messages again after `stop`."""
        self._stopping = False

    async def close(self) -> None:
        """Ends the stream."""
        await self.stop("the stream was closed")
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self._give_up("the stream was closed")

    async def _open_stream(self) -> Stream:
        settings = self.settings
        backlog, frames = settings.first.qos.backlog
        stream = self._client.stream(
            settings.model,
            name=settings.name,
            version=settings.version,
            budget_ms=settings.budget,
            period_ms=settings.period_ms,
            stream_class=settings.stream_class or None,
            ordering=settings.ordering or None,
            backlog=backlog,
            backlog_frames=frames,
            on_advice=self._advised,
            follow_advice=settings.follow_advice,
        )
        await stream.__aenter__()
        try:
            self._agreed(stream.opened)
        except BaseException:
            await stream.close()
            raise
        self._stream = stream
        return stream

    def _agreed(self, terms: StreamTerms) -> None:
        names = [name for name, _ in self._inputs]
        takes = [spec.name for spec in terms.inputs]
        if names == [""]:
            if len(takes) != 1:
                raise ValueError(f"the model takes the inputs {', '.join(takes)}: state a topic for each, as inputs")
        elif sorted(names) != sorted(takes):
            raise ValueError(f"inputs: are {', '.join(names)}; the model takes {', '.join(takes)}")
        self._labels = {spec.name: spec.labels for spec in terms.outputs if spec.labels}
        budget_ns = round((self.settings.budget or 0) * 1e6) or terms.default_budget_ns
        self.report.budget_ns = budget_ns
        if terms.admission_warning:
            self._problem("admission", f"the server would rather not serve the stream: {terms.admission_warning}")
        if len(self._inputs) > 1 and self._joining is None:
            join = self.settings.join
            wait_ns = max(0, budget_ns - terms.planned_latency_ns)
            self._joining = Joining(len(self._inputs), round(join.tolerance_ms * 1e6), join.queue, wait_ns)

    async def _run(self, stream: Stream) -> None:
        tries = 0
        while True:
            sender = asyncio.get_running_loop().create_task(self._send_all(stream))
            try:
                self.report.lasting("stream", None, time.monotonic_ns())
                async for outcomes in stream.batches():
                    tries = 0
                    for outcome in outcomes:
                        self._ended(outcome)
                error: Exception = RuntimeError("the server ended the stream")
            except DulyError as ended:
                error = ended
            finally:
                self._stream = None
                self._changed.set()
                sender.cancel()
                await asyncio.wait((sender,))
                await stream.close()
            while True:
                self._why_not = f"the stream is not open: {error}"
                self._give_up(self._why_not)
                if self.report.lasting("stream", self._why_not, time.monotonic_ns()):
                    self._log(f"{self.settings.name}: {self._why_not}")
                await asyncio.sleep(min(AGAIN_S_MAX, AGAIN_S_MIN * 2.0 ** min(tries, 8)) * random.uniform(0.5, 1))
                tries += 1
                try:
                    stream = await self._open_stream()
                    break
                except (DulyError, ValueError, TypeError) as again:
                    error = again

    # ---- messages in ----

    def take(self, which: int, message: bytes, published_ns: int, now_ns: int) -> None:
        """Takes a message of the input with that number. `published_ns`: when it was published, by the wall clock, ns
        since 1970; 0: not known. `now_ns`: the time by the clock that stamps are of, when it came.
        """
        _, source = self._inputs[which]
        arrived_ns = time.monotonic_ns()
        wall_ns = published_ns or time.time_ns()
        try:
            sample = read(source.type, message, source.fields)
        except Unreadable as error:
            unread = Sample(b"", error.stamp_ns, error.frame_id)
            self._problem(f"message {source.topic}", f"{source.topic}: {error}")
            self._answer_all((Received(source.topic, unread, wall_ns, arrived_ns),), Status.INVALID, str(error))
            return
        if self.settings.stamps == "header" and sample.stamp_ns:
            age_ns = now_ns - sample.stamp_ns
            if age_ns < -self._future_ns:
                self._problem(
                    f"stamp {source.topic}",
                    f"{source.topic}: a stamp is {-age_ns / 1e6:.0f} ms in the future; taken as captured on receipt",
                )
            else:
                wall_ns = max(1, time.time_ns() - age_ns)
                if age_ns > OLD_NS:
                    self._problem(
                        f"stamp {source.topic}",
                        f"{source.topic}: a stamp is {age_ns / 1e9:.0f} s old; of recordings state stamps: receipt, "
                        "or set use_sim_time",
                    )
        received = Received(source.topic, sample, wall_ns, arrived_ns)
        if self._stopping or self._stream is None:
            self._answer_all((received,), Status.CANCELLED, self._why_not)
        elif self._joining is None:
            self._enqueue((received,))
        else:
            self._join(self._joining, which, received)

    def drop(self, which: int, message: bytes, published_ns: int) -> None:
        """Answers a message that there was no room for; otherwise as `take`."""
        _, source = self._inputs[which]
        reason = "the node is too slow"
        self._problem("room", f"{source.topic}: a message was dropped, {reason}")
        sample = Sample(b"", *header_of(source.type, message))
        received = Received(source.topic, sample, published_ns or time.time_ns(), time.monotonic_ns())
        self._answer_all((received,), Status.SHED, reason)

    def _join(self, joining: Joining[Received], which: int, received: Received) -> None:
        stamp_ns = received.sample.stamp_ns or received.captured_ns
        joined = joining.add(which, stamp_ns, received, received.arrived_ns)
        reason = (
            f"newer messages took its place while it waited for partners within {self.settings.join.tolerance_ms:g} ms"
        )
        self._answer_all(joined.pushed_out, Status.SUPERSEDED, reason)
        if joined.together is not None:
            self._enqueue(joined.together)
        if self._timer is None:
            self._set_timer(joining)

    def _set_timer(self, joining: Joining[Received]) -> None:
        self._timer = None
        due_ns = joining.next_overdue_ns()
        if due_ns is not None:
            delay_s = max(0, due_ns - time.monotonic_ns()) / 1e9
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._overdue, joining)

    def _overdue(self, joining: Joining[Received]) -> None:
        for received in joining.overdue(time.monotonic_ns()):
            others = ", ".join(each.topic for _, each in self._inputs if each.topic != received.topic)
            reason = f"no message on {others} within {self.settings.join.tolerance_ms:g} ms of its stamp came in time"
            self._problem(f"partners {received.topic}", f"{received.topic}: {reason}")
            self._answer_all((received,), Status.EXPIRED, reason)
        self._set_timer(joining)

    def _enqueue(self, frame: _Frame) -> None:
        if len(self._waiting) >= self._waiting_max:
            if self._keeps_all:
                self._answer_all(frame, Status.SHED, f"{self._waiting_max} messages wait for the transport")
                return
            self._answer_all(self._waiting.popleft(), Status.SUPERSEDED, "a newer message came before it was sent")
        self._waiting.append(frame)
        self._wake.set()

    # ---- frames out, outcomes in ----

    async def _send_all(self, stream: Stream) -> None:
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            frame = self._waiting.popleft()
            self._sending = True
            try:
                await self._send(stream, frame)
            except (ValueError, TypeError, np.exceptions.AxisError) as error:
                self._problem("frame", f"{frame[0].topic}: {error}")
                self._answer_all(frame, Status.INVALID, str(error))
            except (DulyError, RuntimeError) as error:
                self._answer_all(frame, Status.CANCELLED, f"the stream is not open: {error}")
            except Exception as error:  # of this node, which must answer this message and send the next
                self._problem("node", f"{frame[0].topic}: {type(error).__name__}: {error}")
                self._answer_all(frame, Status.FAILED, f"the node failed: {type(error).__name__}: {error}")
            except asyncio.CancelledError:
                self._answer_all(frame, Status.CANCELLED, self._why_not)
                raise
            finally:
                self._sending = False
                self._changed.set()

    async def _send(self, stream: Stream, frame: _Frame) -> None:
        specs = {spec.name: spec for spec in stream.opened.inputs}
        payload: Value | Mapping[str, Value]
        if len(self._inputs) == 1 and len(specs) == 1:
            (spec,) = specs.values()
            payload = self._value(frame[0].sample, spec)
            if isinstance(payload, np.ndarray) and not payload.flags.c_contiguous:
                loan = await stream.loan(payload.shape)  # it is where the pixels go in any case, put into order there
                if loan.dtype == payload.dtype.newbyteorder("<"):
                    np.copyto(loan, payload)
                    payload = loan
        else:
            named = zip(self._inputs, frame, strict=True)
            payload = {name: self._value(received.sample, specs[name]) for (name, _), received in named}
        encoding = next((received.sample.encoding for received in frame if received.sample.encoding), None)
        captured_ns = min(received.captured_ns for received in frame)
        number = await stream.send(payload, capture_time_ns=captured_ns, encoding=encoding)
        self._sent[number] = frame
        if self._early and (outcome := self._early.pop(number, None)) is not None:
            self._ended(outcome)

    @staticmethod
    def _value(sample: Sample, spec: TensorSpec) -> Value:
        value = sample.value
        if isinstance(value, bytes):
            if sample.encoding is None or sample.encoding in spec.encodings:
                return value
            value = np.frombuffer(value[: len(value) // 2 * 2], "<i2")
        if "PCM_S16LE" in spec.encodings and value.dtype == np.int16 and value.ndim == 1 and spec.dtype != np.int16:
            return value.astype("<i2", copy=False).tobytes()
        return fitted(value, spec.shape, spec.dtype, picture=sample.size != (0, 0))

    def _ended(self, outcome: Outcome) -> None:
        frame = self._sent.pop(outcome.frame_id, None)
        self._changed.set()
        if frame is None:
            if self._sending:
                self._early[outcome.frame_id] = outcome
            return
        if outcome.ok:
            try:
                self._publisher.result(self.settings, frame[0], outcome, self._labels)
            except (Unusable, DulyError) as error:
                self._problem("result", str(error))
        elif outcome.status in (Status.INVALID, Status.FAILED):
            self._problem(f"frame {outcome.status.name}", f"{frame[0].topic}: {outcome.reason}")
        for received in frame:
            self._say(received, outcome.status, outcome.reason, outcome)

    # ---- answers ----

    def _answer_all(self, messages: "tuple[Received, ...] | list[Received]", status: Status, reason: str) -> None:
        for received in messages:
            self._say(received, status, reason, None)

    def _say(self, received: Received, status: Status, reason: str, outcome: Outcome | None) -> None:
        now_ns = time.monotonic_ns()
        self.report.answered(status, outcome, now_ns, reason)
        latency_ns = outcome.latency_ns if outcome is not None else time.time_ns() - received.captured_ns
        number = outcome.frame_id if outcome is not None else 0
        sample = received.sample
        self._publisher.answer(
            Answer(
                self.settings,
                received.topic,
                sample.stamp_ns,
                sample.frame_id,
                status,
                reason,
                number,
                outcome,
                latency_ns,
            )
        )

    def _give_up(self, reason: str) -> None:
        """Answers what was sent and has no outcome."""
        for number in list(self._sent):
            self._answer_all(self._sent.pop(number), Status.CANCELLED, reason)
        self._early.clear()

    def _problem(self, kind: str, text: str) -> None:
        if self.report.problem(kind, text, time.monotonic_ns()):
            self._log(f"{self.settings.name}: {text}")

    def _advised(self, advice: Advice) -> None:
        self._publisher.advise(self.settings, advice)

    @property
    def clock(self) -> ClockEstimate | None:
        """The server's clock minus this one's, and its uncertainty; None: not known."""
        return None if self._stream is None else self._stream.clock
