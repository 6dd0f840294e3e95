"""The lane time that BEST_EFFORT gets at least, however much STANDARD asks for.

Theory. Strict precedence starves: a STANDARD overload would leave BEST_EFFORT nothing at all. A deficit counter
(deficit round robin: Shreedhar and Varghese, 1995) notes the lane time that BEST_EFFORT is owed while lanes work for
STANDARD. Once this share adds up to the next BEST_EFFORT batch, that batch goes first. The counter is bounded on both
sides, so that a class that asked for nothing for long can neither save up nor run up debts.

CRITICAL gives way to no class. It is bounded by admission instead, which leaves this share free.
"""

from duly.core.types import StreamClass

BEST_EFFORT_PERCENT = 5
"""The share of BEST_EFFORT in the lane time that it has together with STANDARD while both wait."""
DEFICIT_NS_MAX = 250_000_000
"""The most that can be owed, unless the next batch takes longer."""

STRICT = (StreamClass.CRITICAL, StreamClass.STANDARD, StreamClass.BEST_EFFORT)
GIVEN_WAY = (StreamClass.CRITICAL, StreamClass.BEST_EFFORT, StreamClass.STANDARD)


class ClassShares:
    __slots__ = ("_deficit_ns", "_due_ns")

    def __init__(self) -> None:
        self._deficit_ns = 0
        """Lane time owed to BEST_EFFORT."""
        self._due_ns = 0
        """Planned time of the next BEST_EFFORT batch."""

    def began(self, stream_class: StreamClass, planned_ns: int, best_effort_waits: bool) -> None:
        """Notes that a batch begins, whose most critical frame is of that class; `best_effort_waits`: frames of it
        wait.
        """
        if stream_class is StreamClass.STANDARD and best_effort_waits:
            owed_ns = planned_ns * BEST_EFFORT_PERCENT // (100 - BEST_EFFORT_PERCENT)
            self._deficit_ns = min(self._deficit_ns + owed_ns, max(DEFICIT_NS_MAX, self._due_ns))
        elif stream_class is StreamClass.BEST_EFFORT:
            self._deficit_ns = max(self._deficit_ns - planned_ns, 0)

    def copy(self) -> "ClassShares":
        other = ClassShares()
        other._deficit_ns, other._due_ns = self._deficit_ns, self._due_ns
        return other

    def order(self, planned_ns: int) -> tuple[StreamClass, ...]:
        """The classes in order of precedence; `planned_ns` is the planned time of the next BEST_EFFORT batch."""
        self._due_ns = planned_ns
        return GIVEN_WAY if self._deficit_ns >= planned_ns else STRICT
