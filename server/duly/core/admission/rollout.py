"""What would become of these streams: the scheduler itself, run ahead in virtual time.

Theory. Near the limit no formula knows how well batches fill for the phases at hand. So a separate scheduler is driven
through the horizon with periodic frames, in the measured phases or, where those are unknown, spread evenly. What it
does with them is what the real one will do if plans hold. Batches take their plan less its margin. Clockwork (OSDI'20)
admits by such a lookahead for each request; here it is done once for each stream.

The horizon is several of the largest budgets, as an overload shows only once its backlog has used them up. At high
rates the limit on frames shortens the horizon, possibly too much to show an overload; `formula` therefore refuses
finally what exceeds the lanes. Streams slower than the horizon send a frame only if their phase lies in it, which is
the share of them that sends in any time as long. The candidate always sends one.

`advance` does a bounded share of the work, so that an event loop is never held up.
"""

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush, heapreplace

from duly.core.backlog import frames_kept, takes_frames
from duly.core.events import (
    Action,
    BatchFinished,
    DispatchBatch,
    FramesArrived,
    LaneUp,
    ModelReady,
    ResolveFrame,
    StreamOpened,
    TimerFired,
)
from duly.core.fates import RESULTS
from duly.core.scheduler import Scheduler
from duly.core.timing.profile import MARGIN_PERCENT
from duly.core.types import Frame, ModelPlan, OutcomeStatus, StreamClass, StreamDemand, StreamTerms

HORIZON_NS_MIN = 2_000_000_000
HORIZON_BUDGETS = 4
FRAMES_MAX = 1_000
"""The most frames of one rollout; with 200 streams that takes about a tenth of a second."""
FRAMES_IN_FLIGHT_MAX = 1 << 20
"""A rollout does not limit what a stream may have unanswered; it is short."""
ON_TIME_RATIO_MIN = 0.999
"""The least ratio of on-time frames for a stream to open: its own, and that of its class and all more critical ones."""
NEVER_NS = 1 << 62
GOLDEN_RATIO = 0.6180339887498949
"""The multiples of this number modulo 1 are spread evenly, however many are taken."""


class Rollout:
    """A rollout of those `demands` that have a period, the candidate last, on the lanes that `models` names. All lanes
    are idle at first. `frames_max` bounds the number of frames, give or take one for each stream.
    """

    def __init__(
        self,
        demands: Sequence[StreamDemand],
        models: Mapping[str, ModelPlan],
        frames_max: int = FRAMES_MAX,
    ) -> None:
        self._models = models
        self._demands = {
            demand.stream_id: demand for demand in demands if demand.period_ns > 0 and demand.model in models
        }
        rate = sum(1 / demand.period_ns for demand in self._demands.values())
        budget_ns = max((demand.budget_ns for demand in self._demands.values()), default=0)
        horizon_ns = max(HORIZON_NS_MIN, HORIZON_BUDGETS * budget_ns)
        self._horizon_ns = max(1, min(horizon_ns, int(frames_max / rate))) if rate else 0
        self._scheduler = Scheduler()
        self._now_ns = 0
        self._seq = 0
        self._ends: list[tuple[int, int]] = []
        """A heap of (time, batch id): when running batches end."""
        self._sent: dict[int, int] = dict.fromkeys(self._demands, 0)
        self._arrived_ns: dict[int, int] = {}
        """When each frame without an outcome arrived; keys are `seq`."""
        self._latencies_ns: dict[int, list[int]] = {stream_id: [] for stream_id in self._demands}
        """Times from arrival to result of the frames that ran, for each stream."""
        self._on_time: dict[int, int] = dict.fromkeys(self._demands, 0)
        self._open()
        self._arrivals = self._first_arrivals()
        """A heap of (time, stream id): the next frame of each stream."""

    def advance(self, steps: int) -> bool:
        """Carries out up to `steps` events; True when there are no more."""
        for _ in range(steps):
            arrival_ns = self._arrivals[0][0] if self._arrivals else NEVER_NS
            end_ns = self._ends[0][0] if self._ends else NEVER_NS
            wake_ns = self._scheduler.next_wake_ns()
            next_ns = min(arrival_ns, end_ns)
            if next_ns == NEVER_NS and not self._arrived_ns:
                return True
            if wake_ns is not None and wake_ns < next_ns:
                self._now_ns = max(self._now_ns, wake_ns)
                self._carry_out(self._scheduler.step(self._now_ns, TimerFired()))
            elif next_ns == NEVER_NS:
                raise RuntimeError(f"{len(self._arrived_ns)} frames are left waiting and no time is named to go on")
            elif end_ns <= arrival_ns:
                self._now_ns, batch_id = heappop(self._ends)
                self._carry_out(self._scheduler.step(self._now_ns, BatchFinished(batch_id)))
            else:
                self._now_ns = arrival_ns
                self._carry_out(self._scheduler.step(arrival_ns, FramesArrived(self._due(arrival_ns))))
        return False

    def on_time_ratio(self, stream_class: StreamClass) -> float:
        """The share of frames on time so far, of that class and all more critical ones together; 1 where there are
        none.
        """
        counted = [stream_id for stream_id, demand in self._demands.items() if demand.stream_class <= stream_class]
        sent = sum(self._sent[stream_id] for stream_id in counted)
        return sum(self._on_time[stream_id] for stream_id in counted) / sent if sent else 1.0

    def own_ratio(self, stream_id: int) -> float:
        """The share of the stream's frames on time so far; 1 where it has sent none."""
        sent = self._sent.get(stream_id, 0)
        return self._on_time[stream_id] / sent if sent else 1.0

    def predicted_latency_ns(self, stream_id: int) -> int:
        """The p99 of the time from arrival to result over the stream's frames that ran; 0 where none did."""
        latencies_ns = sorted(self._latencies_ns.get(stream_id, []))
        return latencies_ns[(len(latencies_ns) - 1) * 99 // 100] if latencies_ns else 0

    def _open(self) -> None:
        for plan in self._models.values():
            for lane in plan.lanes:
                self._scheduler.step(0, LaneUp(lane))
        for plan in self._models.values():
            for rank, sizes_ns in enumerate(plan.ranks):
                samples_ns: dict[int, tuple[int, ...]] = {
                    size: (_without_margin_ns(sizes_ns, size),) for size in range(1, len(sizes_ns) + 1)
                }
                for lane in plan.lanes:
                    self._scheduler.step(0, ModelReady(plan.model, lane, str(rank), samples_ns, True, rank=rank))
        for demand in self._demands.values():
            terms = StreamTerms(
                demand.stream_class,
                demand.backlog,
                frames_kept(demand.backlog, int(takes_frames(demand.backlog))),
                demand.budget_ns,
                FRAMES_IN_FLIGHT_MAX,
                model=demand.model,
                period_ns=demand.period_ns,
                variant_rank_max=demand.variant_rank_max,
            )
            self._scheduler.step(0, StreamOpened(demand.stream_id, terms))

    def _first_arrivals(self) -> list[tuple[int, int]]:
        arrivals: list[tuple[int, int]] = []
        for nth, demand in enumerate(self._demands.values(), start=1):
            first_ns = demand.phase_ns
            if first_ns < 0:
                first_ns = int(nth * GOLDEN_RATIO % 1 * demand.period_ns)
            if nth == len(self._demands):
                first_ns %= self._horizon_ns
            if first_ns < self._horizon_ns:
                arrivals.append((first_ns, demand.stream_id))
        heapify(arrivals)
        return arrivals

    def _due(self, now_ns: int) -> list[Frame]:
        """The frames that arrive at this instant. The next arrivals of their streams go into the heap."""
        frames: list[Frame] = []
        while self._arrivals and self._arrivals[0][0] == now_ns:
            stream_id = self._arrivals[0][1]
            demand = self._demands[stream_id]
            self._seq += 1
            self._sent[stream_id] += 1
            self._arrived_ns[self._seq] = now_ns
            frames.append(Frame(self._seq, stream_id, self._sent[stream_id], demand.model, now_ns + demand.budget_ns))
            next_ns = now_ns + demand.period_ns
            if next_ns < self._horizon_ns:
                heapreplace(self._arrivals, (next_ns, stream_id))
            else:
                heappop(self._arrivals)
        return frames

    def _carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, DispatchBatch):
                sizes_ns = self._models[action.model].ranks[int(action.variant)]
                took_ns = _without_margin_ns(sizes_ns, len(action.frames))
                heappush(self._ends, (self._now_ns + took_ns, action.batch_id))
            elif isinstance(action, ResolveFrame):
                stream_id = action.frame.stream_id
                arrived_ns = self._arrived_ns.pop(action.frame.seq)
                if action.status in RESULTS:
                    self._latencies_ns[stream_id].append(self._now_ns - arrived_ns)
                if action.status is OutcomeStatus.ON_TIME:
                    self._on_time[stream_id] += 1


def _without_margin_ns(sizes_ns: Sequence[int], batch_size: int) -> int:
    """How long such a batch takes: its plan without the profile's margin, which the scheduler adds again."""
    return sizes_ns[batch_size - 1] * 100 // (100 + MARGIN_PERCENT)
