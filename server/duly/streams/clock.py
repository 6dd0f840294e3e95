"""How the clocks of a client and of the server relate, which gives the age of a frame."""

from dataclasses import dataclass

UNCERTAINTY_NS_MAX = 60 * 10**9
"""The largest uncertainty of a clock that is accepted. A clock that is known less well relates to nothing."""
AGE_NS_MAX = 10 * 365 * 86_400 * 10**9
"""Older frames count as this old, because ages must fit the wire's 64 bits."""


@dataclass(frozen=True, slots=True)
class ClockRelation:
    offset_ns: int
    """The server's wall clock minus the client's."""
    uncertainty_ns: int
    """How far the offset may be off, at most."""

    def capture_to_receipt_ns(self, captured_unix_ns: int, received_unix_ns: int) -> int:
        """Returns the age of a frame at its receipt; the client stamped its capture with its own clock.

        A capture in the future is an error of the clocks, so that the frame's age is 0.
        """
        age_ns = received_unix_ns - captured_unix_ns - self.offset_ns
        return 0 if age_ns < 0 else min(age_ns, AGE_NS_MAX)


FAR_OFF_NS, FAR_OFF_BUDGETS = 60 * 10**9, 10
"""No frame is older than this and so many budgets when it comes, unless its link or its client stood still."""
FAR_OFF_FRAMES, FAR_OFF_LAST_NS = 8, 10**9
"""So many frames in a row, over so long, are far too old only where the clocks are not related as the client says: what
a link or a client had held back comes at once."""


class FarOff:
    """Finds out that frames of a stream are far too old for ever, because what its client says of the clocks is wrong,
    or because the capture times are those of an old recording. They then count as fresh, as those of unrelated clocks
    do, until one comes whose age makes sense.
    """

    __slots__ = ("_frames", "_since_ns")

    def __init__(self) -> None:
        self._frames = 0
        self._since_ns = 0

    def unrelated(self, now_ns: int, age_ns: int, budget_ns: int) -> bool:
        """Takes the age of the next frame. Returns whether it says nothing."""
        if age_ns <= FAR_OFF_NS + FAR_OFF_BUDGETS * budget_ns:
            self._frames = 0
            return False
        if not self._frames:
            self._since_ns = now_ns
        self._frames += 1
        return self._frames > FAR_OFF_FRAMES and now_ns - self._since_ns > FAR_OFF_LAST_NS
