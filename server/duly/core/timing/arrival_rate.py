"""How much is asked of the lanes: arrival rates as they are, and what serving them takes.

Theory. Work-conserving lanes are busy at nearly any load, as small batches fill whatever time there is; so how busy
they are says little about how much more they could do. Demand is counted at the batch size that a steady load can use
instead: a frame waits for one batch at most and runs in the next, so two batches have to fit into its budget (Nexus,
SOSP'19, section 4.1), and no more frames come together than arrive within that time.
"""

from bisect import bisect_right

from duly.core.timing.profile import Plan

GAP_FRAMES = 32
"""The gap between frames is averaged over about so many."""


class ArrivalGap:
    """Mean time between arrivals, exponentially weighted."""

    __slots__ = ("gap_ns", "last_ns")

    def __init__(self) -> None:
        self.gap_ns = 0.0
        """0: fewer than two frames have come."""
        self.last_ns = -1

    def arrived(self, now_ns: int) -> None:
        if self.last_ns >= 0:
            gap_ns = now_ns - self.last_ns
            self.gap_ns += (gap_ns - self.gap_ns) / GAP_FRAMES if self.gap_ns else gap_ns
        self.last_ns = now_ns

    def now(self, now_ns: int) -> float:
        """The gap as far as it is known; a silence that lasts counts as soon as it is longer. At least 1 ns; 0: not
        known.
        """
        return max(self.gap_ns, (now_ns - self.last_ns) / GAP_FRAMES, 1.0) if self.gap_ns else 0.0


def lanes_needed(profile: Plan, gap_ns: float, budget_ns: int) -> float:
    """Lanes kept busy by frames of that budget that arrive every `gap_ns`; 0 where that is not known."""
    if gap_ns <= 0:
        return 0.0
    plan = profile.plan_ns
    size = min(bisect_right(plan, budget_ns // 2) - 1, int(budget_ns / 2 / gap_ns))
    size = profile.efficient[max(1, min(size, profile.batch_max))]
    return profile.usual_ns[size] / size / gap_ns
