"""Says when a process that should give signs of life is busy with something else for good. It reads no clock.

Theory. A loop that gives no sign may be waiting for something, or its process is stopped, or the whole machine was:
none of that keeps others from a processor. One that uses its processor all the while does, and where it runs before all
others nobody else will. So silence alone counts for nothing, and processor time in silence does.

Who listens is `watchdog`, which says the words below to whom it listens to. A sign of life holds the numbers of the
processes that are lost with it, with blanks between them.
"""

LOOK_NS = 100_000_000
"""The time between two signs of life, and between two looks."""
BUSY_NS = 1_000_000_000
"""Who has used so much processor time without a sign is taken to be lost in something."""

READY = b"ready"
"""It listens."""
ORDINARY = b"ordinary"
"""It has taken the urgency back, and listens no more."""
MESSAGE_BYTES_MAX = 1 << 14
"""A sign of life of more bytes is cut off."""
PIDS_MAX = 1024
"""So many processes are told of; what is more keeps its urgency."""
UNHEARD_BYTES_MAX = 1 << 14
"""Who listens and leaves so much unread, as the kernel counts it some seconds of signs, listens no more."""


class Silence:
    """Listens for one process."""

    def __init__(self) -> None:
        self._cpu_ns: int | None = None

    def heard(self) -> None:
        """There was a sign of life."""
        self._cpu_ns = None

    def look(self, cpu_ns: int) -> bool:
        """Notes what its thread has used of a processor since it began. Returns whether it is lost."""
        if self._cpu_ns is None:
            self._cpu_ns = cpu_ns
        return cpu_ns - self._cpu_ns > BUSY_NS
