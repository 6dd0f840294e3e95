"""Whether a canary harms anybody, found out in turns: a switchback.

Theory. Time is cut into pairs of blocks. In one block of each pair the candidate answers the frames of the streams that
were drawn, in the other one the active version does; which comes first is a lot, that of each pair on its own. Of each
pair one score counts, (1 + ratio with it - ratio without) / 2, by the on-time ratios of the very same streams in the
two blocks. Whatever the streams are like and whatever load does, it would have been the same had the lot fallen
otherwise. So where the candidate changes nothing the score is as likely to lie so far above 1/2 as below, and where it
takes at most `worse_max` from the ratio of any block its mean, given all that came before, is at least
(1 - worse_max) / 2. That is all that `evidence` asks for. The scores of other streams' frames say in the same way
whether others suffer. Such designs are those of Bojinov, Simchi-Levi and Zhao, "Design and analysis of switchback
experiments" (Management Science, 2023); that a lot is enough to test by is Fisher's (The design of experiments, 1935).

What it assumes: that nothing of a block is felt in the next one for longer than SETTLES of it. Frames that came in that
time belong to no block. How many frames come must not hang on the lot, which is so for sensors that send in their time.

A frame belongs to the block in which it was received, whenever it ends. So a pair is judged a block after its end, or
later, once no frame is open that came before its end. A class with no frame in one of the blocks is left out of that
pair. Classes count the same, however many frames each has, so that many unimportant frames do not hide a few that
matter.
"""

from collections import deque
from dataclasses import dataclass, field
from random import Random

from duly.trials.comparison import By, OnTime
from duly.trials.evidence import NoWorse

SETTLES = 0.25
"""The part of each block in which frames belong to none, since those of the block before may still wait or run."""
CLASSES_MAX = 4
"""Classes of streams are numbers below this."""
BLOCKS_MAX = 1024
"""Where frames are open for longer than so many blocks, pairs are judged without them."""


class _Seen:
    """How many frames were on time and how many not, by class."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = [0] * (2 * CLASSES_MAX)

    def ratio(self, stream_class: int) -> float | None:
        """The on-time ratio of a class; None: it has no frame."""
        late, on_time = self.counts[2 * stream_class : 2 * stream_class + 2]
        return on_time / (late + on_time) if late + on_time else None

    @property
    def on_time(self) -> int:
        return sum(self.counts[1::2])

    @property
    def frames(self) -> int:
        return sum(self.counts)


@dataclass(slots=True)
class _Block:
    began_ns: int
    """When the streams went over."""
    has_candidate: bool
    mine: _Seen = field(default_factory=_Seen)
    others: _Seen = field(default_factory=_Seen)


class Ratios:
    """The on-time ratios of some streams with the candidate and without."""

    __slots__ = ("evidence", "seen")

    def __init__(self, worse_max: float) -> None:
        self.evidence = NoWorse(worse_max)
        self.seen = OnTime()

    def add(self, seen: _Seen, without: _Seen) -> None:
        """Takes what was seen in the two blocks of a pair."""
        scores: list[float] = []
        for stream_class in range(CLASSES_MAX):
            ratio, other = seen.ratio(stream_class), without.ratio(stream_class)
            if ratio is not None and other is not None:
                scores.append((1.0 + ratio - other) / 2)
        if scores:
            self.evidence.add(sum(scores) / len(scores))
        before = self.seen
        self.seen = OnTime(
            before.frames + seen.frames,
            before.on_time + seen.on_time,
            before.frames_without + without.frames,
            before.on_time_without + without.on_time,
            before.pairs + bool(scores),
        )


class Switchback:
    """A canary in turns."""

    in_turns = True

    def __init__(self, worse_max: float, block_ns: int, lot: Random) -> None:
        """`worse_max`: by how much on-time ratios may be less with the candidate, less than 1. `lot`: says which block
        of each pair has the candidate.
        """
        self._mine, self._others = Ratios(worse_max), Ratios(worse_max)
        self._block_ns = block_ns
        self._settle_ns = round(block_ns * SETTLES)
        self._lot = lot
        self._blocks: deque[_Block] = deque()
        """Those of the pairs that are not judged, the newest last."""
        self._begun = 0
        """How many blocks have begun."""

    @property
    def has_candidate(self) -> bool:
        return bool(self._blocks) and self._blocks[-1].has_candidate

    @property
    def due_ns(self) -> int:
        """When the block that is under way is over."""
        return self._blocks[-1].began_ns + self._block_ns if self._blocks else 0

    @property
    def mine(self) -> OnTime:
        """Frames of the pairs that are judged, and they alone."""
        return self._mine.seen

    def begin(self, now_ns: int) -> None:
        self._next_block(now_ns)

    def passed(self, now_ns: int, open_since_ns: int | None) -> bool:
        over = bool(self._blocks) and now_ns >= self.due_ns
        if over:
            self._next_block(now_ns)
        while len(self._blocks) > 3 and self._is_known(open_since_ns):
            first, second = self._blocks.popleft(), self._blocks.popleft()
            seen, without = (first, second) if first.has_candidate else (second, first)
            self._mine.add(seen.mine, without.mine)
            self._others.add(seen.others, without.others)
        return over

    def _is_known(self, open_since_ns: int | None) -> bool:
        """Whether all frames of the oldest pair have ended."""
        ended_ns = self._blocks[2].began_ns
        return open_since_ns is None or open_since_ns >= ended_ns or len(self._blocks) > BLOCKS_MAX

    def frame(self, received_ns: int, by: By, drawn: bool, stream_class: int, on_time: bool) -> None:
        mine = drawn and by is not By.OTHER
        if by is By.CANDIDATE and not mine:
            return  # whoever states the version has it in each block
        for block in reversed(self._blocks):
            if received_ns >= block.began_ns:
                if received_ns >= block.began_ns + self._settle_ns:
                    seen = block.mine if mine else block.others
                    seen.counts[2 * stream_class + on_time] += 1
                return

    def proves_as_good(self, risk: float) -> bool:
        """Where there were other streams in most pairs, they must not suffer either."""
        others = self._others
        alone = 2 * others.seen.pairs < self._mine.seen.pairs
        return self._mine.evidence.proves_as_good(risk) and (alone or others.evidence.proves_as_good(risk))

    def proves_worse(self, risk: float) -> bool:
        return self._mine.evidence.proves_worse(risk)

    def proves_others_suffer(self, risk: float) -> bool:
        return self._others.evidence.proves_worse(risk)

    def said(self) -> str:
        return _said(self.mine)

    def said_of_others(self) -> str:
        return _said(self._others.seen)

    def _next_block(self, now_ns: int) -> None:
        first = self._begun % 2 == 0
        has_candidate = self._lot.random() < 0.5 if first else not self._blocks[-1].has_candidate
        self._blocks.append(_Block(now_ns, has_candidate))
        self._begun += 1


def _said(seen: OnTime) -> str:
    if not seen.pairs:
        return "no pair of blocks had frames in both"
    text = f"{seen.ratio} of {seen.frames} frames on time in blocks with it"
    return f"{text}, {seen.ratio_without} of {seen.frames_without} in those without, {seen.pairs} pairs"
