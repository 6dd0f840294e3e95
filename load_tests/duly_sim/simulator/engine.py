"""Discrete-event simulation: drives a policy, the server's own scheduler or a baseline, under virtual time.

What happens is known beforehand: a script of facts (lanes and models come and go, streams open and close), the frames
as arrays, and a service that says how long each batch takes. The engine is the host of `duly.core.scheduler`'s
contract: it calls `step` with each fact and at each wake that was asked for, and ends each batch when its service time
is over. Nothing here reads a clock or draws a number, so equal inputs give equal runs.

At one instant facts of the script come first, then batches that end, then frames (those of one instant together), then
timers.

Out of scope: transport, payloads and the host's own time; a frame arrives when its last byte has.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from duly.core.events import (
    Action,
    Advice,
    AdviseStream,
    BatchFinished,
    DispatchBatch,
    Event,
    FramesArrived,
    LaneDown,
    ModelGone,
    ResolveFrame,
    TimerFired,
    WarmLane,
)
from duly.core.types import Frame, OutcomeStatus, pieces_of
from duly_client.pace import Pace
from duly_load.scenario.schedule import Frames

NEVER_NS = 1 << 62
GOLDEN_RATIO = 0.6180339887498949
"""Its multiples modulo 1 are spread evenly, however many are taken."""


class Policy(Protocol):
    """`duly.core.scheduler.Scheduler`, or a baseline that stands in for it."""

    def step(self, now_ns: int, event: Event) -> list[Action]: ...

    def next_wake_ns(self) -> int | None: ...


class Service(Protocol):
    """How long batches really take."""

    def duration_ns(self, now_ns: int, lane: str, model: str, variant: str, batch_size: int) -> int | None:
        """The time of a batch that starts now; None: it hangs until the lane or the model is taken away."""
        ...


@dataclass(slots=True)
class Batches:
    """The batches of a run in order of dispatch; lists of the same length."""

    lane: list[str]
    model: list[str]
    variant: list[str]
    size: list[int]
    """The number of frames; 0: a run that warms the lane."""
    planned_ns: list[int]
    started_ns: list[int]
    ended_ns: list[int]
    """When it ended; -1: never, since its lane or model went away."""


@dataclass(slots=True)
class Run:
    """What became of every frame and every batch."""

    frames: Frames
    status: NDArray[np.int8]
    """The `OutcomeStatus` of each frame."""
    resolved_ns: NDArray[np.int64]
    batch: NDArray[np.int32]
    """The index into `batches` of each frame; -1: it never ran."""
    batches: Batches
    advice: list[tuple[int, AdviseStream]]


def simulate(
    policy: Policy,
    script: list[tuple[int, Event]],
    frames: Frames,
    model_of: dict[int, str],
    service: Service,
    record: Callable[[int, Event], None] | None = None,
    followers: Collection[int] = (),
    captures_ns: NDArray[np.int64] | None = None,
    fused: Collection[int] = (),
) -> Run:
    """Runs until every frame is resolved and the script is at its end.

    `script`: (now_ns, event) in order of time. `model_of`: model version by stream id. `record` is called with each
    (now, event) before it is carried out. `followers`: streams, by id, that thin their frames as advised; a frame that
    they keep back is SUPERSEDED and never reaches the policy. `fused`: streams that are members of fusion groups, for
    whose frames `captures_ns`, which has one for each frame, counts. Raises RuntimeError where the policy breaks its
    contract: a frame resolved twice or never, a batch on a lane that is busy.
    """
    captures = captures_ns.tolist() if captures_ns is not None and fused else []
    return _Engine(policy, script, frames, model_of, service, record, followers, captures, fused).run()


class _Engine:
    def __init__(
        self,
        policy: Policy,
        script: list[tuple[int, Event]],
        frames: Frames,
        model_of: dict[int, str],
        service: Service,
        record: Callable[[int, Event], None] | None,
        followers: Collection[int],
        captures_ns: list[int],
        fused: Collection[int],
    ) -> None:
        self._policy = policy
        self._script = script
        self._frames = frames
        self._model_of = model_of
        self._service = service
        self._record = record
        self._captures_ns = captures_ns
        self._fused = fused
        count = len(frames)
        self._status = [0] * count
        self._resolved_ns = [0] * count
        self._batch = [-1] * count
        self._batches = Batches([], [], [], [], [], [], [])
        self._advice: list[tuple[int, AdviseStream]] = []
        self._ends: list[tuple[int, int, str]] = []
        """A heap of (time, batch id, lane)."""
        self._on_lane: dict[str, tuple[int, int]] = {}
        """The batch id and index into `batches` of each lane."""
        self._unresolved = count
        self._paces = {stream_id: Pace() for stream_id in followers}

    def run(self) -> Run:
        arrivals = self._frames.arrival_ns.tolist()
        deadlines = self._frames.deadline_ns.tolist()
        streams = self._frames.stream_id.tolist()
        frame_ids = dict.fromkeys(self._model_of, 0)
        model_of, script, ends, wake_of = self._model_of, self._script, self._ends, self._policy.next_wake_ns
        count, steps = len(arrivals), len(script)
        index = at = 0
        arrivals.append(NEVER_NS)
        script_ns = script[0][0] if script else NEVER_NS
        while True:
            arrival_ns = arrivals[index]
            end_ns = ends[0][0] if ends else NEVER_NS
            now_ns = min(arrival_ns, end_ns, script_ns)
            wake_ns = wake_of()
            if wake_ns is not None and wake_ns < now_ns:
                if not self._unresolved and now_ns == NEVER_NS:
                    break
                self._step(wake_ns, TimerFired())
            elif now_ns == NEVER_NS:
                break
            elif now_ns == script_ns:
                event = script[at][1]
                at += 1
                script_ns = script[at][0] if at < steps else NEVER_NS
                if isinstance(event, LaneDown | ModelGone):
                    self._gone(event)
                self._step(now_ns, event)
            elif now_ns == end_ns:
                _, batch_id, lane = heappop(ends)
                running = self._on_lane.get(lane)
                if running is not None and running[0] == batch_id:
                    self._batches.ended_ns[running[1]] = now_ns
                    del self._on_lane[lane]
                    self._step(now_ns, BatchFinished(batch_id))
            else:
                together = []
                while arrivals[index] == now_ns:
                    stream_id = streams[index]
                    frame_ids[stream_id] += 1
                    model = model_of[stream_id]
                    index += 1
                    if stream_id in self._paces and self._thinned(now_ns, index - 1, stream_id):
                        continue
                    frame = Frame(index, stream_id, frame_ids[stream_id], model, deadlines[index - 1])
                    if stream_id in self._fused:
                        frame.captured_ns = self._captures_ns[index - 1]
                    together.append(frame)
                if together:
                    self._step(now_ns, FramesArrived(together))
        if self._unresolved:
            unresolved = [index for index in range(count) if not self._status[index]]
            raise RuntimeError(f"{len(unresolved)} frames were never resolved, the first is {unresolved[0]}")
        return Run(
            self._frames,
            np.array(self._status, np.int8),
            np.array(self._resolved_ns, np.int64),
            np.array(self._batch, np.int32),
            self._batches,
            self._advice,
        )

    def _step(self, now_ns: int, event: Event) -> None:
        if self._record is not None:
            self._record(now_ns, event)
        for action in self._policy.step(now_ns, event):
            if type(action) is ResolveFrame:
                for frame in pieces_of(action.frame):
                    index = frame.seq - 1
                    if self._status[index]:
                        raise RuntimeError(f"{now_ns}: frame {index} was resolved before")
                    self._status[index] = action.status
                    self._resolved_ns[index] = now_ns
                    self._unresolved -= 1
            elif type(action) is DispatchBatch:
                self._start(now_ns, action, len(action.frames), action.planned_ns)
                for frame in action.frames:
                    for piece in pieces_of(frame):
                        self._batch[piece.seq - 1] = len(self._batches.size) - 1
            elif type(action) is WarmLane:
                self._start(now_ns, action, 0, 0)
            elif type(action) is AdviseStream:
                self._advice.append((now_ns, action))
                if action.stream_id in self._paces and action.advice in (Advice.SLOW_DOWN, Advice.SPEED_UP):
                    phase = action.stream_id * GOLDEN_RATIO % 1
                    self._paces[action.stream_id].advised(now_ns, action.period_ns, phase)

    def _thinned(self, now_ns: int, index: int, stream_id: int) -> bool:
        """Whether the stream keeps the frame back."""
        pace = self._paces[stream_id]
        if pace.due(now_ns):
            pace.sent(now_ns)
            return False
        self._status[index] = OutcomeStatus.SUPERSEDED
        self._resolved_ns[index] = now_ns
        self._unresolved -= 1
        return True

    def _start(self, now_ns: int, action: DispatchBatch | WarmLane, size: int, planned_ns: int) -> None:
        lane = action.lane
        if lane in self._on_lane:
            raise RuntimeError(f"{now_ns}: batch {action.batch_id} was dispatched to {lane}, which is busy")
        batches = self._batches
        self._on_lane[lane] = (action.batch_id, len(batches.size))
        batches.lane.append(lane)
        batches.model.append(action.model)
        batches.variant.append(action.variant)
        batches.size.append(size)
        batches.planned_ns.append(planned_ns)
        batches.started_ns.append(now_ns)
        batches.ended_ns.append(-1)
        duration_ns = self._service.duration_ns(now_ns, lane, action.model, action.variant, max(1, size))
        if duration_ns is not None:
            heappush(self._ends, (now_ns + duration_ns, action.batch_id, lane))

    def _gone(self, event: LaneDown | ModelGone) -> None:
        for lane, (_, index) in list(self._on_lane.items()):
            if isinstance(event, LaneDown):
                gone = lane == event.lane
            else:
                gone = event.lane in (None, lane) and self._batches.model[index] == event.model
            if gone:
                del self._on_lane[lane]
