"""Arrival rates, and how many lanes serving them takes.

Theory. Work-conserving lanes are busy at nearly any load, because small batches fill whatever time there is. How busy
they are therefore says little about how much more they could do. Demand is counted at the batch size that a steady load
can use instead: a frame waits for one batch at most and runs in the next, so two batches have to fit into its budget
(Nexus, SOSP'19, section 4.1), and a batch holds no more frames than arrive within half of the budget.
"""

from bisect import bisect_right

from duly.core.timing.profile import Plan

GAP_FRAMES = 32
"""Number of frames over which the gap between frames is averaged, about."""


class ArrivalGap:
    """Mean time between arrivals, exponentially weighted."""

    __slots__ = ("gap_ns", "last_ns")

    def __init__(self) -> None:
        self.gap_ns = 0.0
        """The mean gap; 0 until two frames have come."""
        self.last_ns = -1

    def arrived(self, now_ns: int) -> None:
        if self.last_ns >= 0:
            gap_ns = now_ns - self.last_ns
            self.gap_ns += (gap_ns - self.gap_ns) / GAP_FRAMES if self.gap_ns else gap_ns
        self.last_ns = now_ns

    def now(self, now_ns: int) -> float:
        """The mean gap in ns, at least 1; 0 where it is not known yet. It grows in a silence of more than GAP_FRAMES
        mean gaps.
        """
        return max(self.gap_ns, (now_ns - self.last_ns) / GAP_FRAMES, 1.0) if self.gap_ns else 0.0


def lanes_needed(profile: Plan, gap_ns: float, budget_ns: int) -> float:
    """How many lanes are kept busy by frames of that budget of which one arrives every `gap_ns`. The answer is 0 where
    `gap_ns` is 0, since the rate is not known then.
    """
    if gap_ns <= 0:
        return 0.0
    plan = profile.plan_ns
    size = min(bisect_right(plan, budget_ns // 2) - 1, int(budget_ns / 2 / gap_ns))
    size = profile.largest_efficient(max(1, min(size, profile.batch_max)))
    return profile.usual_ns[size] / size / gap_ns
