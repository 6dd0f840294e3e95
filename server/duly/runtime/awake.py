"""Keeps the event loop and workers awake while something is about to happen, so that no frame waits for a processor
that sleeps.

To wake one up takes tens of microseconds, more than all that the server does for a frame. So before the next frame of a
periodic stream is due, and while a short batch runs, the loop looks for what has come without ever sleeping. It does
its other work meanwhile as always, so that this holds up nobody. What it costs is bounded: of all time, at most SHARE
of one processor.
"""

import asyncio
from collections.abc import Callable

SHARE = 0.5
"""The share of one processor that may go into being awake for nothing."""
CREDIT_NS_MAX = 50_000_000
"""So much time awake may have been saved up, and be spent at once. Without any the loop sleeps as usual."""
AHEAD_NS = 150_000
"""The loop and the worker are awake so long before and after a frame is due."""
BATCH_NS = 300_000
"""The loop stays awake for a batch that is planned to take no longer."""


class Awake:
    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock`: nanoseconds that never go back, as the event loop's own."""
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._until_ns = 0
        self._is_awake = False
        self._credit_ns = CREDIT_NS_MAX
        self._looked_ns = clock()

    def stay(self, ns: int) -> None:
        """Stays awake from now on for so long, as far as there is credit."""
        now_ns = self._clock()
        self._until_ns = max(self._until_ns, now_ns + ns)
        if not self._is_awake:
            elapsed_ns = now_ns - self._looked_ns
            self._credit_ns = min(CREDIT_NS_MAX, self._credit_ns + int(elapsed_ns * SHARE))
            self._looked_ns = now_ns
            self._is_awake = self._credit_ns > 0
            if self._is_awake:
                self._loop.call_soon(self._turn)

    def expect(self, ns: int, rouse: Callable[[], None]) -> None:
        """Something is due in so long. `rouse` is called before, so that others wake up as well."""
        due_ns = self._clock() + ns
        whole_ms = (ns - AHEAD_NS) // 1_000_000  # finer timers there are none
        if whole_ms > 0:
            self._loop.call_later(whole_ms / 1e3, self._expect, due_ns, rouse)
        else:
            self._expect(due_ns, rouse)

    def _expect(self, due_ns: int, rouse: Callable[[], None]) -> None:
        self.stay(due_ns + AHEAD_NS - self._clock())
        if self._is_awake:
            rouse()

    def _turn(self) -> None:
        now_ns = self._clock()
        self._credit_ns -= int((now_ns - self._looked_ns) * (1 - SHARE))
        self._looked_ns = now_ns
        if now_ns < self._until_ns and self._credit_ns > 0:
            self._loop.call_soon(self._turn)  # a loop with something to call does not sleep
        else:
            self._is_awake = False
