"""Work that costs the server little each time, and its client nothing: clock pings, cancelled frames, frames that are
refused at the door, calls that only ask. Much of it would take from the frames of others.

Whoever does little of it never waits. What goes beyond that comes out of one budget that all share, and where that is
used up, waits for its turn: the stream or call that does it is slowed down, and no other. Those who wait share the
budget equally, so that who does a little more waits little, whatever others do. So no client can use more of the
serving process for it than the budget, however many streams it opens and however fast it sends.
"""

from collections.abc import Callable

NO_LIMIT = 1 << 62
LOOK_NS = 50_000_000
"""It is looked for who waits no more as often as this at most."""
OWED_NS_MAX = 60_000_000_000
"""A budget is overdrawn by no more than it gives in so long."""


class Budget:
    """A token bucket."""

    __slots__ = ("_burst_ns", "_clock", "_item_ns", "_used_ns")

    def __init__(self, clock: Callable[[], int], per_s: float, burst: int) -> None:
        """`clock`: nanoseconds that never go back."""
        self._clock = clock
        self._item_ns = 1e9 / per_s
        self._burst_ns = burst * self._item_ns
        self._used_ns = clock() - self._burst_ns
        """Up to when the tokens are used up, if nobody takes anything more."""

    def take_if_there(self, items: int = 1) -> bool:
        """Takes so many items if there are tokens for them."""
        now_ns = self._clock()
        used_ns = max(self._used_ns, now_ns - self._burst_ns) + items * self._item_ns
        if used_ns > now_ns:
            return False
        self._used_ns = used_ns
        return True


class SharedBudget(Budget):
    """A budget of which all who wait for it get as much."""

    __slots__ = ("_looked_ns", "_until_ns")

    def __init__(self, clock: Callable[[], int], per_s: float, burst: int) -> None:
        super().__init__(clock, per_s, burst)
        self._until_ns: dict[CheapWork, int] = {}
        """How long those wait who do, and some who have waited until a moment ago."""
        self._looked_ns = 0

    def take_equally(self, who: "CheapWork", items: int, wait_ns_max: int) -> int:
        """Takes so many items, whether there are tokens or not, unless their taker would have to wait for longer than
        `wait_ns_max`. Returns how long that is, in ns; 0: not at all. Nobody waits for longer than if all who wait now
        took theirs in turns.
        """
        now_ns = self._clock()
        if now_ns - self._looked_ns > LOOK_NS:
            self._looked_ns = now_ns
            self._until_ns = {other: until_ns for other, until_ns in self._until_ns.items() if until_ns > now_ns}
        sharers = len(self._until_ns) + (who not in self._until_ns)
        in_turns_ns = max(now_ns, self._until_ns.get(who, 0)) - now_ns + int(items * self._item_ns) * sharers
        used_ns = max(self._used_ns, now_ns - self._burst_ns) + items * self._item_ns
        wait_ns = min(max(0, int(used_ns) - now_ns), in_turns_ns)
        if wait_ns <= wait_ns_max:
            self._used_ns = min(used_ns, now_ns + OWED_NS_MAX)
            if wait_ns:
                self._until_ns[who] = now_ns + wait_ns
        return wait_ns


class CheapWork:
    """The cheap work of one stream or connection."""

    __slots__ = ("_own", "_shared")

    def __init__(self, own: Budget, shared: SharedBudget) -> None:
        self._own = own
        self._shared = shared

    def done(self, items: int = 1, wait_ns_max: int = NO_LIMIT) -> int:
        """Notes that so much was done. Returns how long its client has to wait for it, in ns. If that is more than
        `wait_ns_max`, nothing is noted.
        """
        return 0 if self._own.take_if_there(items) else self._shared.take_equally(self, items, wait_ns_max)
