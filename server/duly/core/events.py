"""What goes into the scheduler and what comes out of it: its whole contract.

    actions = scheduler.step(now_ns, event)

Events are facts that the host reports; actions are what the host must do. Both are plain data, so that a log of
(now, event) replays bit for bit.
"""

from dataclasses import dataclass, field
from enum import IntEnum

from duly.core.types import Frame, OutcomeStatus, StreamTerms

# ---- events ----


@dataclass(slots=True)
class StreamOpened:
    stream_id: int
    terms: StreamTerms


@dataclass(slots=True)
class StreamClosed:
    """The client is gone. Its waiting frames are CANCELLED at once, those that run when their batch ends."""

    stream_id: int


@dataclass(slots=True)
class FramesArrived:
    """One or more frames arrived, in this order. All are taken in before a lane is given away, so that they may share a
    batch.
    """

    frames: list[Frame]


@dataclass(slots=True)
class FrameRefused:
    """The host answered a frame itself (malformed, over a quota), which leaves a gap in a stateful stream."""

    stream_id: int
    captured_ns: int | None = None
    """Only for streams of fusion groups: when it was captured, as `Frame.captured_ns`. The state of a group misses
    nothing by it, as it was joined with nothing."""


@dataclass(slots=True)
class FramesCancelled:
    stream_id: int
    frame_ids: tuple[int, ...]


@dataclass(slots=True)
class WaitingEvicted:
    """The host needs the memory of the stream's waiting frames for more critical ones. All of them are SHED."""

    stream_id: int


@dataclass(slots=True)
class FrameRead:
    """The host has read a frame beside the lanes, as it was told to (`ReadApart`), or cannot."""

    stream_id: int
    frame_id: int
    extra_ns: int = 0
    """How much longer than a usual frame it is planned to take now."""
    invalid: str = ""
    """Why the frame cannot be read, where that is so."""
    failed: str = ""
    """Why reading it has failed, where that is so."""


@dataclass(slots=True)
class FramesTurnedOut:
    """Frames of one stream and model that were answered ON_TIME turned out otherwise when they were handed over: too
    late for the transport, outrun by a newer result, or read by nobody.
    """

    stream_id: int
    model: str
    frames: int
    """How many frames turned out so."""
    status: OutcomeStatus
    """What the client got instead."""
    missed: bool
    """Whether that counts as a miss (`fates`); if not, the frames count as no hits either."""


@dataclass(slots=True)
class BatchFinished:
    batch_id: int
    invalid: dict[int, str] = field(default_factory=dict)
    """Frames (by seq) that the worker could not decode or accept, with the reason."""
    failed: dict[int, str] = field(default_factory=dict)
    """Frames (by seq) on which the model alone failed, with the reason."""
    finished_ns: int | None = None
    """When the worker was done with the batch; None: at the event's own time. What the profile learns must not include
    how late the host looked."""
    extra_ns: int = 0
    """How much of its time went into frames that are larger than usual; -1: not known, so that the batch says nothing
    about usual frames."""


@dataclass(slots=True)
class BatchFailed:
    """The whole batch is lost; every frame of it is FAILED with `reason`."""

    batch_id: int
    reason: str


@dataclass(slots=True)
class LaneUp:
    lane: str


@dataclass(slots=True)
class LaneDown:
    """The device is gone with whatever ran on it."""

    lane: str
    reason: str


@dataclass(slots=True)
class ModelReady:
    """A worker for one variant of the model is warm on a lane."""

    model: str
    lane: str
    variant: str
    samples_ns: dict[int, tuple[int, ...]]
    """Execution times measured at warm-up by batch size; its keys are the sizes that the engine takes."""
    any_size: bool
    """True where any size up to the largest key may run; False where only the keys may (fixed engines are padded)."""
    stateful: bool = False
    rank: int = 0
    """Place of the variant among those of its model, 0 the most accurate; less accurate ones are faster."""
    warm_after_ns: int = 0
    """A lane that has been idle for this long is warmed again before frames come (WarmLane); 0: never."""
    state_layout: str = ""
    """What a worker keeps of each stream: versions with the same layout can go on with each other's state. Empty: no
    other version can."""
    takes_state: bool = False
    """Whether the model goes on with the state that another version of the same layout keeps of a stream."""


@dataclass(slots=True)
class ModelGone:
    """The model has no worker on `lane` any more, or is unloaded for good where `lane` is None, in all variants."""

    model: str
    lane: str | None
    reason: str
    back_ns: int = 0
    """By when another worker is expected on the lane; 0: nobody knows. A batch of several frames that ran there is not
    lost then: each frame that has the time waits again, and runs alone."""
    innocent: bool = False
    """Whether no frame can be to blame, as the device was lost: one that ran alone waits again then, too, but once."""


@dataclass(slots=True)
class BatchSizesLimited:
    """There is not enough memory on the lane for larger batches of the variant. It holds until its next ModelReady."""

    model: str
    lane: str
    variant: str
    size_max: int
    """The largest size that runs, one of those of ModelReady; the next smaller one counts where it is none."""


@dataclass(slots=True)
class TimerFired:
    pass


@dataclass(slots=True)
class DrainRequested:
    """The server takes nothing new. What waits may still run until `until_ns`; then the rest is SHED."""

    until_ns: int


Event = (
    StreamOpened
    | StreamClosed
    | FramesArrived
    | FrameRefused
    | FramesCancelled
    | WaitingEvicted
    | FrameRead
    | FramesTurnedOut
    | BatchFinished
    | BatchFailed
    | LaneUp
    | LaneDown
    | ModelReady
    | ModelGone
    | BatchSizesLimited
    | TimerFired
    | DrainRequested
)

# ---- actions ----


@dataclass(slots=True)
class DispatchBatch:
    """Run `frames` (in this order) as one batch of `model` on `lane`, now."""

    batch_id: int
    lane: str
    model: str
    variant: str
    frames: list[Frame]
    planned_ns: int
    resets_state: tuple[int, ...] = ()
    """Frames (by seq) with which the state of their stream starts anew."""
    moves_state: tuple[tuple[int, str, str], ...] = ()
    """Frames (by seq) whose stream's state another version keeps, with that model and its lane: its worker must hand
    the state over first. Where it does not, the state starts anew, or, under SKIP, the frame must be FAILED."""


@dataclass(slots=True)
class WarmLane:
    """Run a batch of one on zeros: the lane has been idle, and an idle device is slow at first. It ends as other
    batches do, with BatchFinished or BatchFailed.
    """

    batch_id: int
    lane: str
    model: str
    variant: str


@dataclass(slots=True)
class ReadApart:
    """Read the frame (decode its pictures) beside the lanes, since more critical streams leave no gap in which a lane
    could. It waits until `FrameRead`, and may be answered before.
    """

    frame: Frame


@dataclass(slots=True, init=False)
class ResolveFrame:
    """The one terminal answer to a frame. `batch_size` is 0 if the frame never ran."""

    frame: Frame
    """The answer to a JointFrame is that to each of its pieces."""
    status: OutcomeStatus
    reason: str
    batch_id: int = 0
    batch_size: int = 0

    # Written out, as a constructor that a dataclass makes is never compiled.
    def __init__(
        self, frame: Frame, status: OutcomeStatus, reason: str, batch_id: int = 0, batch_size: int = 0
    ) -> None:
        self.frame = frame
        self.status = status
        self.reason = reason
        self.batch_id = batch_id
        self.batch_size = batch_size


class Advice(IntEnum):
    """What a client is advised of. The numbers are those of `StreamAdvice.Kind` on the wire."""

    SLOW_DOWN = 1
    SPEED_UP = 2
    DRAINING = 3
    VERSION_CHANGED = 4


@dataclass(slots=True)
class AdviseStream:
    stream_id: int
    advice: Advice
    reason: str
    period_ns: int = 0


# ---- what may come next ----


@dataclass(slots=True)
class Foreseen:
    """What a lane that is busy would run next if nothing happened until it is free. It is a hint, so that the host may
    prepare the batch, and says nothing of what will be dispatched.
    """

    lane: str
    model: str
    variant: str
    frames: list[Frame]
    full: bool
    """Whether there is no room for more frames; else those that come now may join it."""


Action = DispatchBatch | WarmLane | ReadApart | ResolveFrame | AdviseStream
