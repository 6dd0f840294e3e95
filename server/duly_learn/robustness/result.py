"""What a test of robustness found, as it is kept, shown and written."""

from dataclasses import dataclass, field
from typing import Any

from duly.agreement.interval import Interval, interval
from duly_learn.robustness.significance import Difference


@dataclass(frozen=True, slots=True)
class Level:
    """One condition: a corruption at a severity, or an attack within a ball."""

    label: str
    """The severity, `1` to `5`, or epsilon, such as `0.0314`."""
    amount: Any
    """What the severity means; of an attack, epsilon."""
    scores: tuple[float, ...]
    """The score of each frame that is judged, 0 to 1, in their order."""
    refused: int = 0
    """Frames that the model would not take, which count as 0."""
    flagged: int = 0
    """Frames on which the model's guards have found something, those that they refused among them. Not of attacks."""
    queries: int = 0
    """Queries of an attack, of all frames together."""
    at_limit: int = 0
    """Frames on which an attack was still at work when its queries, or its time, were used up."""
    out_of_time: int = 0
    """Those of them at which it was the time: these figures depend on how fast the machine was."""

    @property
    def mean(self) -> Interval:
        return interval(self.scores)


@dataclass(frozen=True, slots=True)
class Row:
    """One corruption, or one attack, of the least to the greatest."""

    name: str
    what: str
    """`corruption` or `attack`."""
    inputs: tuple[str, ...]
    """The inputs that it harms."""
    unit: str
    scale: str
    """Whose severities, or which paper."""
    levels: tuple[Level, ...]
    left_out: int = 0
    """Balls for which there was no time."""


@dataclass(frozen=True, slots=True)
class Tested:
    """One variant of one version."""

    model: str
    """Such as `digits/1 (int8)`."""
    clean: Level
    rows: tuple[Row, ...]

    @property
    def is_cut(self) -> bool:
        """Whether there was less time than attacks would have taken."""
        return any(row.left_out or any(level.out_of_time for level in row.levels) for row in self.rows)

    @property
    def guarded(self) -> bool:
        """Whether a guard has found anything."""
        return any(level.flagged for row in self.rows for level in row.levels) or self.clean.flagged > 0

    def level(self, row: str, label: str) -> Level | None:
        """Returns the condition of that name; None: it was not tested."""
        for each in self.rows:
            for level in each.levels:
                if (each.name, level.label) == (row, label):
                    return level
        return self.clean if row == CLEAN else None


CLEAN = "clean"


@dataclass(frozen=True, slots=True)
class Compared:
    """One condition, in which two versions were given the same."""

    row: str
    label: str
    difference: Difference
    significant: bool


@dataclass(frozen=True, slots=True)
class Result:
    tested: Tested
    against: Tested | None
    compared: tuple[Compared, ...]
    measure: str
    expected: str
    """What answers are compared with, in words."""
    frames: int
    """Those that are judged."""
    streams: int
    seed: int
    is_repeatable: bool
    """Whether the same frames, seed and limits give the same figures: the clock has cut nothing short."""
    agreement: Interval | None = None
    """Of both versions' answers to the clean frames; None: there is one version."""
    notes: tuple[str, ...] = ()
    """What was left out, and where a limit was reached."""
    pictures: tuple["Shown", ...] = field(default=(), repr=False)

    def find(self, row: str, label: str) -> Compared | None:
        """Returns how both versions compare in a condition; None: they were not compared there."""
        return next((each for each in self.compared if (each.row, each.label) == (row, label)), None)

    def to_json(self) -> dict[str, Any]:
        """The result as plain data for `json`."""
        return {
            "measure": self.measure,
            "expected": self.expected,
            "frames": self.frames,
            "streams": self.streams,
            "seed": self.seed,
            "repeatable": self.is_repeatable,
            "confidence": 0.95,
            "notes": list(self.notes),
            "tested": _tested(self.tested),
            "against": _tested(self.against) if self.against is not None else None,
            "agreement_of_both": _interval(self.agreement) if self.agreement is not None else None,
            "compared": [
                {
                    "condition": each.row,
                    "level": each.label,
                    "difference": each.difference.mean,
                    "low": each.difference.low,
                    "high": each.difference.high,
                    "p": each.difference.p,
                    "significant": each.significant,
                }
                for each in self.compared
            ],
        }


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture as a corruption makes it, for people."""

    row: str
    label: str
    jpeg: bytes


def _tested(tested: Tested) -> dict[str, Any]:
    return {
        "model": tested.model,
        "clean": _level(tested.clean),
        "rows": [
            {
                "name": row.name,
                "what": row.what,
                "inputs": list(row.inputs),
                "unit": row.unit,
                "scale": row.scale,
                "levels": [_level(level) for level in row.levels],
            }
            for row in tested.rows
        ],
    }


def _level(level: Level) -> dict[str, Any]:
    return {
        "label": level.label,
        "amount": level.amount,
        **_interval(level.mean),
        "refused": level.refused,
        "flagged": level.flagged,
        "queries": level.queries,
        "at_limit": level.at_limit,
        "out_of_time": level.out_of_time,
        "scores": list(level.scores),
    }


def _interval(found: Interval) -> dict[str, float]:
    return {"mean": found.mean, "low": found.low, "high": found.high}
