"""Draws samples evenly from streams whose length nobody knows, without any I/O.

`Reservoir` is algorithm L (Li, "Reservoir-sampling algorithms of time complexity O(n(1+log(N/n)))", ACM TOMS 20, 1994):
at each moment it holds a sample of `size` of all that was offered so far, each such set as likely as any other. It
draws how many to pass over, so that all but a few offers cost a comparison.

`Reservoirs` has one for each group of frames, and no more than so many groups.
"""

from math import exp, floor, log
from random import Random

_PASS_MAX = 1 << 62


class Reservoir:
    """Which of the things that are offered are kept, and in which of `size` places."""

    __slots__ = ("_next", "_random", "_size", "_w", "offered")

    def __init__(self, size: int, random: Random) -> None:
        self._size = size
        self._random = random
        self.offered = 0
        """How many things were offered."""
        self._w = 1.0
        self._next = 1
        """The number of the next one that is kept, from 1."""

    def offer(self) -> int | None:
        """Returns the place, from 0, in which the next thing is kept, in place of what is there; None: it is not."""
        self.offered += 1
        if self.offered < self._next:
            return None
        if self.offered < self._size:
            self._next = self.offered + 1
            return self.offered - 1
        place = self.offered - 1 if self.offered == self._size else self._random.randrange(self._size)
        self._w *= exp(log(self._uniform()) / self._size)
        self._next = self.offered + 1 + self._passed()
        return place

    def _passed(self) -> int:
        """Draws how many things are passed over."""
        rest = 1 - self._w
        if rest >= 1:  # w is too small for a difference
            return _PASS_MAX
        return min(floor(log(self._uniform()) / log(rest)), _PASS_MAX) if rest > 0 else 0

    def _uniform(self) -> float:
        """Above 0 and at most 1, whose logarithm there is."""
        return 1 - self._random.random()


class Reservoirs:
    """One reservoir for each group, of at most `groups_max` groups. A group is that of a stream as a rule.

    Where there are as many, the one that may give way for the longest time gives way to a new one.
    """

    def __init__(self, groups_max: int, random: Random) -> None:
        self._groups_max = groups_max
        self._random = random
        self._of: dict[str, Reservoir] = {}
        self._may_go: dict[str, None] = {}
        """The groups that may give way, the one for which that is longest so first."""

    def __len__(self) -> int:
        return len(self._of)

    def of(self, group: str, size: int) -> Reservoir:
        """Returns the reservoir of a group, where it has none a new one of that size. Raises NoPlace where there is no
        room.
        """
        reservoir = self._of.get(group)
        if reservoir is None:
            if len(self._of) >= self._groups_max:
                if not self._may_go:
                    raise NoPlace
                oldest = next(iter(self._may_go))
                del self._may_go[oldest], self._of[oldest]
            reservoir = self._of[group] = Reservoir(size, self._random)
        return reservoir

    def may_go(self, group: str) -> None:
        """Lets a group give way to others from now on, as its stream has ended."""
        if group in self._of:
            self._may_go[group] = None


class NoPlace(Exception):
    """There are as many groups as there may be, and all of them go on."""
