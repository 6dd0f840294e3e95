"""Whether the streams of a canary are on time less often than others, and whether others are since there is one.

Each outcome of one kind is compared with one of the other kind and of the same class, the newest that is left: 1/2
where both were on time, or neither, 0 where only the first was not, 1 where only the second was not. If the first are
on time by `worse_max` less often, the mean is (1 - worse_max) / 2, which `evidence` tests. Comparing what happened at
about the same time keeps out what changes for all, such as load; what came before is compared where nothing newer is
left. It is assumed that which streams belong to the canary was left to chance, as it is (`canary`).
"""

from collections import deque

from duly.trials.evidence import Above

KEPT_MAX = 4096
"""So many outcomes of each class are kept to compare others with; the oldest are forgotten."""


class Compared:
    """How often frames are on time, compared with others."""

    __slots__ = ("_as_good", "_others", "_worse", "frames", "on_time", "others", "others_on_time", "pairs")

    def __init__(self, worse_max: float) -> None:
        """`worse_max`: the difference of the ratios that is still taken, less than 1."""
        bound = (1.0 - worse_max) / 2
        self._as_good, self._worse = Above(bound), Above(1.0 - bound)
        self._others: dict[int, deque[bool]] = {}
        self.frames = self.on_time = 0
        self.others = self.others_on_time = 0
        self.pairs = 0

    def add_other(self, stream_class: int, on_time: bool) -> None:
        """Takes an outcome to compare others with."""
        self.others += 1
        self.others_on_time += on_time
        if stream_class not in self._others:
            self._others[stream_class] = deque(maxlen=KEPT_MAX)
        self._others[stream_class].append(on_time)

    def add(self, stream_class: int, on_time: bool) -> None:
        """Takes an outcome, and compares it if there is one to compare it with."""
        self.frames += 1
        self.on_time += on_time
        others = self._others.get(stream_class)
        if not others:
            return
        self.pairs += 1
        value = (1 + on_time - others.pop()) / 2
        self._as_good.add(value)
        self._worse.add(1.0 - value)

    def proves_as_good(self, risk: float) -> bool:
        """Whether the frames are on time as often, up to `worse_max`."""
        return self._as_good.proves(risk)

    def proves_worse(self, risk: float) -> bool:
        """Whether they are on time less often by more than that."""
        return self._worse.proves(risk)
