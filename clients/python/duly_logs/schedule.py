"""When the messages of a log are due, in the log's own time. Clocks of recorders are set, and pauses are long: both are
told and cut short, so that the drive goes on.
"""

from collections.abc import Callable

AHEAD_NS_MAX = 10_000_000_000
"""A longer time between two messages of a topic is a jump of the clock, or a pause in which nothing was driven."""
BACK_NS_MAX = 1_000_000_000
"""Messages that are out of their order by less are only late; by more, the clock was set back."""
PERIOD_NS = 100_000_000
"""What lies between two messages around a jump where nothing else is known."""


class Schedule:
    """Gives each message its place on a time line that begins at 0 and never runs back."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._before_ns: int | None = None
        self._newest_ns = 0  # the greatest time since the last jump
        self._at_ns = 0
        self._period_ns = PERIOD_NS
        self.jumps = 0

    def at_ns(self, time_ns: int, number: int) -> int:
        """Where the message `number` lies that was logged at `time_ns`."""
        if self._before_ns is None:
            self._before_ns = self._newest_ns = time_ns
            return 0
        passed_ns = time_ns - self._newest_ns
        if passed_ns > AHEAD_NS_MAX or passed_ns < -BACK_NS_MAX:
            self.jumps += 1
            direction = "ahead" if passed_ns > 0 else "back"
            self._tell(
                f"the clock of the log jumps {abs(passed_ns) / 1e9:.3g} s {direction} at message {number}; "
                f"replayed as {self._period_ns / 1e6:.4g} ms"
            )
            self._newest_ns = time_ns
            self._at_ns += self._period_ns
            return self._at_ns
        if passed_ns > 0:
            self._newest_ns = time_ns
            self._at_ns += passed_ns
            self._period_ns = passed_ns
        return self._at_ns
