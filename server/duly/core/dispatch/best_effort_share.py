"""What a class gets at least, however much the classes above it ask for.

Theory. Strict precedence starves: a STANDARD overload would leave BEST_EFFORT nothing at all. Deficit counters (deficit
round robin: Shreedhar and Varghese, 1995) note the lane time that BEST_EFFORT waits for while lanes work for STANDARD;
once its share of that adds up to its next batch, the batch goes first. Bounded on both sides, so that a class that
asked for nothing for long can neither save up nor run up debts.

CRITICAL gives way to nobody: it is bounded at its door instead, by admission, which leaves this share free.
"""

from duly.core.types import StreamClass

BEST_EFFORT_PERCENT = 5
"""Of the lane time that STANDARD and BEST_EFFORT have together while both wait."""
DEFICIT_NS_MAX = 250_000_000
"""More can't be owed, unless the next batch takes longer."""

STRICT = (StreamClass.CRITICAL, StreamClass.STANDARD, StreamClass.BEST_EFFORT)
GIVEN_WAY = (StreamClass.CRITICAL, StreamClass.BEST_EFFORT, StreamClass.STANDARD)


class ClassShares:
    __slots__ = ("_deficit_ns", "_due_ns")

    def __init__(self) -> None:
        self._deficit_ns = 0
        """Lane time owed to BEST_EFFORT."""
        self._due_ns = 0
        """What its next batch takes."""

    def began(self, stream_class: StreamClass, planned_ns: int, best_effort_waits: bool) -> None:
        """A batch begins whose most critical frame is of that class, while frames of BEST_EFFORT wait or not."""
        if stream_class is StreamClass.STANDARD and best_effort_waits:
            owed_ns = planned_ns * BEST_EFFORT_PERCENT // (100 - BEST_EFFORT_PERCENT)
            self._deficit_ns = min(self._deficit_ns + owed_ns, max(DEFICIT_NS_MAX, self._due_ns))
        elif stream_class is StreamClass.BEST_EFFORT:
            self._deficit_ns = max(self._deficit_ns - planned_ns, 0)

    def order(self, planned_ns: int) -> tuple[StreamClass, ...]:
        """Classes in order of precedence, where the next batch of BEST_EFFORT is planned so long."""
        self._due_ns = planned_ns
        return GIVEN_WAY if self._deficit_ns >= planned_ns else STRICT
