"""Looks at the wall clock although no frame comes, so that no step hides in the drift of a long idle time, and tells
the log of steps that people should know of.
"""

import structlog

from duly.streams.wall_clock import WallClock

_log = structlog.get_logger("duly.clock")

TOLD_NS_MIN = 100_000_000
"""Smaller steps are what time services do all day."""


class ClockWatch:
    def __init__(self, wall: WallClock) -> None:
        self._wall = wall
        self._told_ns = wall.moved_ns

    def look(self) -> None:
        """Call it periodically."""
        self._wall.now_ns()
        moved_ns = self._wall.moved_ns - self._told_ns
        if abs(moved_ns) >= TOLD_NS_MIN:
            self._told_ns += moved_ns
            _log.warning("the wall clock was set, ages of frames are corrected", ahead_s=moved_ns / 1e9)
