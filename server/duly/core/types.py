"""The words of the scheduler: classes, policies, outcomes, frames and streams.

Times are integer nanoseconds on the server's monotonic clock. The numbers of the enumerations are those of the wire
protocol (`protos/duly/v1/inference.proto`), so that `rpc/codec` converts with a cast.
"""

from dataclasses import dataclass
from enum import IntEnum


def in_ms(duration_ns: int) -> str:
    """Writes a duration as reasons for people state it, such as `12.5 ms`."""
    return f"{duration_ns / 1e6:.4g} ms"


class StreamClass(IntEnum):
    """Criticality of a stream; the smaller number runs first."""

    CRITICAL = 1
    STANDARD = 2
    BEST_EFFORT = 3


class BacklogPolicy(IntEnum):
    """What waits while the model is busy."""

    LATEST = 1
    KEEP_LAST = 2
    ALL = 3


BACKLOG_FRAMES_MAX = 4096
"""The most frames that a stream may ask to keep."""


class GapPolicy(IntEnum):
    """What a stateful stream does after a frame that was not run."""

    CONTINUE = 1
    RESET = 2
    SKIP = 3


class FusionWait(IntEnum):
    """What a frame of a fusion group does until each other input of the model has a frame that fits it."""

    NEWEST = 1
    """One frame of each input waits, and a newer one of its stream takes its place."""
    EXACT = 2
    """It waits for frames with the very capture time that it has, by the clients' clocks."""
    WITHIN_DEADLINE = 3
    """It waits until it could not be in time any more, whatever else comes on its stream."""


class OutcomeStatus(IntEnum):
    """How a frame ended; see the outcome table of the protocol."""

    ON_TIME = 1
    LATE = 2
    EXPIRED = 3
    SUPERSEDED = 4
    SHED = 5
    SKIPPED = 6
    INVALID = 7
    CANCELLED = 8
    FAILED = 9


@dataclass(slots=True, init=False)
class Frame:
    """One frame as the scheduler knows it. The host keeps its payload, under the same `seq`.

    What the scheduler notes about it while it waits and runs stands in a `QueuedFrame`.
    """

    seq: int
    """Unique and rising over the whole server; breaks ties."""
    stream_id: int
    frame_id: int
    """The client's id; strictly increasing within the stream."""
    model: str
    """Model version that is to run it, `NAME/VERSION`."""
    deadline_ns: int
    must_run: bool = False
    """Whether newer frames of the stream never supersede it. Its deadline holds all the same."""
    alone: bool = False
    """Whether it must not share a batch, as it may be what workers die of."""
    extra_ns: int = 0
    """How much longer it is planned to take than a usual frame of its model, because it is larger."""
    apart_ns: int = 0
    """So much of that the host can do beside the lanes, before the frame runs (`ReadApart`)."""
    captured_ns: int = 0
    """Only for streams of fusion groups: when it was captured, on the server's monotonic clock, or, under EXACT, on its
    client's own."""
    untried: bool = False
    """Whether no frame near its size has run, so that `extra_ns` is a guess, which must not prevent its own correction.
    """

    # Written out, as a constructor that a dataclass makes is never compiled.
    def __init__(
        self,
        seq: int,
        stream_id: int,
        frame_id: int,
        model: str,
        deadline_ns: int,
        must_run: bool = False,
        alone: bool = False,
        extra_ns: int = 0,
        apart_ns: int = 0,
        captured_ns: int = 0,
        untried: bool = False,
    ) -> None:
        self.seq = seq
        self.stream_id = stream_id
        self.frame_id = frame_id
        self.model = model
        self.deadline_ns = deadline_ns
        self.must_run = must_run
        self.alone = alone
        self.extra_ns = extra_ns
        self.apart_ns = apart_ns
        self.captured_ns = captured_ns
        self.untried = untried


@dataclass(slots=True, init=False)
class JointFrame(Frame):
    """Frames of several streams that run as one. It belongs to the stream of their group, which numbers it, and its
    `seq` is that of the last of them. What becomes of it becomes of each of them.
    """

    pieces: tuple[Frame, ...] = ()
    """One frame for each input of the model, in its order."""

    def __init__(self, stream_id: int, frame_id: int, pieces: tuple[Frame, ...]) -> None:
        """It is due with the first of its pieces, and whatever is asked of one holds for all."""
        Frame.__init__(
            self,
            max([piece.seq for piece in pieces]),
            stream_id,
            frame_id,
            pieces[0].model,
            min([piece.deadline_ns for piece in pieces]),
            any([piece.must_run for piece in pieces]),
            any([piece.alone for piece in pieces]),
            sum([piece.extra_ns for piece in pieces]),
            0,
            min([piece.captured_ns for piece in pieces]),
            any([piece.untried for piece in pieces]),
        )
        self.pieces = pieces


def pieces_of(frame: Frame) -> tuple[Frame, ...]:
    """Returns the frames as they came of which this one is made: itself, unless it is a joint frame."""
    return frame.pieces if isinstance(frame, JointFrame) else (frame,)


def larger(frame: Frame, extra_ns: int, apart_ns: int = 0, *, untried: bool = False) -> Frame:
    """Returns the frame as one that is planned to take so much longer than a usual one, of which `apart_ns` can be done
    beside the lanes. `untried`: no frame near its size has run.
    """
    return Frame(
        frame.seq,
        frame.stream_id,
        frame.frame_id,
        frame.model,
        frame.deadline_ns,
        frame.must_run,
        frame.alone,
        extra_ns,
        apart_ns,
        frame.captured_ns,
        untried,
    )


VARIANT_RANK_ANY = 1 << 16
"""More than any rank, so that every variant may serve the stream."""


@dataclass(slots=True)
class Fusion:
    """How a stream is a member of a fusion group: its frames are joined with those of the others, by capture time."""

    group: int
    """Id of the group's stream, to which the joint frames belong. No client has it."""
    name: str
    """What the group is called, in reasons for people."""
    inputs: tuple[str, ...]
    """Names of the model's inputs, in its order. Each is given by one member."""
    place: int
    """Place in `inputs` of the one that this stream gives."""
    tolerance_ns: int
    """How far apart the capture times of frames that are joined may be."""
    wait: FusionWait


@dataclass(slots=True)
class StreamTerms:
    """What was agreed with a stream when it opened."""

    stream_class: StreamClass
    backlog: BacklogPolicy
    backlog_frames: int
    """How many frames may wait: at least 1 under KEEP_LAST, 1 under LATEST. It is 0 under ALL, where any number may."""
    budget_ns: int
    """Default budget of its frames. The smallest one in the most critical class bounds how long batches may block the
    lane, see `batch_caps`."""
    frames_in_flight_max: int
    """How many frames may be unanswered; those beyond are SHED."""
    gap: GapPolicy | None = None
    """None: the model keeps no state."""
    model: str = ""
    """Model version that admission counts the stream for; empty: it is not counted."""
    period_ns: int = 0
    """Expected time between frames; 0: not stated, so that admission cannot count the stream."""
    variant_rank_max: int = VARIANT_RANK_ANY
    """Rank of the least accurate variant that may serve it, 0 the most accurate."""
    principal: str = ""
    """Whose stream it is: principals share what is left under overload."""
    floor_frames: int = 0
    """The m of the (m,k)-firm floor: of any `floor_window` consecutive frames this many should be on time."""
    floor_window: int = 0
    """The k of the floor; 0: the stream has no floor."""
    advise: bool = False
    """Whether the stream is advised to slow down, and that it may speed up (`advice`)."""
    pinned: bool = False
    """Whether its client has named the version, so that it does not follow the active one."""
    policed: bool = False
    """Whether frames that come faster than `period_ns` count as BEST_EFFORT (`policing`)."""
    fusion: Fusion | None = None
    """None: its frames run as they come, each for itself."""
    spare: bool = False
    """Whether its frames run in spare time only (`spare_time`): nobody waits for them, and they delay nobody."""


@dataclass(slots=True)
class StreamDemand:
    """One stream as admission counts it."""

    stream_id: int
    model: str
    stream_class: StreamClass
    period_ns: int
    """Time between frames; 0: not stated, so that the stream is not counted."""
    budget_ns: int
    phase_ns: int = -1
    """Time from now to its next frame, where that was measured; -1: unknown."""
    variant_rank_max: int = VARIANT_RANK_ANY
    backlog: BacklogPolicy = BacklogPolicy.ALL
    pinned: bool = False
    """Whether it stays with this version of its model when another becomes active."""


@dataclass(slots=True)
class ModelPlan:
    """Planned times of one model on the lanes that serve it."""

    model: str
    lanes: tuple[str, ...]
    ranks: tuple[tuple[int, ...], ...]
    """By variant rank, the planned times of batches of 1, 2, ... on the slowest lane, in ns. A larger batch never has a
    shorter plan."""
    promised_one_ns: int = 0
    """Planned time of a batch of one of the most accurate variant by which CRITICAL streams are promised, if it is
    longer than the plan in `ranks`: the lane may have been idle before."""


@dataclass(slots=True)
class Verdict:
    """What admission finds of one stream, the candidate."""

    accepted: bool
    reason: str
    utilisation: float
    """How full the fullest lanes are with the candidate and all streams that are as critical or more; 1 is full."""
    predicted_latency_ns: int
    """Time from arrival to result of a frame of the candidate: the p99 of a rollout, or else the formula's worst case
    where the lanes come round as often as they can."""
    counter_period_ns: int = 0
    """Shortest period with which the stream would be accepted, all else as asked; 0: none."""
    counter_budget_ns: int = 0
    """Smallest budget with which it would be accepted; 0: none."""
    counter_rank: int = -1
    """Rank of the most accurate variant with which it would be accepted; -1: none."""
    counter_both_ns: tuple[int, int] = (0, 0)
    """Period and budget with which it would be accepted where neither alone would do; zeros: none."""
    final: bool = False
    """Whether no rollout may overturn the refusal: a frame can't be served at all, or a promise would be broken."""
