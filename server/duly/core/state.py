"""What the scheduler keeps of each stream, model and running batch. Plain records: every change is the scheduler's."""

from duly.core.events import DispatchBatch
from duly.core.profile import Profile
from duly.core.queue import WaitingFrames
from duly.core.types import Frame, StreamClass, StreamTerms


class StreamState:
    __slots__ = ("gap", "home", "running", "state_lost", "supersedable", "terms", "unanswered", "waiting")

    def __init__(self, terms: StreamTerms) -> None:
        self.terms = terms
        self.waiting: dict[int, Frame] = {}
        """By frame id, oldest first."""
        self.supersedable = 0
        self.unanswered = 0
        self.running = 0
        self.gap = False
        """Stateful: the next frame to come follows one that was not run."""
        self.home: tuple[str, str] | None = None
        """Stateful: model and lane that hold its state."""
        self.state_lost = False
        """Stateful: its home is gone since a frame last started."""


class ModelState:
    __slots__ = ("planned_one_ns", "preferred_ns", "probe_ns", "profiles", "stateful", "variant", "waiting")

    def __init__(self, variant: str, stateful: bool) -> None:
        self.variant = variant
        self.stateful = stateful
        self.profiles: dict[str, Profile] = {}
        """By lane."""
        self.waiting = WaitingFrames()
        self.planned_one_ns = 0
        """Batch of one on the fastest lane; 0: no lane serves the model now."""
        self.probe_ns: dict[str, int] = {}
        """By lane: when it may next try a doomed frame against the plan."""
        self.preferred_ns = dict.fromkeys(StreamClass, -1)
        """By class: when a lane that could have run such a frame last began with a more critical one."""

    def plan(self) -> None:
        planned_ns = [profile.planned_ns(1) for profile in self.profiles.values()]
        self.planned_one_ns = min(planned_ns) if planned_ns else 0


class RunningBatch:
    __slots__ = ("action", "model", "probe", "started_ns")

    def __init__(self, action: DispatchBatch, model: ModelState, started_ns: int, probe: bool) -> None:
        self.action = action
        self.model = model
        self.started_ns = started_ns
        self.probe = probe
