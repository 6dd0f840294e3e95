"""Keeps the event loop awake while something is about to happen, so that no frame waits for a processor that sleeps.

To wake one up takes tens of microseconds, more than all that the server does for a frame. So while a short batch runs,
the loop does not sleep but asks again and again whether it has ended. And shortly before the next frame of a periodic
stream is due it goes round without ever sleeping, and has the worker wake up; other work is done meanwhile as always.
Both end as soon as what they wait for has come. What they cost is bounded: of all time, at most SHARE of one processor.
"""

import asyncio
import os
from collections.abc import Callable

SHARE = 0.5
"""The share of one processor that may go into being awake for nothing."""
CREDIT_NS_MAX = 50_000_000
"""So much time awake may have been saved up, and be spent at once. Without any the loop sleeps as usual."""
AHEAD_NS = 150_000
"""The loop and the worker are awake so long before and after a frame is due."""
BATCH_NS_MAX = 300_000
"""The end of a batch is waited for no longer than this, and not at all where it is planned to take longer. Nothing else
is done meanwhile."""


class Awake:
    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock`: nanoseconds that never go back, as the event loop's own."""
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._until_ns = 0
        self._goes_round = False
        self._credit_ns = CREDIT_NS_MAX
        self._counted_ns = clock()
        """The credit is that of this time."""

    def wait_for(self, ended: Callable[[], bool]) -> None:
        """Calls `ended` again and again on the next turn of the loop, until it returns True or took too long."""
        self._loop.call_soon(self._wait_for, ended)

    def _wait_for(self, ended: Callable[[], bool]) -> None:
        began_ns = self._clock()
        until_ns = began_ns + min(BATCH_NS_MAX, self._credit_now_ns(began_ns))
        while not ended() and self._clock() < until_ns:
            os.sched_yield()  # the worker may have been woken up on this very processor
        self._credit_ns -= self._clock() - began_ns

    def expect(self, ns: int, rouse: Callable[[], None]) -> None:
        """Something comes in so long. `rouse` is called before, so that others wake up as well. Call `came` then."""
        due_ns = self._clock() + ns
        whole_ms = (ns - AHEAD_NS) // 1_000_000  # finer timers there are none
        if whole_ms > 0:
            self._loop.call_later(whole_ms / 1e3, self._expect, due_ns, rouse)
        else:
            self._expect(due_ns, rouse)

    def came(self) -> None:
        """What was expected is there."""
        self._until_ns = 0

    def _expect(self, due_ns: int, rouse: Callable[[], None]) -> None:
        now_ns = self._clock()
        if self._credit_now_ns(now_ns) > 0:
            self._until_ns = max(self._until_ns, due_ns + AHEAD_NS)
            rouse()
            if not self._goes_round:
                self._goes_round = True
                self._loop.call_soon(self._go_round, now_ns)

    def _go_round(self, since_ns: int) -> None:
        """A loop that has something to call does not sleep."""
        now_ns = self._clock()
        self._credit_ns -= now_ns - since_ns
        if now_ns < self._until_ns and self._credit_now_ns(now_ns) > 0:
            os.sched_yield()  # what brings the frame may wait for this very processor, without a share of its own
            self._loop.call_soon(self._go_round, now_ns)
        else:
            self._goes_round = False

    def _credit_now_ns(self, now_ns: int) -> int:
        self._credit_ns = min(CREDIT_NS_MAX, self._credit_ns + int((now_ns - self._counted_ns) * SHARE))
        self._counted_ns = now_ns
        return self._credit_ns
