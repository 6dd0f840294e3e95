"""Whether the streams of a canary are on time less often than others, and whether others are since there is one.

Each outcome of one kind is compared with one of the other kind and of the same class, the newest that is left: 1/2
where both were on time, or neither, 0 where only the first was not, 1 where only the second was not. If the first are
on time by `worse_max` less often, the mean is (1 - worse_max) / 2, which `evidence` tests. Comparing what happened at
about the same time keeps out what changes for all, such as load.

What this assumes, as a frame of the canary is no draw of all frames but one of the streams that were drawn once: that
those streams would be on time as often as the others if both had the same version. With many streams the draw sees to
that; with a few, one that is slow by nature speaks against the candidate, and one that is fast by nature for it.

Whether others suffer is told by what they were before the canary began (`Since`). That cannot be told from load that
rises for all of them just then.
"""

from collections import deque

from duly.trials.evidence import Above

BEFORE_MIN = 500
"""With fewer outcomes of a class from before, those since are compared with nothing."""
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


class Since:
    """How often frames are on time, compared with the mean of those before, by class."""

    __slots__ = ("_before", "_worse", "before_frames", "before_on_time", "frames", "on_time")

    def __init__(self, worse_max: float) -> None:
        """`worse_max`: by how much less than before is still taken, less than 1."""
        self._worse = Above((1.0 + worse_max) / 2)
        self._before: dict[int, tuple[int, int]] = {}
        """How many frames of each class there were, and how many were on time."""
        self.frames = self.on_time = 0
        self.before_frames = self.before_on_time = 0

    def before(self, stream_class: int, on_time: bool) -> None:
        """Takes an outcome from before; those since must come later."""
        frames, were_on_time = self._before.get(stream_class, (0, 0))
        self._before[stream_class] = frames + 1, were_on_time + on_time
        self.before_frames += 1
        self.before_on_time += on_time

    def add(self, stream_class: int, on_time: bool) -> None:
        """Takes an outcome since."""
        self.frames += 1
        self.on_time += on_time
        frames, were_on_time = self._before.get(stream_class, (0, 0))
        if frames >= BEFORE_MIN:
            self._worse.add((1.0 + were_on_time / frames - on_time) / 2)

    def proves_worse(self, risk: float) -> bool:
        """Whether they are on time less often than before by more than `worse_max`."""
        return self._worse.proves(risk)
