"""When a lane is down because of its GPU, and when it comes back. Time is an argument, and nothing is looked at here.

A fault takes it down for a pause. So does whatever keeps the GPU from working, for as long as it lasts and a pause
more. Then the lane is tried again: what could not be loaded there would show. A lane that goes down again soon after it
came back pauses twice as long each time, and FALLS_MAX times in a row are enough: from then on it stays down until its
GPU was reset, which is seen as the end of what had kept it from working.
"""

PAUSE_NS_MIN = 5_000_000_000
PAUSE_NS_MAX = 320_000_000_000
CALM_NS = 600_000_000_000
"""A lane that was up for so long begins with the shortest pause again."""
FALLS_MAX = 6
"""A lane that goes down so many times in a row is tried no more."""


class Recovery:
    """One lane."""

    def __init__(self) -> None:
        self._why = ""
        self._blocked = False
        """Whether the GPU was kept from working at the last look."""
        self._falls = 0
        """How many times in a row the lane went down."""
        self._up_ns: int | None = None
        """When it came back; None: it was never down."""
        self._back_ns = 0

    @property
    def down(self) -> str:
        """Why the lane is down; empty: it is up."""
        if self._why and self._falls >= FALLS_MAX:
            return (
                f"{self._why}; it went down {self._falls} times in a row, and is tried no more until the GPU was reset "
                "or the server is started again"
            )
        return self._why

    def look(self, now_ns: int, fault: str, blocked: str) -> None:
        """`fault`: what has happened since the look before. `blocked`: what keeps the GPU from working now. Empty:
        nothing.
        """
        if not self._why:
            if not fault and not blocked:
                return
            if self._up_ns is not None and now_ns - self._up_ns >= CALM_NS:
                self._falls = 0
            self._falls += 1
            self._why = fault or blocked
            self._back_ns = now_ns + self._pause_ns()
        elif fault:
            self._back_ns = max(self._back_ns, now_ns + self._pause_ns())
        if self._blocked and not blocked:  # it was reset
            self._falls = 1
            self._back_ns = now_ns + self._pause_ns()
        self._blocked = bool(blocked)
        if not blocked and now_ns >= self._back_ns and self._falls < FALLS_MAX:
            self._why, self._up_ns = "", now_ns

    def _pause_ns(self) -> int:
        return min(PAUSE_NS_MIN << self._falls - 1, PAUSE_NS_MAX)
