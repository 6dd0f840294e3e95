"""Backlog policies: what waits while the model is busy.

    LATEST         the newest frame of the stream waits; it supersedes the one that waited
    KEEP_LAST n    the newest n wait; a newer one supersedes the oldest of them
    ALL            every frame waits for its turn

Frames that must run are never superseded and do not count. A stream that wants all its frames gains nothing from fresh
ones: its batches may be put off to become larger (`deferral`), and an older frame is worth as much as a newer one
(`merit`). In streams of the other two policies the next frame may take the place of the one that waits, and the age of
a result is what counts.
"""

from duly.core.state import StreamState
from duly.core.types import BACKLOG_FRAMES_MAX, BacklogPolicy, StreamTerms
from duly.core.waiting import QueuedFrame


def takes_frames(policy: BacklogPolicy) -> bool:
    """Whether a stream says how many frames it keeps under that policy."""
    return policy is BacklogPolicy.KEEP_LAST


def frames_kept(policy: BacklogPolicy, frames: int) -> int:
    """How many frames wait at most, where a stream asks for `frames` (0: it does not say); 0: any number.

    Raises ValueError where the policy takes no such number, or needs another.
    """
    if takes_frames(policy):
        if not 1 <= frames <= BACKLOG_FRAMES_MAX:
            raise ValueError(f"should be 1 to {BACKLOG_FRAMES_MAX} with {policy.name}, got {frames}")
        return frames
    if frames:
        raise ValueError(f"goes with KEEP_LAST alone, got {frames} with {policy.name}")
    return 1 if policy is BacklogPolicy.LATEST else 0


def keeps_all(terms: StreamTerms) -> bool:
    """Whether no frame of the stream supersedes another."""
    return terms.backlog is BacklogPolicy.ALL


def superseded(stream: StreamState) -> QueuedFrame | None:
    """The frame that gives way to the newest one of the stream, which already waits; None where all may wait."""
    if keeps_all(stream.terms) or stream.supersedable <= stream.terms.backlog_frames:
        return None
    return next(queued for queued in stream.waiting.values() if not queued.frame.must_run)
