"""Whether what guards find is enough, by what was measured of them, in words that say what would help."""

from collections.abc import Sequence
from dataclasses import dataclass

from duly_learn.guards.measure import CLEAN, Row

FOUND_MIN = 0.95
"""The share of spoilt frames of each kind that guards are to find."""
FALSE_ALARMS_MAX = 0.01
"""The share of clean frames that they may flag."""
USEFUL_MIN = 0.5
"""A detector that finds a smaller share of every kind of noise and of shuffled frames is of no use."""
ALARMING_MIN = 0.1
"""Nor is one that flags a larger share of clean frames."""
LESS_MAX = 0.1
"""A variant may find so much less of each kind than the first one of its version, and no less."""
_OF_OTHERS = frozenset({CLEAN, "blank", "frozen"})
"""What other guards are there for, or none."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of a model's guards."""

    found: str
    """The figures of all kinds, in one sentence."""
    short: Sequence[str]
    """What falls short, each in a sentence with what would help."""
    useless: str
    """Why the detector is not worth having; empty: it is."""


def verdict(rows: Sequence[Row], detector: str) -> Verdict:
    """Judges rows of `measure`, the first of which is of clean frames. `detector`: the name of its guard."""
    clean, *spoilt = rows
    found = f"false alarms on {clean.share:.1%} of {clean.frames} held-out frames; found " + ", ".join(
        f"{row.kind} {row.share:.1%}" for row in spoilt
    )
    short = []
    if clean.share > FALSE_ALARMS_MAX:
        loud = max(clean.by_guard, key=lambda name: clean.by_guard[name])
        short.append(
            f"false alarms on {clean.share:.1%} of {clean.frames} held-out frames, more than {FALSE_ALARMS_MAX:.0%}, "
            f"most by '{loud}': fit to more frames of all that is usual where the model serves"
            + (", or raise max of its [[guard]]" if loud == detector else "")
        )
    short += [
        f"only {row.share:.1%} of {row.kind} found, less than {FOUND_MIN:.0%}: {_help(row.kind)}"
        for row in spoilt
        if row.share < FOUND_MIN
    ]
    return Verdict(found, short, _useless(clean, spoilt, detector))


def finds_less(rows: Sequence[Row], first: Sequence[Row]) -> str:
    """Says of which kinds a variant's guards find much less than those of the first one; empty: of none."""
    shares = {row.kind: row.share for row in first if row.kind != CLEAN}
    return ", ".join(
        f"{row.share:.1%} of {row.kind} found, there {shares[row.kind]:.1%}"
        for row in rows
        if row.kind in shares and row.share < shares[row.kind] - LESS_MAX
    )


def _help(kind: str) -> str:
    if kind == "blank":
        return "a BLANK guard with a larger spread_max, or RANGE, finds more"
    if kind == "frozen":
        return "a FROZEN guard finds them, where clean frames do not repeat"
    return (
        "clean frames of fewer different scenes or sensors make the detector narrower, as does a smaller max of its "
        "[[guard]], and RANGE finds what leaves the usual numbers"
    )


def _useless(clean: Row, spoilt: Sequence[Row], detector: str) -> str:
    alarms = clean.by_guard[detector] / max(1, clean.frames)
    if alarms > ALARMING_MIN:
        return f"it flags {alarms:.1%} of {clean.frames} clean held-out frames"
    shares = {row.kind: row.by_guard[detector] / max(1, row.frames) for row in spoilt if row.kind not in _OF_OTHERS}
    if shares and max(shares.values()) < USEFUL_MIN:
        return "it finds hardly anything: " + ", ".join(f"{share:.1%} of {kind}" for kind, share in shares.items())
    return ""
