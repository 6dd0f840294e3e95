"""Which frames of a fusion group's members belong together: those whose capture times are within the tolerance.

Theory. What is searched for is the smallest range of capture times that holds one frame of each input, the new one
among them, and is no longer than the tolerance. Only sets with the new frame are looked at, as all others were when
their own last frame came. Frames of one stream are taken to come in the order of their capture, so that a member whose
last frame was captured the tolerance after some frame, or later, will bring nothing more that fits it. A stream whose
capture times go back is only answered later for it: its last frame counts, whatever came before.
"""

from collections.abc import Sequence

from duly.core.types import Frame


class Piece:
    """A frame that waits for those of the other inputs."""

    __slots__ = ("arrived_ns", "frame")

    def __init__(self, frame: Frame, arrived_ns: int) -> None:
        self.frame = frame
        self.arrived_ns = arrived_ns


def closest(new: Frame, others: Sequence[Sequence[Piece]], tolerance_ns: int) -> list[Piece] | None:
    """Returns one piece of each of `others` so that they are captured as close to `new` and to each other as can be;
    None: no such set is within the tolerance. Of equal sets it is the newest.
    """
    at_ns = new.captured_ns
    # The smallest range has of each input the last piece before the new frame, or the first one after it.
    around: list[tuple[Piece | None, Piece | None]] = []
    starts_ns = {at_ns}
    for waiting in others:
        before = after = None
        for piece in waiting:
            captured_ns = piece.frame.captured_ns
            if abs(captured_ns - at_ns) > tolerance_ns:
                continue
            if captured_ns > at_ns:
                if after is None or captured_ns <= after.frame.captured_ns:
                    after = piece
            elif before is None or captured_ns >= before.frame.captured_ns:
                before = piece
        if before is not None:
            starts_ns.add(before.frame.captured_ns)
        elif after is None:
            return None
        around.append((before, after))
    best_ns = tolerance_ns + 1
    from_ns = 0
    for start_ns in sorted(starts_ns, reverse=True):
        end_ns = _end_ns(at_ns, around, start_ns)
        if end_ns is not None and end_ns - start_ns < best_ns:
            from_ns, best_ns = start_ns, end_ns - start_ns
    if best_ns > tolerance_ns:
        return None
    return [_nearest(at_ns, before, after, from_ns, from_ns + best_ns) for before, after in around]


def fits(frame: Frame, waiting: Sequence[Piece], tolerance_ns: int) -> bool:
    """Whether one of these pieces was captured within the tolerance of the frame."""
    at_ns = frame.captured_ns
    return any([abs(piece.frame.captured_ns - at_ns) <= tolerance_ns for piece in waiting])


def _end_ns(at_ns: int, around: Sequence[tuple[Piece | None, Piece | None]], start_ns: int) -> int | None:
    """When the last frame was captured of the smallest set of which none is from before `start_ns`; None: there is
    none.
    """
    end_ns = at_ns
    for before, after in around:
        if before is None or before.frame.captured_ns < start_ns:
            if after is None:
                return None
            end_ns = max(end_ns, after.frame.captured_ns)
    return end_ns


def _nearest(at_ns: int, before: Piece | None, after: Piece | None, from_ns: int, to_ns: int) -> Piece:
    """Of both, that within the range, which one of them is; where both are, the nearer one, or else the newer."""
    if before is None or before.frame.captured_ns < from_ns:
        assert after is not None
        return after
    if after is None or after.frame.captured_ns > to_ns:
        return before
    return before if at_ns - before.frame.captured_ns < after.frame.captured_ns - at_ns else after
