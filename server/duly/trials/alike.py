"""Whether the streams of a canary are on time less often than other streams, which count as alike, and whether others
are since there is one. This is for canaries that cannot go in turns (`switchback`), as their streams stay with the
version that they began with.

Each outcome of the canary is compared with one of other streams of the model, of the same class, the newest that is
left: 1/2 where both were on time, or neither, 0 where only the first was not, 1 where only the second was not. If the
first are on time by `worse_max` less often, the mean is (1 - worse_max) / 2, which `evidence` tests. Comparing what
happened at about the same time keeps out what changes for all, such as load.

What this assumes, as a frame of the canary is no draw of all frames but one of the streams that were drawn once: that
those streams would be on time as often as the others if both had the same version. With many streams the draw sees to
that; with a few, one that is slow by nature speaks against the candidate, and one that is fast by nature for it.

Whether others suffer is told by what they were before the canary began (`Since`). That cannot be told from load that
rises for all of them just then.

Frames are counted as they end, and weighed when somebody asks what they prove.
"""

from collections import deque

from duly.trials.comparison import By, OnTime, percent
from duly.trials.evidence import Above, NoWorse

BEFORE_MIN = 500
"""With fewer outcomes of a class from before, those since are compared with nothing."""
KEPT_MAX = 4096
"""So many outcomes of each class are kept to compare others with; the oldest are forgotten."""


class Compared:
    """How often frames are on time, compared with others."""

    __slots__ = ("_evidence", "_new", "_others", "frames", "on_time", "others", "others_on_time", "pairs")

    def __init__(self, worse_max: float) -> None:
        """`worse_max`: the difference of the ratios that is still taken, less than 1."""
        self._evidence = NoWorse(worse_max)
        self._new = [0, 0, 0]
        """How many comparisons that are not weighed yet came out as 0, 1/2 and 1."""
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
        if others:
            self.pairs += 1
            self._new[1 + on_time - others.pop()] += 1

    def proves_as_good(self, risk: float) -> bool:
        """Whether the frames are on time as often, up to `worse_max`."""
        return self._weighed().proves_as_good(risk)

    def proves_worse(self, risk: float) -> bool:
        """Whether they are on time less often by more than that."""
        return self._weighed().proves_worse(risk)

    def _weighed(self) -> NoWorse:
        for nth, times in enumerate(self._new):
            if times:
                self._evidence.add(nth / 2, times)
        self._new = [0, 0, 0]
        return self._evidence


class Since:
    """How often frames are on time, compared with the mean of those before, by class."""

    __slots__ = ("_before", "_new", "_worse", "before_frames", "before_on_time", "frames", "on_time")

    def __init__(self, worse_max: float) -> None:
        """`worse_max`: by how much less than before is still taken, less than 1."""
        self._worse = Above((1.0 + worse_max) / 2)
        self._before: dict[int, list[int]] = {}
        """How many frames of each class were late, and how many on time."""
        self._new: dict[int, list[int]] = {}
        """The same of those since, as far as they are not weighed yet."""
        self.frames = self.on_time = 0
        self.before_frames = self.before_on_time = 0

    def before(self, stream_class: int, on_time: bool) -> None:
        """Takes an outcome from before; those since must come later."""
        self._before.setdefault(stream_class, [0, 0])[on_time] += 1
        self.before_frames += 1
        self.before_on_time += on_time

    def add(self, stream_class: int, on_time: bool) -> None:
        """Takes an outcome since."""
        self.frames += 1
        self.on_time += on_time
        self._new.setdefault(stream_class, [0, 0])[on_time] += 1

    def proves_worse(self, risk: float) -> bool:
        """Whether they are on time less often than before by more than `worse_max`."""
        for stream_class, new in self._new.items():
            late, on_time = self._before.get(stream_class, (0, 0))
            if late + on_time >= BEFORE_MIN:
                for ended_on_time, times in enumerate(new):
                    if times:
                        self._worse.add((1.0 + on_time / (late + on_time) - ended_on_time) / 2, times)
        self._new = {}
        return self._worse.proves(risk)


class Alike:
    """A canary whose streams stay with the candidate."""

    in_turns = False
    has_candidate = True
    due_ns = 0

    def __init__(self, worse_max: float, why: str) -> None:
        """`worse_max`: see `Compared`. `why`: why it does not go in turns."""
        self._why = why
        self._compared = Compared(worse_max)
        """Frames of the canary, compared with others of the model."""
        self._since = Since(worse_max)
        """Frames of all models that the candidate does not answer, compared with those before."""
        self._begun = False

    def begin(self, now_ns: int) -> None:
        self._begun = True

    def passed(self, now_ns: int, open_since_ns: int | None) -> bool:
        return False

    def frame(self, received_ns: int, by: By, drawn: bool, stream_class: int, on_time: bool) -> None:
        if by is By.CANDIDATE:
            if self._begun:
                self._compared.add(stream_class, on_time)
            return
        if by is By.ACTIVE:
            self._compared.add_other(stream_class, on_time)
        if self._begun:
            self._since.add(stream_class, on_time)
        else:
            self._since.before(stream_class, on_time)

    @property
    def mine(self) -> OnTime:
        seen = self._compared
        return OnTime(seen.frames, seen.on_time, seen.others, seen.others_on_time, seen.pairs)

    def proves_as_good(self, risk: float) -> bool:
        return self._compared.proves_as_good(risk)

    def proves_worse(self, risk: float) -> bool:
        return self._compared.proves_worse(risk)

    def proves_others_suffer(self, risk: float) -> bool:
        return self._since.proves_worse(risk)

    def said(self) -> str:
        mine = self.mine
        if not mine.frames:
            return "no frame was answered in the canary"
        text = f"{mine.ratio} of {mine.frames} frames on time, of {mine.frames_without} of other streams"
        return f"{text} {mine.ratio_without}, as if those were alike ({self._why})"

    def said_of_others(self) -> str:
        since = self._since
        now, before = percent(since.on_time, since.frames), percent(since.before_on_time, since.before_frames)
        return f"{now} of their {since.frames} frames are on time since the canary began, {before} were before"
