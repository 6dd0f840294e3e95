"""Every way in which a frame can end: one table, on which the code runs and from which the picture in the docs is made.

A frame is in one of five states. Each thing that can happen to it there is a row: the state, the cause, the status that
the client gets, the words that come with the status, and whether the row counts as a miss.

    at the door --> arriving --> waiting --> running --> answered --> the client
    (the host)      (the scheduler: one ResolveFrame)    (the host)

The host answers a frame at the door itself, and the scheduler never hears of that frame. The scheduler answers each
frame that arrives, waits or runs exactly once. An answer is on its way until the transport has it. On that way only a
result can still turn out otherwise, which the host reports to the scheduler (`FramesTurnedOut`).

A miss is what the lanes could have prevented. Misses raise what the next frames of the stream are worth (`merit`), put
CRITICAL frames under overload's rules and make models change to a faster variant. A frame that was hopeless when it
came is no miss, and neither is one whose client withdrew it or does not read.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from duly.core.types import OutcomeStatus as Status
from duly.core.types import in_ms

RESULTS: Final = (Status.ON_TIME, Status.LATE)
"""Outcomes that have outputs. Any other leaves a gap in the state of a stateful stream."""


class State(Enum):
    """Where a frame is. The values are words for the docs."""

    AT_THE_DOOR = "at the door"
    ARRIVING = "arriving"
    WAITING = "waiting"
    RUNNING = "running"
    ANSWERED = "answered"


@dataclass(frozen=True, slots=True)
class Fate:
    """One row of the table."""

    state: State
    cause: str
    """What happens, in a few words for the docs."""
    status: Status
    wording: str = "{reason}"
    """The reason that the client reads, with names where something is filled in. `{reason}` alone stands for the host's
    own words."""
    missed: bool = False

    def says(self, **words: object) -> str:
        """Returns the wording with these words filled in."""
        return self.wording.format(**words)


FATES: Final[list[Fate]] = []
"""All rows, in order."""


def _row(state: State, cause: str, status: Status, wording: str = "{reason}", *, missed: bool = False) -> Fate:
    fate = Fate(state, cause, status, wording, missed)
    FATES.append(fate)
    return fate


# ---- at the door: the host answers, the scheduler never hears of the frame ----

DOES_NOT_FIT: Final = _row(State.AT_THE_DOOR, "its inputs or its budget do not fit", Status.INVALID)
OVER_BYTES: Final = _row(
    State.AT_THE_DOOR,
    "its stream holds too many bytes",
    Status.SHED,
    "more than {bytes_max} bytes of the stream are unanswered",
)
PRINCIPAL_OVER_BYTES: Final = _row(
    State.AT_THE_DOOR,
    "its principal holds too many bytes",
    Status.SHED,
    "more than {bytes_max} bytes of the principal's streams are unanswered",
)
OVER_QUOTA_FRAMES: Final = _row(
    State.AT_THE_DOOR,
    "its principal sends more frames than its quota",
    Status.SHED,
    "the principal's quota is {frames_max:g} frames a second (frames_per_s_max)",
)
OVER_QUOTA_BYTES: Final = _row(
    State.AT_THE_DOOR,
    "its principal sends more bytes than its quota",
    Status.SHED,
    "the principal's quota is {bytes_max:g} bytes a second (bytes_per_s_max)",
)
OVER_QUOTA_LANE: Final = _row(
    State.AT_THE_DOOR,
    "its principal has had its share of lane time",
    Status.SHED,
    "the principal's quota is {share:.0%} of all lane time (lane_share_max)",
)
MEMORY_FULL: Final = _row(
    State.AT_THE_DOOR, "the server holds too many bytes", Status.SHED, "the server's memory for payloads is full"
)
VERSION_NOT_SERVED: Final = _row(State.AT_THE_DOOR, "its model version can't be served", Status.FAILED)
STREAM_BARRED: Final = _row(
    State.AT_THE_DOOR,
    "workers die of frames of its stream",
    Status.FAILED,
    "the model's workers died of frames of this stream; none is run for now",
)
PRINCIPAL_BARRED: Final = _row(
    State.AT_THE_DOOR,
    "workers die of frames of several streams of its principal",
    Status.FAILED,
    "the model's workers died of frames of several streams of this client; its new streams run none for now",
)

# ---- arriving ----

CAME_AFTER_CLOSE: Final = _row(State.ARRIVING, "its stream is closed", Status.CANCELLED, "its stream is closed")
CAME_WHILE_DRAINING: Final = _row(State.ARRIVING, "the server drains", Status.SHED, "the server is draining")
MODEL_NOT_LOADED: Final = _row(State.ARRIVING, "its model is not loaded", Status.FAILED, "model {model} is not loaded")
OVER_CREDIT: Final = _row(
    State.ARRIVING,
    "its stream is over its credit",
    Status.SHED,
    "more than {frames_max} frames of the stream are unanswered",
)
BEHIND_GAP: Final = _row(
    State.ARRIVING,
    "the state of its stream misses a frame",
    Status.SKIPPED,
    "the state of its stream misses a frame or is lost; open a new stream",
)
CAME_PAST_DEADLINE: Final = _row(
    State.ARRIVING, "its deadline had passed", Status.EXPIRED, "its deadline had passed {late} before it came"
)
CAME_TOO_LATE: Final = _row(
    State.ARRIVING,
    "too little of its budget is left",
    Status.EXPIRED,
    "came with {left} left of its budget, {needed} needed",
)

NO_PARTNER_STREAM: Final = _row(
    State.ARRIVING,
    "no stream gives another input of its fusion group",
    Status.EXPIRED,
    "no stream gives input {missing} of fusion group {group}",
)

# ---- waiting ----

SUPERSEDED: Final = _row(
    State.WAITING, "a newer frame of its stream comes", Status.SUPERSEDED, "frame {newer} took its place", missed=True
)
JOINT_SUPERSEDED: Final = _row(
    State.WAITING,
    "a newer joint frame of its fusion group comes",
    Status.SUPERSEDED,
    "a newer joint frame of its fusion group took its place",
    missed=True,
)
OUTRUN_BEFORE_JOINED: Final = _row(
    State.WAITING,
    "a newer frame of its stream comes (NEWEST), or is joined, before a partner",
    Status.SUPERSEDED,
    "frame {newer} took its place before a frame of input {missing} came that fits it",
)
PARTNER_PASSED: Final = _row(
    State.WAITING,
    "the frames of a partner have gone past it",
    Status.EXPIRED,
    "no frame of input {missing} fits it: {frame} was captured {apart} after it, {tolerance} are tolerated",
)
PARTNER_LATE: Final = _row(
    State.WAITING,
    "its latest start has passed, no partner came",
    Status.EXPIRED,
    "waited {waited} for a frame of input {missing}; less than the {needed} needed were left",
)
PARTNER_CLOSED: Final = _row(
    State.WAITING,
    "the stream of a partner closes",
    Status.EXPIRED,
    "the stream that gave input {missing} closed",
)
PARTNER_WITHDRAWN: Final = _row(
    State.WAITING,
    "the client withdraws a partner that it was joined with",
    Status.EXPIRED,
    "frame {frame} of input {missing}, with which it was joined, was withdrawn",
)
PARTNER_ON_OTHER_VERSION: Final = _row(
    State.WAITING,
    "the frames of its partners are for another version",
    Status.EXPIRED,
    "no frame of input {missing} came before the fusion group went on with {model}",
)
PARTNER_NOT_TAKEN: Final = _row(
    State.WAITING,
    "the server drains, so that no partner comes",
    Status.SHED,
    "the server is draining, and takes no frame of input {missing} any more",
)
GAVE_WAY: Final = _row(
    State.WAITING,
    "its latest start has passed, more critical frames ran",
    Status.SHED,
    "overload: the lane was given to more critical frames",
    missed=True,
)
PASSED_OVER: Final = _row(
    State.WAITING,
    "its latest start has passed, a better batch ran",
    Status.SHED,
    "overload: passed over for a batch that serves more",
    missed=True,
)
WOULD_BLOCK: Final = _row(
    State.WAITING,
    "it is large, and more critical streams left no gap for it",
    Status.SHED,
    "it is large, and planned to take {needed}; more critical streams left no such gap",
)
NOT_READABLE_APART: Final = _row(State.WAITING, "it is read beside the lanes, and cannot be", Status.INVALID)
READING_FAILED: Final = _row(State.WAITING, "reading it beside the lanes fails", Status.FAILED)
UNSERVED: Final = _row(
    State.WAITING,
    "its latest start has passed, no lane serves its model",
    Status.EXPIRED,
    "waited {waited} while no lane served its model",
    missed=True,
)
WAITED_TOO_LONG: Final = _row(
    State.WAITING,
    "its latest start has passed",
    Status.EXPIRED,
    "waited {waited} for a lane; less than the {needed} needed were left",
    missed=True,
)
UNPROMISED: Final = _row(
    State.WAITING,
    "its latest start has passed, and it came faster than its stream stated",
    Status.SHED,
    "came faster than the stream's stated period of {period}, so that it counted as BEST_EFFORT",
)
WITHDRAWN: Final = _row(State.WAITING, "the client withdraws it", Status.CANCELLED, "withdrawn by the client")
CLOSED_WAITING: Final = _row(State.WAITING, "its stream closes", Status.CANCELLED, "its stream closed")
GAP_BEFORE: Final = _row(
    State.WAITING, "a frame before it did not run, or its state is lost", Status.SKIPPED, BEHIND_GAP.wording
)
EVICTED: Final = _row(
    State.WAITING,
    "more critical frames need its memory",
    Status.SHED,
    "overload: its memory was needed for more critical frames",
)
MODEL_UNLOADED: Final = _row(State.WAITING, "its model is unloaded", Status.FAILED)
DRAIN_OVER: Final = _row(State.WAITING, "the drain is over", Status.SHED, "the server stopped before its turn")

# ---- in spare time: frames of the server's own, of which no client hears ----

SPARE_STATE: Final = _row(
    State.ARRIVING,
    "it is for spare time alone, and its model keeps state",
    Status.FAILED,
    "its model keeps state, which a frame for spare time alone would tear",
)
SPARE_OUTRUN: Final = _row(
    State.WAITING,
    "it is for spare time alone, and a newer one comes",
    Status.SUPERSEDED,
    "a newer frame took its place in spare time",
)
NO_SPARE_TIME: Final = _row(
    State.WAITING, "it is for spare time alone, and there was none", Status.SHED, "no lane had time to spare for it"
)

# ---- running ----

IN_TIME: Final = _row(State.RUNNING, "the batch ends in time", Status.ON_TIME, "")
RAN_LATE: Final = _row(
    State.RUNNING, "the batch ends past its deadline", Status.LATE, "it ran longer than planned", missed=True
)
NOT_READABLE: Final = _row(State.RUNNING, "the worker can't read it", Status.INVALID)
MODEL_FAILED: Final = _row(State.RUNNING, "the model fails on it", Status.FAILED)
CLOSED_RUNNING: Final = _row(State.RUNNING, "its stream has closed", Status.CANCELLED, "its stream closed")
BATCH_LOST: Final = _row(State.RUNNING, "its batch, worker or lane is lost", Status.FAILED)

# ---- answered: a result that turns out otherwise on its way to the client ----

SENT_LATE: Final = _row(
    State.ANSWERED, "it is sent past its deadline", Status.LATE, "it waited to be sent", missed=True
)
READ_LATE: Final = _row(
    State.ANSWERED,
    "its client was slow to read",
    Status.LATE,
    "it waited for the client to read what was sent before",
)
OUTRUN: Final = _row(
    State.ANSWERED,
    "a newer result was delivered first (MONOTONIC)",
    Status.SUPERSEDED,
    "the result of the newer frame {newer} was delivered first",
    missed=True,
)
UNREAD_BYTES: Final = _row(
    State.ANSWERED,
    "results that its client has not read hold too many bytes",
    Status.SHED,
    "more than {bytes_max} bytes of results wait for the client to read them",
)
UNREAD: Final = _row(State.ANSWERED, "its client is gone", Status.CANCELLED, "its client is gone")


def of_doomed(
    now_ns: int, deadline_ns: int, arrived_ns: int, planned_ns: int, outranked_ns: int, passed_over_ns: int
) -> tuple[Fate, str]:
    """Returns the fate of a frame that no lane can serve in time any more, and the reason for its client.

    SHED says that lanes which could have run the frame were given to others while it waited. EXPIRED says that this
    frame could not be met: it came late, its budget is small, or earlier deadlines filled the lane.

    `planned_ns`: how long a batch of one is planned to take, 0 where no lane serves the model. `outranked_ns`: when a
    lane of the variant last began a batch of more critical frames instead. `passed_over_ns`: when one last began a
    batch that was the better choice under overload.
    """
    if now_ns > arrived_ns:
        if outranked_ns >= arrived_ns:
            return GAVE_WAY, GAVE_WAY.wording
        if passed_over_ns >= arrived_ns:
            return PASSED_OVER, PASSED_OVER.wording
        waited = in_ms(now_ns - arrived_ns)
        if planned_ns == 0:
            return UNSERVED, UNSERVED.says(waited=waited)
        return WAITED_TOO_LONG, WAITED_TOO_LONG.says(waited=waited, needed=in_ms(planned_ns))
    slack_ns = deadline_ns - now_ns
    if slack_ns <= 0:
        return CAME_PAST_DEADLINE, CAME_PAST_DEADLINE.says(late=in_ms(-slack_ns))
    return CAME_TOO_LATE, CAME_TOO_LATE.says(left=in_ms(slack_ns), needed=in_ms(planned_ns))
