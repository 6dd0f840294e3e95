"""How the clocks of a client and of the server relate, and what that says of the age of a frame."""

from dataclasses import dataclass

UNCERTAINTY_NS_MAX = 60 * 10**9
"""A clock known no better than this relates to nothing."""
AGE_NS_MAX = 10 * 365 * 86_400 * 10**9
"""Older frames count as being of this age: what is written must fit the wire's 64 bits."""


@dataclass(frozen=True, slots=True)
class ClockRelation:
    offset_ns: int
    """The server's wall clock minus the client's."""
    uncertainty_ns: int
    """How far the offset may be off, at most."""

    def capture_to_receipt_ns(self, captured_unix_ns: int, received_unix_ns: int) -> int:
        """The age of a frame at its receipt, whose capture the client stamped with its own clock.

        A capture in the future is the clocks' error, not a gift of time.
        """
        age_ns = received_unix_ns - captured_unix_ns - self.offset_ns
        return 0 if age_ns < 0 else min(age_ns, AGE_NS_MAX)
