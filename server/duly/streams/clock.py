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
