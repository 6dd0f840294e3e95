"""What is kept of each stream, model, variant, lane and running batch. Plain records: `ledger` changes streams and
queues, `lanes` lanes, `model_table` models and profiles; the rest are the scheduler's notes.
"""

from duly.core.dispatch.merit import Merit
from duly.core.timing.arrival_rate import ArrivalGap
from duly.core.timing.lane_speed import LaneSpeed
from duly.core.timing.profile import Profile
from duly.core.types import StreamClass, StreamTerms
from duly.core.variants.ladder import VariantControl
from duly.core.waiting import Entry, QueuedFrame, WaitingFrames


class StreamPace:
    """How often a stream sends, and how often it was told to."""

    __slots__ = (
        "arrived",
        "demand",
        "follows",
        "missed",
        "natural",
        "period_ns",
        "rate",
        "served",
        "slowed",
        "told_ns",
    )

    def __init__(self) -> None:
        self.arrived = 0
        """Frames that came in this window of `advice`."""
        self.served = 0
        """Frames that were on time since the last tick of `advice`."""
        self.missed = 0
        """Frames since that tick that were missed, or were over the stream's credit."""
        self.rate = -1.0
        """Frames a second that come; -1: no window has ended since the stream was last told anything."""
        self.natural = 0.0
        """Frames a second that came when nothing held the stream back."""
        self.demand = 0.0
        """Frames a second that would come if the stream might send as it likes."""
        self.period_ns = 0
        """The shortest period that the stream was told; 0: it may send as it likes."""
        self.told_ns = -1
        """When the stream was last told a period; -1: never."""
        self.follows = False
        """Whether the stream was told a period and sends no more often."""
        self.slowed = False
        """Whether the last advice was to slow down."""


class StreamState:
    __slots__ = (
        "arrived_ns",
        "gap",
        "home",
        "merit",
        "model",
        "pace",
        "running",
        "state_lost",
        "supersedable",
        "terms",
        "unanswered",
        "waiting",
    )

    def __init__(self, terms: StreamTerms) -> None:
        self.terms = terms
        self.model = terms.model
        """That its last frame was for, as versions change under open streams."""
        self.waiting: dict[int, QueuedFrame] = {}
        """By frame id, oldest first."""
        self.supersedable = 0
        self.unanswered = 0
        self.running = 0
        self.arrived_ns = -1
        """When its last frame came; -1: none has."""
        self.merit = Merit(terms)
        self.pace = StreamPace()
        self.gap = False
        """Stateful: the next frame to come follows one that was not run."""
        self.home: tuple[str, str] | None = None
        """Stateful: model and lane that hold its state."""
        self.state_lost = False
        """Stateful: its home is gone since a frame last started."""

    def may_start(self, queued: QueuedFrame, lane: str) -> bool:
        """Stateful: whether the frame is the stream's next, and the lane has the stream's state or need not."""
        frame = queued.frame
        if self.running or next(iter(self.waiting), frame.frame_id) < frame.frame_id:
            return False
        return self.home is None or self.home[0] != frame.model or self.home[1] == lane


class LaneState:
    __slots__ = ("batch_id", "ended_ns", "idle_ns", "speed")

    def __init__(self, now_ns: int) -> None:
        self.batch_id: int | None = None
        """Batch that runs; None: the lane is free."""
        self.ended_ns = now_ns
        """When it last ran anything, or came up."""
        self.idle_ns = 0
        """How long the lane was idle in all before its last batch began."""
        self.speed = LaneSpeed()


class VariantState:
    """One variant of a model: what batches together."""

    __slots__ = (
        "arrivals",
        "longest_one_ns",
        "model",
        "name",
        "number",
        "passed_ns",
        "planned_one_ns",
        "preferred_ns",
        "probe_ns",
        "profiles",
        "rank",
        "stateful",
        "waiting",
        "warm_after_ns",
    )

    def __init__(self, model: str, name: str, rank: int, stateful: bool, number: int = 0) -> None:
        self.model = model
        self.name = name
        self.rank = rank
        self.stateful = stateful
        self.number = number
        """Of all variants in the order in which they came."""
        self.profiles: dict[str, Profile] = {}
        """By lane."""
        self.waiting = WaitingFrames()
        self.arrivals = ArrivalGap()
        self.planned_one_ns = 0
        """Batch of one on the fastest lane; 0: no lane serves the variant now."""
        self.longest_one_ns = 0
        """On the slowest."""
        self.probe_ns: dict[str, int] = {}
        """By lane: when it may next try a doomed frame against the plan."""
        self.preferred_ns = dict.fromkeys(StreamClass, -1)
        """By class: when a lane that could have run such a frame last began with a more critical one."""
        self.passed_ns = -1
        """When a lane that could have run a waiting frame last began with another one because of overload."""
        self.warm_after_ns = 0

    def plan(self) -> None:
        planned_ns = [profile.plan_ns[1] for profile in self.profiles.values()]
        self.planned_one_ns = min(planned_ns, default=0)
        self.longest_one_ns = max(planned_ns, default=0)

    def promised_one_ns(self) -> int:
        """Of a batch of one on whichever lane is slowest, by the longer of its plans in a row and after idle."""
        return max([profile.one_ns_max for profile in self.profiles.values()], default=0)

    def slowest_plan(self) -> tuple[int, ...]:
        """Planned times of batches of 1, 2, ... on whichever lane is slowest."""
        plans = [profile.plan_ns for profile in self.profiles.values()]
        return tuple(max(plan[size] for plan in plans) for size in range(1, min(map(len, plans))))

    def runnable(self, lane: str, streams: dict[int, StreamState]) -> list[list[Entry]]:
        """Its waiting frames by class as far as they may start on that lane."""
        if not self.stateful:
            return self.waiting.by_class
        return [
            [entry for entry in entries if streams[entry[2].frame.stream_id].may_start(entry[2], lane)]
            for entries in self.waiting.by_class
        ]


class ModelState:
    __slots__ = ("arrived", "control", "missed", "on_time", "only", "variants")

    def __init__(self) -> None:
        self.variants: dict[int, VariantState] = {}
        """By rank, the most accurate first."""
        self.only: VariantState | None = None
        """Where there is but one."""
        self.control = VariantControl(1)
        self.on_time = 0
        """Frames since the last tick of the control, as are the following."""
        self.missed = 0
        self.arrived = dict.fromkeys(StreamClass, 0)

    def add(self, variant: VariantState) -> None:
        self.variants[variant.rank] = variant
        self.variants = dict(sorted(self.variants.items()))
        self.only = variant if len(self.variants) == 1 else None
        self.control = VariantControl(max(self.variants) + 1)

    def served_from(self, rank: int, rank_max: int) -> list[VariantState]:
        """Variants that a lane serves now, of that rank or a less accurate one, up to `rank_max`; the best first."""
        return [variant for at, variant in self.variants.items() if rank <= at <= rank_max and variant.planned_one_ns]


class Batch:
    """Frames of one variant that run together: chosen by `dispatch`, numbered and sent on their way by `lanes`."""

    __slots__ = (
        "after_idle",
        "batch_id",
        "by_overload",
        "frames",
        "lane",
        "planned_ns",
        "probe",
        "started_ns",
        "variant",
    )

    def __init__(
        self,
        variant: VariantState,
        frames: list[QueuedFrame],
        planned_ns: int,
        *,
        by_overload: bool = False,
        probe: bool = False,
    ) -> None:
        self.variant = variant
        self.frames = frames
        """Empty where the lane is only warmed."""
        self.planned_ns = planned_ns
        self.by_overload = by_overload
        """Frames that were due earlier may have been passed over."""
        self.probe = probe
        """It is tried against its plan."""
        self.batch_id = 0
        """0 until it runs, as are the following."""
        self.lane = ""
        self.started_ns = 0
        self.after_idle = False
        """The lane had run nothing just before."""
