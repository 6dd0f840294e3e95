"""The records of streams, variants, lanes and running batches. They are plain records: `ledger` changes streams
and queues, `lanes` lanes, and `model_table` models and profiles; the rest are the scheduler's notes.
"""

from duly.core.merit import Merit
from duly.core.policing import Policer
from duly.core.timing.arrival_rate import ArrivalGap
from duly.core.timing.lane_speed import LaneSpeed
from duly.core.timing.profile import Profile
from duly.core.types import StreamClass, StreamTerms
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
        "extra_ns",
        "gap",
        "home",
        "home_layout",
        "left_ns",
        "merit",
        "model",
        "pace",
        "policer",
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
        """The model that the last frame was for, as versions change under open streams."""
        self.waiting: dict[int, QueuedFrame] = {}
        """Waiting frames, oldest first; keys are frame ids."""
        self.supersedable = 0
        self.unanswered = 0
        self.running = 0
        self.arrived_ns = -1
        """When the last frame arrived; -1: none has."""
        self.left_ns = terms.budget_ns
        """What was left of the budget of the last frame when it arrived."""
        self.extra_ns = 0
        """What its frames take beyond usual ones of their model: the most of late."""
        self.merit = Merit(terms)
        self.pace = StreamPace()
        self.policer = Policer(terms)
        self.gap = False
        """Only for stateful models: whether the next frame to arrive follows one that was not run."""
        self.home: tuple[str, str] | None = None
        """Only for stateful models: the model and lane that hold the stream's state; None: none do."""
        self.home_layout = ""
        """The layout of the state there, see `ModelReady.state_layout`."""
        self.state_lost = False
        """Only for stateful models: whether the home has gone since a frame last started."""

    def may_start(self, queued: QueuedFrame, variant: "VariantState", lane: str) -> bool:
        """Only for stateful models: whether the frame, which is for that variant, is the stream's next, and the lane
        has or needs no state of the stream. State that another version hands over stays on its lane if it can, as the
        worker that has it is idle then.
        """
        frame = queued.frame
        if self.running or next(iter(self.waiting), frame.frame_id) < frame.frame_id:
            return False
        if self.home is None or self.home[1] == lane:
            return True
        return self.home[0] != frame.model and not (self.moves_to(variant) and self.home[1] in variant.profiles)

    def moves_to(self, variant: "VariantState") -> bool:
        """Only for stateful models: whether another version keeps the stream's state, and the variant takes it."""
        home = self.home
        return home is not None and home[0] != variant.model and variant.takes(self.home_layout)


class LaneState:
    __slots__ = ("batch_id", "ended_ns", "idle_ns", "speed")

    def __init__(self, now_ns: int) -> None:
        self.batch_id: int | None = None
        """Id of the batch that runs; None: the lane is free."""
        self.ended_ns = now_ns
        """When the last batch on the lane ended, or when the lane came up."""
        self.idle_ns = 0
        """How long the lane was idle in all before its last batch began."""
        self.speed = LaneSpeed()


class VariantState:
    """One variant of a model. Only frames of one variant share a batch."""

    __slots__ = (
        "arrivals",
        "model",
        "name",
        "number",
        "outranked_ns",
        "passed_over_ns",
        "probe_ns",
        "profiles",
        "rank",
        "single_plan_ns_max",
        "single_plan_ns_min",
        "state_layout",
        "stateful",
        "takes_state",
        "waiting",
        "warm_after_ns",
    )

    def __init__(self, model: str, name: str, rank: int, stateful: bool, number: int = 0) -> None:
        self.model = model
        self.name = name
        self.rank = rank
        self.stateful = stateful
        self.state_layout = ""
        self.takes_state = False
        self.number = number
        """Place of the variant in the order in which all variants came."""
        self.profiles: dict[str, Profile] = {}
        """Keys are lanes."""
        self.waiting = WaitingFrames()
        self.arrivals = ArrivalGap()
        self.single_plan_ns_min = 0
        """Planned time of a batch of one on the fastest lane; 0: no lane serves the variant now."""
        self.single_plan_ns_max = 0
        """Planned time of a batch of one on the slowest lane."""
        self.probe_ns: dict[str, int] = {}
        """When each lane may next run a doomed frame as a probe."""
        self.outranked_ns = dict.fromkeys(StreamClass, -1)
        """For each class, when a lane that could have run such a frame last began with a more critical one; -1: never.
        """
        self.passed_over_ns = -1
        """When a lane that could have run a waiting frame last chose another one because of overload; -1: never."""
        self.warm_after_ns = 0

    def takes(self, layout: str) -> bool:
        """Whether a stream goes on with state of that layout that another version has kept of it."""
        return self.takes_state and bool(layout) and layout == self.state_layout

    def plan(self) -> None:
        planned_ns = [profile.plan_ns[1] for profile in self.profiles.values()]
        self.single_plan_ns_min = min(planned_ns, default=0)
        self.single_plan_ns_max = max(planned_ns, default=0)

    def promised_one_ns(self) -> int:
        """Planned time of a batch of one on the slowest lane, by the longer of the plans in a row and after idle."""
        return max([profile.one_ns_max for profile in self.profiles.values()], default=0)

    def slowest_plan(self) -> tuple[int, ...]:
        """Planned times of batches of 1, 2, ..., each on the lane that is slowest for that size."""
        plans = [profile.plan_ns for profile in self.profiles.values()]
        return tuple(max(plan[size] for plan in plans) for size in range(1, min(map(len, plans))))

    def runnable(self, lane: str, streams: dict[int, StreamState]) -> list[list[Entry]]:
        """The waiting frames that may start on that lane, one list for each class."""
        if not self.stateful:
            return self.waiting.by_class
        return [
            [entry for entry in entries if streams[entry[2].frame.stream_id].may_start(entry[2], self, lane)]
            for entries in self.waiting.by_class
        ]


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
        "spare",
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
        spare: bool = False,
    ) -> None:
        self.variant = variant
        self.frames = frames
        """The frames of the batch; empty where the lane is only warmed."""
        self.planned_ns = planned_ns
        self.by_overload = by_overload
        """Whether frames that were due earlier may have been passed over."""
        self.probe = probe
        """Whether the batch is tried against its plan."""
        self.spare = spare
        """Whether it runs in spare time only (`spare_time`)."""
        self.batch_id = 0
        """0 until the batch runs; the fields below are set then, too."""
        self.lane = ""
        self.started_ns = 0
        self.after_idle = False
        """Whether the lane had run nothing just before."""
