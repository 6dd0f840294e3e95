"""Which frames are worth more under overload: those of streams, and of principals, that have missed the most.

Theory. Value density alone, frames for each unit of lane time, maximises goodput and starves the unlucky: streams whose
period locks to the lane's arrive just too late for ever. So a frame's value grows with its stream's streak of missed
frames, by a fifth with each. That is little at first, as a stream that is passed over once is served next anyway, and
soon it exceeds the difference in cost between any two models. In simulation with 6 models on one lane at 2.5 times the
load this brings the worst periodic stream from none to a fifth on time, for 1 % of the goodput. Counting each miss
twice brings it to 0.45, and costs 9 %, or 13 % with 8 models on 8 lanes.

The frames that a client keeps back because it was told to (`advice`) count as missed. Otherwise streams that follow
would be served less than streams that do not.

A stream may ask for more, an (m,k)-firm floor: m of any k consecutive frames on time. When one more miss would break
the floor, the stream's next frame goes before all others (distance based priority: Hamdaoui and Ramanathan, 1995).

Lane time is shared between principals: frames of a principal that had less than the mean lately count for more, so that
nobody gains more of what is left by opening more streams (start-time fair queueing, Goyal, 1996, without its order, as
deadlines rule).
"""

from collections import deque

from duly.core.types import StreamTerms

STREAK_FACTOR = 1.2
STREAK_MAX = 20
"""Longer streaks count like this one, which makes a frame worth 38 times as much."""
_VALUES = [STREAK_FACTOR**streak for streak in range(STREAK_MAX + 1)]
FLOOR_VALUE = 1000.0
"""The value of a frame that its stream's floor depends on: more than any full batch."""
FRESHNESS_MAX = 1.5
"""The largest worth of a LATEST or KEEP_LAST frame to a window: one starved stream must not keep batches small."""
SHARE_MAX = 4.0
"""The largest weight of a principal's frames; the smallest is its reciprocal."""
FLOOR_MERIT = FLOOR_VALUE / SHARE_MAX
"""The least merit of a frame that its stream's floor depends on; no other frame reaches it."""
FORGET_NS = 1_000_000_000
"""After each such time, the lane time that principals had counts half."""
PRINCIPALS_MAX = 4096
"""Principals without recent lane time are dropped; above this number the table is cleared."""


class Merit:
    """The value of the next frame of one stream; 1 where nothing was missed."""

    __slots__ = ("_floor_frames", "_recent", "_streak", "_streak_before", "_unsent", "untouched_by_hit", "value")

    def __init__(self, terms: StreamTerms) -> None:
        self.value = 1.0
        self.untouched_by_hit = not terms.floor_window
        """Whether one more frame on time would change nothing."""
        self._streak = 0
        self._streak_before = 0
        """The streak that the last hit ended. It comes back if that hit turns out to be none."""
        self._unsent = 0.0
        """Number of frames that the client keeps back for each that it sends."""
        self._floor_frames = terms.floor_frames
        self._recent: deque[bool] | None = None
        """The last k - 1 outcomes, True for on time; all True when the stream opens. None: the stream has no floor."""
        if terms.floor_window:
            self._recent = deque([True] * (terms.floor_window - 1), terms.floor_window - 1)

    def ended(self, on_time: bool) -> None:
        """Notes the outcome of a frame of the stream."""
        if on_time:
            self._streak_before, self._streak = self._streak, 0
        elif self._streak < STREAK_MAX:
            self._streak += 1
        if self._recent is not None:
            self._recent.append(on_time)
        self._value()

    def turned_out(self, missed: bool) -> None:
        """Corrects a frame that was noted as on time and was not. `missed`: for want of lane time. Otherwise the client
        caused it, and its next frames are worth no more than before.
        """
        if not self._streak:
            self._streak, self._streak_before = self._streak_before, 0
        if missed and self._streak < STREAK_MAX:
            self._streak += 1
        if missed and self._recent is not None:
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
        self.untouched_by_hit = not self._streak and self._recent is None
        if self._recent is not None and sum(self._recent) < self._floor_frames:
            self.value += FLOOR_VALUE


class Principals:
    """The lane time that each principal had lately."""

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
        """The weight of the principal's frames, between 1 / SHARE_MAX and SHARE_MAX."""
        if len(self._served_ns) < 2:
            return 1.0
        mean_ns = self._total_ns / len(self._served_ns)
        served_ns = self._served_ns.get(principal, 0.0)
        if served_ns * SHARE_MAX <= mean_ns:
            return SHARE_MAX
        return max(mean_ns / served_ns, 1 / SHARE_MAX)
