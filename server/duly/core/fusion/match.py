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
    starts_ns = {at_ns}
    for waiting in others:
        if not waiting:
            return None
        for piece in waiting:
            if at_ns - tolerance_ns <= piece.frame.captured_ns < at_ns:
                starts_ns.add(piece.frame.captured_ns)
    best: list[Piece] | None = None
    best_ns = tolerance_ns + 1
    for start_ns in sorted(starts_ns, reverse=True):
        chosen: list[Piece] = []
        end_ns = at_ns
        for waiting in others:
            nearest = _nearest(at_ns, waiting, start_ns, start_ns + tolerance_ns)
            if nearest is None:
                break
            chosen.append(nearest)
            end_ns = max(end_ns, nearest.frame.captured_ns)
        if len(chosen) == len(others):
            first_ns = min([at_ns, *[piece.frame.captured_ns for piece in chosen]])
            if end_ns - first_ns < best_ns:
                best, best_ns = chosen, end_ns - first_ns
    return best


def fits(frame: Frame, waiting: Sequence[Piece], tolerance_ns: int) -> bool:
    """Whether one of these pieces was captured within the tolerance of the frame."""
    at_ns = frame.captured_ns
    return any([abs(piece.frame.captured_ns - at_ns) <= tolerance_ns for piece in waiting])


def _nearest(at_ns: int, waiting: Sequence[Piece], from_ns: int, to_ns: int) -> Piece | None:
    nearest: Piece | None = None
    for piece in waiting:
        captured_ns = piece.frame.captured_ns
        if from_ns <= captured_ns <= to_ns and (
            nearest is None or abs(captured_ns - at_ns) <= abs(nearest.frame.captured_ns - at_ns)
        ):
            nearest = piece
    return nearest
