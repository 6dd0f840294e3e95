"""What the guards of a version find on spoilt frames, and what they take for spoilt of clean ones, in a real worker."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic_ns

from duly.agreement.interval import Interval, interval
from duly_learn.frames.frame import LearnFrame
from duly_learn.frames.split import alike_by_time
from duly_learn.guards.spoilt import Spoiler
from duly_learn.running.model import RunningModel

CLEAN = "clean"


@dataclass(frozen=True, slots=True)
class Row:
    """What was found on frames of one kind."""

    kind: str
    frames: int
    by_guard: Mapping[str, int]
    """On how many of them each guard found something."""
    by_any: int
    found: Interval
    """The share of frames on which something was found, with its 95 % interval; neighbours count as one."""

    @property
    def share(self) -> float:
        """The share of the frames on which something was found."""
        return self.by_any / self.frames if self.frames else 0.0

    def told(self) -> dict[str, object]:
        """Returns it as it stands in JSON."""
        ends = [self.found.low, self.found.high]
        return {
            "kind": self.kind,
            "frames": self.frames,
            "found": dict(self.by_guard),
            "any": self.by_any,
            "interval": ends,
        }


def measure(
    model: RunningModel,
    clean: Sequence[LearnFrame],
    seed: int,
    told: Callable[[str], None] = lambda line: None,
    spoilt_max: int | None = None,
) -> list[Row]:
    """Runs clean frames and those that are made of them. The first row is of the clean ones. Raises NotSpoilt.

    `spoilt_max`: of each kind no more than so many are made, of clean ones that lie evenly; None: one of each.
    Of frozen frames those count that repeat others before them more often than any guard allows.
    """
    spoiler = Spoiler(model.signature, clean, seed)
    began_ns = monotonic_ns()
    rows = [_row(model, CLEAN, clean)]
    told(f"{CLEAN}: {len(clean)} frames in {(monotonic_ns() - began_ns) / 1e9:.1f} s")
    spoilt = clean if spoilt_max is None else evenly(clean, spoilt_max)
    for kind, spoil in spoiler.kinds().items():
        began_ns = monotonic_ns()
        rows.append(_row(model, kind, spoil(spoilt)))
        told(f"{kind}: {len(spoilt)} frames in {(monotonic_ns() - began_ns) / 1e9:.1f} s")
    return rows


def evenly(frames: Sequence[LearnFrame], most: int) -> list[LearnFrame]:
    """Returns up to so many of the frames, which lie evenly among them."""
    count = min(most, len(frames))
    return [frames[len(frames) * nth // count] for nth in range(count)]


def _row(model: RunningModel, kind: str, frames: Sequence[LearnFrame]) -> Row:
    allowed = max((guard.repeats_max for guard in model.version.config.guards if guard.kind == "FROZEN"), default=0)
    counted = list(zip(frames, model.found(frames), strict=True))
    if kind == "frozen":
        seen: dict[str, int] = {}
        nth: list[int] = []
        for frame in frames:
            nth.append(seen.get(frame.stream, 0))
            seen[frame.stream] = nth[-1] + 1
        counted = [each for each, before in zip(counted, nth, strict=True) if before > allowed]
    found = [names for _, names in counted]
    by_guard = {name: sum(name in names for names in found) for name in model.signature.guards}
    if not found:
        return Row(kind, 0, by_guard, 0, Interval(0.0, 0.0, 1.0, 0))
    share = interval([float(bool(names)) for names in found], alike=alike_by_time([frame for frame, _ in counted]))
    return Row(kind, len(found), by_guard, sum(map(bool, found)), share)


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as text for people."""
    guards = list(rows[0].by_guard)
    heads = ["frames", "number", *guards, "any guard", "95 % interval"]
    lines = [
        [row.kind, str(row.frames)]
        + [f"{row.by_guard[name] / max(1, row.frames):.1%}" for name in guards]
        + [f"{row.share:.1%}", f"{row.found.low:.1%} to {row.found.high:.1%}"]
        for row in rows
    ]
    widths = [max(len(line[at]) for line in [heads, *lines]) for at in range(len(heads))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in [heads, *lines]
    )
