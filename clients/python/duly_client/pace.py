"""The pace of a stream that follows the server's advice: which frames it may send.

Frames are due every `period_ns` on a grid. One that is due is sent and moves the grid on by a period; one that comes
before is not. A frame that came late does not put off the next, so sensors whose own period does not divide the advised
one, or whose frames come at random, still send at the advised rate on average (the virtual scheduling algorithm of
ITU-T I.371). After a pause of the sensor no more than PERIODS_SAVED frames are made up for.

Streams are often advised together, so each begins its grid at a phase of its own. Else all would send in the same
instants, and a lane that could serve them one after another would be late for most.
"""

PERIODS_SAVED = 2
"""Sensors whose frames come at random would send a fifth less than advised if nothing were saved up."""


class Pace:
    __slots__ = ("_due_ns", "period_ns")

    def __init__(self) -> None:
        self.period_ns = 0
        """The period that was advised; 0 where none was."""
        self._due_ns = 0
        """The place on the grid at which the next frame is due."""

    def advised(self, now_ns: int, period_ns: int, phase: float) -> None:
        """Makes frames due every `period_ns` (0: whenever they come), the first after `phase` (0 to 1) of one."""
        self.period_ns = period_ns
        self._due_ns = now_ns + round(phase * period_ns)

    def due(self, now_ns: int) -> bool:
        """Whether a frame at `now_ns` may be sent. Any clock that never goes back will do."""
        return not self.period_ns or now_ns >= self._due_ns

    def sent(self, now_ns: int) -> None:
        """A frame was sent at `now_ns`, due or not."""
        self._due_ns = max(self._due_ns, now_ns - PERIODS_SAVED * self.period_ns) + self.period_ns
