"""Holds streams to the period that they stated: frames that come faster count as BEST_EFFORT.

Theory. Admission promises what it does because frames of one stream come no less than a period apart. A stream that is
not held to that breaks the promises of all others, by mistake or not. So each stream whose period was promised has a
place in time at which its next frame is due, which every frame that conforms moves on by a period, and a frame conforms
that comes no more than a tolerance before it (GCRA, the virtual scheduling algorithm of ITU-T I.371, which is a token
bucket). Frames that do not conform move nothing, and are demoted rather than refused: where lanes are idle they cost
nobody anything.

A tolerance is needed for jitter of the network, for clocks that differ, and for sensors that send several frames in one
message. CRITICAL streams get little, as it is lane time that the proof does not know: at most their share of a lane
times BURST_NS. Promises to STANDARD streams are an expectation, and so is the period of a sensor whose frames come at
random, which gets ten times as much.
"""

from duly.core.types import StreamClass, StreamTerms

FASTER_PERCENT = {StreamClass.CRITICAL: 2, StreamClass.STANDARD: 10}
"""How much faster than stated a stream may be for ever."""
BURST_NS = {StreamClass.CRITICAL: 100_000_000, StreamClass.STANDARD: 1_000_000_000}
"""How much earlier than due frames may come."""
BURST_PERIODS = 2
"""The same in periods, where those are long."""
TELL_NS = 10_000_000_000
"""A stream is told at most this often that its frames are demoted."""


class Policer:
    """Where one stream stands. A stream without a promise conforms whatever it sends."""

    __slots__ = ("_burst_ns", "_due_ns", "_period_ns", "_told_ns")

    def __init__(self, terms: StreamTerms) -> None:
        policed = terms.policed and terms.period_ns > 0 and terms.stream_class in BURST_NS
        self._period_ns = 0
        self._burst_ns = 0
        if policed:
            self._period_ns = terms.period_ns * 100 // (100 + FASTER_PERCENT[terms.stream_class])
            self._burst_ns = max(BURST_NS[terms.stream_class], BURST_PERIODS * terms.period_ns)
        self._due_ns = 0
        self._told_ns = -TELL_NS

    def conforms(self, now_ns: int) -> bool:
        """Returns whether a frame that comes now may count as its stream does."""
        if not self._period_ns:
            return True
        if self._due_ns - now_ns > self._burst_ns:
            return False
        self._due_ns = max(self._due_ns, now_ns) + self._period_ns
        return True

    def tells(self, now_ns: int) -> bool:
        """Returns whether the stream is to be told now that a frame of it was demoted."""
        if now_ns - self._told_ns < TELL_NS:
            return False
        self._told_ns = now_ns
        return True
