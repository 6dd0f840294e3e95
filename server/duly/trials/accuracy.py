"""Whether a candidate is right less often than the active version, by the labels that come during its canary.

Labels come late, some sooner and some later, and for some frames alone. Where the canary goes in turns (`switchback`),
a frame belongs to the pair of blocks in which it was received, and a pair gives one score, (1 + share of right answers
with the candidate - share without) / 2, once both of its blocks have labels and none has come for QUIET_NS. Had the lot
of the pair fallen otherwise, the same frames would have had the same labels at the same times, so that the score tells
the versions apart and nothing else. Labels for a pair that is judged count for nothing any more.

Where streams stay with the candidate, each label of its frames is compared with the newest one that is left of other
streams' frames, as if those were alike.
"""

from collections import deque
from dataclasses import dataclass, field

from duly.trials.evidence import NoWorse

QUIET_NS = 10_000_000_000
"""A pair for which no label has come for so long is judged."""
BLOCKS_MAX = 8192
"""Labels of frames that came so many blocks ago count for nothing."""
LABELS_A_PAIR_MAX = 4096
"""More labels of one pair count for nothing."""
OTHERS_MAX = 4096
"""So many labels of other streams are kept to compare with; the oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class LabelledFrame:
    """What a label says of the answer to a frame."""

    model: str
    """The version that gave it, NAME/VERSION."""
    drawn: bool
    """Whether its stream is one of those that go over in turns."""
    key: tuple[str, int]
    """What clients call the frame by."""
    received_unix_ns: int
    """When the frame was received, on the server's wall clock."""
    right: bool


@dataclass(slots=True)
class Labels:
    """How many labels came, and how many of them say that the answer was right."""

    count: int = 0
    right: int = 0

    def add(self, right: bool) -> None:
        self.count += 1
        self.right += right

    @property
    def share(self) -> float:
        return self.right / self.count if self.count else 0.0

    def __str__(self) -> str:
        return f"{self.share:.1%} of {self.count}"


@dataclass(slots=True, eq=False)
class _Pair:
    mine: Labels = field(default_factory=Labels)
    rest: Labels = field(default_factory=Labels)
    keys: set[tuple[str, int]] = field(default_factory=set)
    newest_ns: int = 0
    """When the last label came."""
    judged: bool = False


class Accuracy:
    def __init__(self, worse_max: float, labels_min: int, in_turns: bool) -> None:
        """`worse_max`: the difference of the shares that is still taken, less than 1. `labels_min`: with fewer labels
        of either version nothing is decided. `in_turns`: whether the canary's streams go over in turns.
        """
        self.mine, self.rest = Labels(), Labels()
        """Of the candidate, and of what it is compared with."""
        self._labels_min = labels_min
        self._in_turns = in_turns
        self._evidence = NoWorse(worse_max)
        self._blocks: deque[tuple[int, bool, _Pair]] = deque(maxlen=BLOCKS_MAX)
        """When each block began, whether it is the candidate's, and its pair."""
        self._begun = 0
        self._open: dict[_Pair, None] = {}
        """The pairs that have labels and are not judged, the oldest label first."""
        self._others: deque[bool] = deque(maxlen=OTHERS_MAX)

    def turn(self, unix_ns: int, has_candidate: bool) -> None:
        """Takes that a block has begun, by the server's wall clock."""
        pair = self._blocks[-1][2] if self._begun % 2 else _Pair()
        self._blocks.append((unix_ns, has_candidate, pair))
        self._begun += 1

    def add(self, now_ns: int, frame: LabelledFrame, by_candidate: bool) -> None:
        """Takes a label of a frame of the model that the candidate, or else the active version, has answered."""
        block = next((block for block in reversed(self._blocks) if block[0] <= frame.received_unix_ns), None)
        if block is None:
            return
        if not self._in_turns:
            self._compare(frame.right, by_candidate)
            return
        _, has_candidate, pair = block
        full = len(pair.keys) >= LABELS_A_PAIR_MAX
        if not frame.drawn or has_candidate is not by_candidate or pair.judged or full or frame.key in pair.keys:
            return
        pair.keys.add(frame.key)
        pair.newest_ns = now_ns
        self._open[pair] = None
        for labels in (pair.mine, self.mine) if by_candidate else (pair.rest, self.rest):
            labels.add(frame.right)

    def _compare(self, right: bool, by_candidate: bool) -> None:
        (self.mine if by_candidate else self.rest).add(right)
        if not by_candidate:
            self._others.append(right)
        elif self._others:
            self._evidence.add((1 + right - self._others.pop()) / 2)

    def passed(self, now_ns: int) -> None:
        """Judges the pairs for which no more labels come."""
        for pair in list(self._open):
            if pair.mine.count and pair.rest.count and now_ns - pair.newest_ns >= QUIET_NS:
                del self._open[pair]
                pair.judged = True
                pair.keys.clear()
                self._evidence.add((1 + pair.mine.share - pair.rest.share) / 2)
        while len(self._open) > BLOCKS_MAX // 2:
            del self._open[next(iter(self._open))]

    @property
    def decides(self) -> bool:
        """Whether enough labels have come."""
        return min(self.mine.count, self.rest.count) >= self._labels_min

    def proves_worse(self, risk: float) -> bool:
        """Whether the candidate is right less often, by more than is allowed."""
        return self.decides and self._evidence.proves_worse(risk)

    def lets_pass(self, risk: float) -> bool:
        """Whether it is right as often, up to what is allowed, or there are too few labels to ask for that."""
        return not self.decides or self._evidence.proves_as_good(risk)

    def said(self) -> str:
        """Returns in words what labels say."""
        if not self.mine.count and not self.rest.count:
            return "no labels came"
        text = f"by labels {self.mine} answers right, of the active version's {self.rest}"
        return text if self.decides else f"{text}, too few to decide (labels_min)"
