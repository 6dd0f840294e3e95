"""What is different between two replays of one drive, frame by frame."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from duly_logs.detections import Detection
from duly_logs.log import LogError
from duly_logs.written import Row, Written

IOU_SAME = 0.5
"""Boxes of one label that overlap by at least this are the same thing."""
IOU_MOVED = 0.9
"""The same thing has moved where its boxes overlap by less."""
SAME_MIN = 0.5
"""Two logs are of one drive where at least this share of the frames of the shorter one has the same times."""


@dataclass(frozen=True, slots=True)
class Change:
    """A frame that came out differently."""

    before: Row
    after: Row
    appeared: tuple[Detection, ...] = ()
    vanished: tuple[Detection, ...] = ()
    moved: tuple[tuple[Detection, Detection], ...] = ()
    """Things whose box or score is another."""
    outputs: tuple[str, ...] = ()
    """In words, which outputs have other numbers."""

    @property
    def ended_otherwise(self) -> bool:
        return self.before.status != self.after.status

    @property
    def only_before(self) -> tuple[Detection, ...]:
        """What was found before and not after, also where there was no result after."""
        return self.vanished if self.after.ok else self.before.detections

    @property
    def only_after(self) -> tuple[Detection, ...]:
        """What was found after and not before, also where there was no result before."""
        return self.appeared if self.before.ok else self.after.detections

    @property
    def size(self) -> tuple[int, float]:
        """By which changes are sorted, the largest first."""
        lost = self.before.ok != self.after.ok
        only = self.only_before + self.only_after
        scores = sum(found.score for found in only)
        return len(only) + lost, scores + 0.1 * len(self.moved) + len(self.outputs)

    def words(self) -> str:
        """What changed, for people."""
        parts = [f"{self.before.status} → {self.after.status}"] if self.ended_otherwise else []
        for word, several in (("appeared", self.appeared), ("vanished", self.vanished)):
            if several:
                parts.append(f"{', '.join(f'{found.label} {found.score:.2f}' for found in several)} {word}")
        for a, b in self.moved:
            move = " moved" if overlap(a, b) < IOU_MOVED else ""
            parts.append(f"{a.label}{move}, {a.score:.2f} → {b.score:.2f}")
        return "; ".join([*parts, *self.outputs])


@dataclass(frozen=True, slots=True)
class Comparison:
    before: Written
    after: Written
    common: tuple[int, ...]
    """Frames that both have."""
    changes: tuple[Change, ...]
    """In the order of the drive."""
    only_before: int
    only_after: int

    def labels(self) -> list[tuple[str, int, int, int, int]]:
        """For each label: how often it was found before and after, and how often it appeared and vanished."""
        counts = [Counter[str]() for _ in range(4)]
        for count, written in zip(counts, (self.before, self.after), strict=False):
            for frame in self.common:
                count.update(found.label for found in written.rows[frame].detections)
        for change in self.changes:
            counts[2].update(found.label for found in change.appeared)
            counts[3].update(found.label for found in change.vanished)
        names = sorted(set().union(*counts), key=lambda name: (-counts[2][name] - counts[3][name], name))
        return [(name, counts[0][name], counts[1][name], counts[2][name], counts[3][name]) for name in names]


def compare(before: Written, after: Written, *, score: float, tolerance: float) -> Comparison:
    """Compares two logs of outcomes. Raises LogError where they are not of one drive.

    `score`: scores that differ by no more are the same. `tolerance`: numbers of other outputs, likewise, in shares of
    the larger one or, below 1, as they are.
    """
    common = [number for number in before.rows if number in after.rows]
    common = [number for number in common if before.rows[number].time_ns == after.rows[number].time_ns]
    fewer = min(len(before.rows), len(after.rows))
    if not fewer or len(common) < SAME_MIN * fewer:
        raise LogError(
            f"{before.log.path} and {after.log.path} are not of one drive: {len(common)} of their {fewer} frames have "
            "the same times; compare two replays of one log"
        )
    found = (_change(before.rows[number], after.rows[number], score, tolerance) for number in common)
    changes = tuple(change for change in found if change is not None)
    return Comparison(
        before, after, tuple(common), changes, len(before.rows) - len(common), len(after.rows) - len(common)
    )


def _change(before: Row, after: Row, score: float, tolerance: float) -> Change | None:
    change = Change(before, after)
    if before.ok and after.ok:
        pairs, vanished, appeared = matched(before.detections, after.detections)
        moved = [(a, b) for a, b in pairs if abs(a.score - b.score) > score or overlap(a, b) < IOU_MOVED]
        outputs = _outputs(before, after, tolerance)
        change = Change(before, after, tuple(appeared), tuple(vanished), tuple(moved), tuple(outputs))
    different = change.ended_otherwise or change.appeared or change.vanished or change.moved or change.outputs
    return change if different else None


def matched(
    before: tuple[Detection, ...], after: tuple[Detection, ...]
) -> tuple[list[tuple[Detection, Detection]], list[Detection], list[Detection]]:
    """Pairs of detections of the same thing, and what is left before and after; pairs that overlap most come first."""
    candidates = sorted(
        (
            (-overlap(a, b), i, j)
            for i, a in enumerate(before)
            for j, b in enumerate(after)
            if a.label == b.label and overlap(a, b) >= IOU_SAME
        ),
    )
    pairs: list[tuple[Detection, Detection]] = []
    taken_before: set[int] = set()
    taken_after: set[int] = set()
    for _, i, j in candidates:
        if i not in taken_before and j not in taken_after:
            taken_before.add(i)
            taken_after.add(j)
            pairs.append((before[i], after[j]))
    vanished = [found for i, found in enumerate(before) if i not in taken_before]
    appeared = [found for j, found in enumerate(after) if j not in taken_after]
    return pairs, vanished, appeared


def overlap(a: Detection, b: Detection) -> float:
    """Intersection over union of two boxes."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box.x1 - box.x0) * (box.y1 - box.y0) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def _outputs(before: Row, after: Row, tolerance: float) -> list[str]:
    words = []
    boxes = bool(before.detections or after.detections)
    for name in sorted(before.outputs.keys() | after.outputs.keys()):
        if boxes and name in ("boxes", "scores", "classes"):
            continue
        a, b = before.outputs.get(name), after.outputs.get(name)
        if a is None or b is None:
            words.append(f"{name} {'appeared' if a is None else 'vanished'}")
        elif a.shape != b.shape:
            words.append(f"{name} {list(a.shape)} → {list(b.shape)}")
        elif a.size and not np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True):
            at = int(np.nanargmax(np.abs(a - b).ravel())) if np.isfinite(a - b).any() else 0
            words.append(f"{name} {a.ravel()[at]:.4g} → {b.ravel()[at]:.4g}")
    return words
