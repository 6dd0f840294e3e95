"""What became of a frame, as the one who sent it saw it."""

from enum import IntEnum


class FrameOutcome(IntEnum):
    """The first nine are the server's own words with its own numbers (`duly.core.types.OutcomeStatus`), but for in time
    and late, which the sender's clock decides; the others are what only a sender can know.
    """

    ON_TIME = 1
    LATE = 2
    EXPIRED = 3
    SUPERSEDED = 4
    SHED = 5
    SKIPPED = 6
    INVALID = 7
    CANCELLED = 8
    FAILED = 9
    REFUSED = 10
    """Its stream was not let in, so that it was never sent."""
    UNANSWERED = 11
    """It was sent, and nothing had come when the run was over."""
    UNSENT = 12
    """Its stream had ended, or took no more, before it could be sent."""
