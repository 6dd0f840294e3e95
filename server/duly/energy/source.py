"""What counters of energy are read from."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from duly.energy.totals import Reading


class Missing(NamedTuple):
    """Readings that there are not, though there could be."""

    reason: str
    """What is missing, and why."""
    advice: str = ""
    """What to do about it; empty: nothing can be done."""


class Source(Protocol):
    def read(self) -> tuple[Sequence[Reading], Sequence[Missing]]:
        """Returns all counters as they are now, and what cannot be read. It may block, and never raises."""
