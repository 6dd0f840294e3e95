"""How long the event loop was held up, so that a frame that waited meanwhile is not told to have come only now.

A frame is read when the loop gets to it. Where something held the loop up, such as a long message of another client,
the frame may have lain in the socket for as long as that. When exactly it came nobody knows; it counts as received when
the loop was to wake next and did not, because a result must not be called in time that was not. So what a client is
told of the receipt is later than the truth by at most BEAT_NS and LATE_NS, and earlier by at most the time for which
the loop was held up. Where the clocks are related, it is never told to be before the capture, and no frame before the
one before it of its stream: frames of a stream would be due in another order than they came in.

Waking costs a sleeping processor more than looking. Where no frame has come for a while, it wakes less often, and the
first frame that then comes may be told to have come later than it did by up to 1.5 QUIET_BEAT_NS and LATE_NS.
"""

import asyncio
from collections.abc import Callable

BEAT_NS = 10_000_000
"""How often the loop wakes to see that it is not held up, while streams are open."""
QUIET_BEATS = 100
"""After so many beats in which no frame has come, it is quiet."""
QUIET_BEAT_NS = 100_000_000
"""How often the loop wakes while it is quiet, at whole multiples of this, when other things wake it as well."""
LATE_NS = 5_000_000
"""Who wakes no later than that was not held up: timers count in milliseconds, and other processes run, too."""
TURNS = 4
"""How many turns of the loop it takes from waking to the last frame that lay there."""
_NEVER = 1 << 63


class LoopLag:
    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock`: nanoseconds that never go back, the clock of receipts."""
        self._clock = clock
        self.suspect_ns = _NEVER
        """Whoever reads a frame after this time asks `held_up_ns`. It is 0 from each beat until somebody has asked, and
        just after the loop was held up.
        """
        self._quiet_beats = 0
        """How many beats there were since somebody has asked."""
        self._due_ns = 0
        self._held_up_since_ns = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Watches the loop from now on, until `stop`. It may be called again."""
        if self._timer is None:
            self._quiet_beats = 0
            self._wake_again(self._clock())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.suspect_ns = _NEVER
        self._held_up_since_ns = 0

    def held_up_ns(self, now_ns: int) -> int:
        """Returns for how long a frame that is read now may have waited for the loop, in ns."""
        if self._timer is None:
            return 0
        was_quiet, self._quiet_beats = self._quiet_beats > QUIET_BEATS, 0
        if self._held_up_since_ns:
            return max(0, now_ns - self._held_up_since_ns)
        if now_ns > self._due_ns + LATE_NS:
            return now_ns - self._due_ns
        if was_quiet:
            self._timer.cancel()
            self._wake_again(now_ns)
        self.suspect_ns = self._due_ns + LATE_NS
        return 0

    def _wake_again(self, now_ns: int) -> None:
        if self._quiet_beats < QUIET_BEATS:
            self._due_ns = now_ns + BEAT_NS
        else:
            self._due_ns = (now_ns // QUIET_BEAT_NS + 1) * QUIET_BEAT_NS
            if self._due_ns - now_ns < QUIET_BEAT_NS // 2:  # timers may ring a millisecond early
                self._due_ns += QUIET_BEAT_NS
        self._quiet_beats += 1
        self.suspect_ns = 0
        self._timer = asyncio.get_running_loop().call_later((self._due_ns - now_ns) / 1e9, self._wake)

    def _wake(self) -> None:
        now_ns = self._clock()
        if now_ns > self._due_ns + LATE_NS and not self._held_up_since_ns:
            self._held_up_since_ns = self._due_ns
            self._after_turns(TURNS)
        self._wake_again(now_ns)

    def _after_turns(self, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._after_turns, turns - 1)
        elif self._timer is not None:
            self._held_up_since_ns = 0
