"""The words of the scheduler: classes, policies, outcomes, frames and streams.

Times are integer nanoseconds on the server's monotonic clock. The numbers of the enumerations are those of the wire
protocol (`protos/duly/v1/inference.proto`), so that `rpc/codec` converts with a cast.
"""

from dataclasses import dataclass
from enum import IntEnum


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


class GapPolicy(IntEnum):
    """What a stateful stream does after a frame that was not run."""

    CONTINUE = 1
    RESET = 2
    SKIP = 3


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


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as the scheduler is told of it. The payload stays outside, under the same `seq`.

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
    """Never superseded by the backlog policy; its deadline holds all the same."""


VARIANT_RANK_ANY = 1 << 16


@dataclass(slots=True)
class StreamTerms:
    """What was agreed with a stream when it opened."""

    stream_class: StreamClass
    backlog: BacklogPolicy
    backlog_frames: int
    """KEEP_LAST: how many frames wait, at least 1. LATEST: 1. ALL: 0."""
    budget_ns: int
    """Default budget. The tightest of the most critical class bounds how long batches may block the lane, see
    `batch_caps`."""
    frames_in_flight_max: int
    """Unanswered frames beyond this are SHED."""
    gap: GapPolicy | None = None
    """None: the model keeps no state."""
    model: str = ""
    """Model version that its frames are for, as far as admission counts it; empty: not counted."""
    period_ns: int = 0
    """Expected time between frames; 0: not stated, so that admission can't count the stream."""
    variant_rank_max: int = VARIANT_RANK_ANY
    """Rank of the least accurate variant that may serve it, 0 the most accurate."""
    principal: str = ""
    """Whose stream it is: principals share what is left under overload."""
    floor_frames: int = 0
    """(m,k)-firm floor: this many (m) ..."""
    floor_window: int = 0
    """... of any so many consecutive frames (k) shall be on time; 0: no floor."""
    advise: bool = False
    """Whether it is told to slow down and that it may speed up (`advice`)."""


@dataclass(slots=True)
class StreamDemand:
    """One stream as admission counts it."""

    stream_id: int
    model: str
    stream_class: StreamClass
    period_ns: int
    """Time between frames; 0: not stated, not counted."""
    budget_ns: int
    phase_ns: int = -1
    """Offset of its next frame after now where measured; -1: unknown."""
    variant_rank_max: int = VARIANT_RANK_ANY
    backlog: BacklogPolicy = BacklogPolicy.ALL


@dataclass(slots=True)
class ModelPlan:
    """Planned times of one model on the lanes that serve it."""

    model: str
    lanes: tuple[str, ...]
    ranks: tuple[tuple[int, ...], ...]
    """By variant rank: planned ns of batches of 1, 2, ...; those of the slowest lane, never shorter for larger ones."""
    promised_one_ns: int = 0
    """What a batch of one of the most accurate variant is promised by, if longer: its lane may have been idle."""


@dataclass(slots=True)
class Verdict:
    accepted: bool
    reason: str
    utilisation: float
    """Of the fullest lanes, by the candidate and all streams as critical as it or more; 1 is full."""
    predicted_latency_ns: int
    """Of a frame of the candidate, from arrival to result, at worst where the lanes come round as often as they can."""
    counter_period_ns: int = 0
    """Shortest period, else as asked, that would be accepted; 0: none."""
    counter_budget_ns: int = 0
    """Smallest budget that would; 0: none."""
    counter_rank: int = -1
    """Rank of the most accurate variant that would; -1: none."""
    final: bool = False
    """A refusal that no rollout may overturn: a frame can't be served at all, or a promise would be broken."""
