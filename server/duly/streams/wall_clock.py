"""The server's wall clock, watched for being set.

Clients say how their clocks relate to this one, which a person, NTP or GPS may set at any moment, by hours at once or
little by little. What they said is then wrong by just as much. So the wall clock is compared with one that
nobody sets: it follows no time service, and it goes on while the machine sleeps. What the comparison does not find,
because the system has no such clock, the next exchange of time stamps does.
"""

import time

STEP_NS_MIN = 1_000_000
"""A smaller difference is none that budgets of milliseconds could notice."""
DRIFT_MAX_PPM = 100
"""A difference that grows no faster is the drift of oscillators, which estimates of the clocks allow for."""
FORGET_NS = 10 * 10**9
"""Differences are taken over no longer than this, so that drift does not add up to a step."""
LOOK_NS = 20_000_000
"""A clock that is set at once is seen at the next reading, one that is set little by little so much later."""
LOOKS_MAX = 4
"""A look in which the thread was stopped between two clocks, by QUICK_NS or more, is taken again so many times."""
QUICK_NS = 100_000

_RAW = getattr(time, "CLOCK_MONOTONIC_RAW", None)
_WITH_SLEEP = getattr(time, "CLOCK_BOOTTIME", None)


class WallClock:
    """Nanoseconds since 1970, and how far that clock was set."""

    def __init__(self) -> None:
        self.moved_ns = 0
        """How far the clock was set ahead since the first look, all together; negative: back."""
        self._since_ns = self._looked_ns = time.monotonic_ns()
        now_ns, self._lead_ns, _ = _look()
        self._plain_lead_ns = now_ns - self._looked_ns
        """The same, compared with the monotonic clock, which is quicker to read but follows time services, too."""

    def now_ns(self) -> int:
        """Reads the clock and compares it with the one that nobody sets."""
        before_ns = time.monotonic_ns()
        now_ns = time.time_ns()
        plain_lead_ns = now_ns - before_ns
        if abs(plain_lead_ns - self._plain_lead_ns) * 2 < STEP_NS_MIN and before_ns - self._looked_ns < LOOK_NS:
            return now_ns
        now_ns, lead_ns, doubt_ns = _look()
        moved_ns = lead_ns - self._lead_ns
        age_ns = before_ns - self._since_ns
        set_by_somebody = abs(moved_ns) > STEP_NS_MIN + doubt_ns + age_ns * DRIFT_MAX_PPM // 1_000_000
        if set_by_somebody:
            self.moved_ns += moved_ns
        if set_by_somebody or age_ns > FORGET_NS:
            self._lead_ns, self._since_ns = lead_ns, before_ns
        self._looked_ns, self._plain_lead_ns = before_ns, plain_lead_ns
        return now_ns


def _look() -> tuple[int, int, int]:
    """Returns the wall clock, how far it is ahead of the one that nobody sets, and by how much that may be wrong."""
    looks: list[tuple[int, int, int]] = []
    while len(looks) < LOOKS_MAX:
        before_ns = time.monotonic_ns()
        now_ns = time.time_ns()
        lead_ns = now_ns - _steady_ns()
        doubt_ns = time.monotonic_ns() - before_ns
        if doubt_ns < QUICK_NS:
            return now_ns, lead_ns, doubt_ns
        looks.append((doubt_ns, now_ns, lead_ns))
    doubt_ns, now_ns, lead_ns = min(looks)
    return now_ns, lead_ns, doubt_ns


def _steady_ns() -> int:
    """Reads a clock that nobody sets."""
    if _RAW is None or _WITH_SLEEP is None:  # not on Linux
        return time.monotonic_ns()
    return time.clock_gettime_ns(_RAW) + time.clock_gettime_ns(_WITH_SLEEP) - time.monotonic_ns()
