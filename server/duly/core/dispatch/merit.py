"""Which frames are worth more under overload: what their streams, and whose streams they are, have missed.

Theory. Value density alone, frames per lane time, maximises goodput and starves whoever is unlucky: streams whose
period locks to the lane's arrive just too late for ever. So a frame's value grows with its stream's streak of unserved
frames, by a fifth with each: little at first, as who is passed over once is served next anyway, then soon more than
any model's frames are cheaper than others'. In simulation with 6 models on one lane at 2.5 times the load this brings
the worst periodic stream from none to a fifth on time for 1 % of the goodput; counting each miss twice brings it to
0.45, and costs 9 %, with 8 models on 8 lanes 13 %.

The frames that a client keeps back because it was told to (`advice`) count as missed, or who follows would be served
less than who does not.

A stream may ask for more, an (m,k)-firm floor: of any k consecutive frames m on time. When one more miss would break
it, its next frame goes before all others (distance based priority: Hamdaoui and Ramanathan, 1995). Between principals
lane time is shared: who had less than the mean of late counts for more, so that opening more streams gains nobody more
of what is left (start-time fair queueing, Goyal, 1996, without its order, as deadlines rule).
"""

from collections import deque

from duly.core.types import StreamTerms

STREAK_FACTOR = 1.2
STREAK_MAX = 20
"""Longer streaks count like this one: 38 times."""
_VALUES = [STREAK_FACTOR**streak for streak in range(STREAK_MAX + 1)]
FLOOR_VALUE = 1000.0
"""What a frame is worth that its stream's floor depends on: more than any full batch."""
FRESHNESS_MAX = 1.5
"""What a frame that is to be fresh is worth to a window at most: one starved stream shall not keep batches small."""
SHARE_MAX = 4.0
"""A principal's frames count at most so many times, and at least one so manieth."""
FLOOR_MERIT = FLOOR_VALUE / SHARE_MAX
"""At least this is such a frame worth, whoever its principal, and no other so much."""
FORGET_NS = 1_000_000_000
"""Lane time of principals counts half after so long."""
PRINCIPALS_MAX = 4096
"""Whom no lane time is known of any more is forgotten; beyond this many, everybody is."""


class Merit:
    """What the next frame of one stream is worth; 1 where nothing was missed."""

    __slots__ = ("_floor_frames", "_recent", "_streak", "_streak_before", "_unsent", "spotless", "value")

    def __init__(self, terms: StreamTerms) -> None:
        self.value = 1.0
        self.spotless = not terms.floor_window
        """One more frame on time changes nothing."""
        self._streak = 0
        self._streak_before = 0
        """The streak that the last hit ended, as it may turn out to have been none."""
        self._unsent = 0.0
        """Frames that the client keeps back for each that it sends."""
        self._floor_frames = terms.floor_frames
        self._recent: deque[bool] | None = None
        """The last k - 1 outcomes, as if it had been served before it opened."""
        if terms.floor_window:
            self._recent = deque([True] * (terms.floor_window - 1), terms.floor_window - 1)

    def ended(self, on_time: bool) -> None:
        """A frame of the stream has its outcome."""
        if on_time:
            self._streak_before, self._streak = self._streak, 0
        elif self._streak < STREAK_MAX:
            self._streak += 1
        if self._recent is not None:
            self._recent.append(on_time)
        self._value()

    def turned_out(self, missed: bool) -> None:
        """A frame that was thought to be on time was not; `missed`: for want of lane time, else for the client's own
        sake, which makes its next frames worth no more than they were.
        """
        if not self._streak:
            self._streak, self._streak_before = self._streak_before, 0
        if missed and self._streak < STREAK_MAX:
            self._streak += 1
        if self._recent is not None:
            for nth in range(len(self._recent) - 1, -1, -1):
                if self._recent[nth]:
                    self._recent[nth] = False
                    break
        self._value()

    def thinned(self, unsent: float) -> None:
        """From now on the client keeps `unsent` frames back for each that it sends."""
        if unsent != self._unsent:
            self._unsent = unsent
            self._value()

    def _value(self) -> None:
        self.value = _VALUES[self._streak]
        if self._unsent:
            self.value = STREAK_FACTOR ** min(self._streak * (1 + self._unsent) + self._unsent, STREAK_MAX)
        self.spotless = not self._streak and self._recent is None
        if self._recent is not None and sum(self._recent) < self._floor_frames:
            self.value += FLOOR_VALUE


class Principals:
    """Lane time that each principal had of late."""

    __slots__ = ("_forgot_ns", "_served_ns", "_total_ns")

    def __init__(self) -> None:
        self._served_ns: dict[str, float] = {}
        self._total_ns = 0.0
        self._forgot_ns = 0

    def served(self, now_ns: int, principal: str, lane_ns: float) -> None:
        if now_ns - self._forgot_ns >= FORGET_NS:
            self._forgot_ns = now_ns
            self._served_ns = {name: ns / 2 for name, ns in self._served_ns.items() if ns >= 1000}
            if len(self._served_ns) > PRINCIPALS_MAX:
                self._served_ns = {}
            self._total_ns = sum(self._served_ns.values())
        self._served_ns[principal] = self._served_ns.get(principal, 0.0) + lane_ns
        self._total_ns += lane_ns

    def factor(self, principal: str) -> float:
        """By how much more or less its frames count."""
        if len(self._served_ns) < 2:
            return 1.0
        mean_ns = self._total_ns / len(self._served_ns)
        served_ns = self._served_ns.get(principal, 0.0)
        if served_ns * SHARE_MAX <= mean_ns:
            return SHARE_MAX
        return max(mean_ns / served_ns, 1 / SHARE_MAX)
