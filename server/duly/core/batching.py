"""Which of the waiting frames of one model form the next batch.

Theory. A batch pays only where running b frames together costs less than one after another, which the measured profile
alone tells: on a GPU it nearly always does, for a convolution on one CPU thread it does not. So a batch takes frames in
their order while the whole still meets the earliest deadline in it, up to the largest size that earns its keep.

Under overload a head with little slack would force small batches for ever (the lane then does its least when most is
asked of it). The window rule: pass over the shortest prefix of the queue behind which a clearly more efficient batch
meets its own head's deadline (Nexus, SOSP'19, `model_exec.cpp`); of those passed over rejoin what still fits (Symphony,
`batch_policy.cpp`). A more critical frame is never passed over for a less critical one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from duly.core.profile import Profile
from duly.core.types import Frame

WINDOW_GAIN_PERCENT = 10
"""A window must run at least this many more frames per lane time than the batch at the head."""
LOOKAHEAD_BATCHES = 4
"""How many full batches of waiting frames one decision looks at: bounds its cost."""


@dataclass(slots=True)
class Batch:
    frames: list[Frame]
    planned_ns: int
    passed_over: list[Frame]
    """Can no longer run in time once this batch has started on the last free lane."""


def form_batch(waiting: Sequence[Frame], profile: Profile, now_ns: int, cap_ns: int, last_free_lane: bool) -> Batch:
    """The next batch out of `waiting` (not empty; most critical class first, then by deadline; each could start alone
    now and be in time). `cap_ns` bounds how long a batch of two or more may block the lane.
    """
    deadline_ns = waiting[0].deadline_ns
    fitting = 1
    for frame in waiting[1 : profile.batch_max]:
        deadline_ns = min(deadline_ns, frame.deadline_ns)
        if now_ns + profile.planned_ns(fitting + 1) > deadline_ns:
            break
        fitting += 1
    size = profile.efficient_size(cap_ns, fitting)
    if last_free_lane and size < min(len(waiting), profile.batch_max) and _too_much(waiting, size, profile, now_ns):
        window = _window(waiting, size, profile, now_ns, cap_ns)
        if window is not None:
            return window
    return Batch(list(waiting[:size]), profile.planned_ns(size), [])


def _too_much(waiting: Sequence[Frame], size: int, profile: Profile, now_ns: int) -> bool:
    """Whether a frame behind a batch of the first `size` would be late even at the lane's best rate."""
    free_ns = now_ns + profile.planned_ns(size)
    best = profile.efficient_size(profile.planned_ns(profile.batch_max), profile.batch_max)
    best_ns = profile.planned_ns(best)
    return any(free_ns + nth * best_ns // best > frame.deadline_ns for nth, frame in enumerate(waiting[size:], start=1))


def _window(waiting: Sequence[Frame], size: int, profile: Profile, now_ns: int, cap_ns: int) -> Batch | None:
    head_ns = profile.planned_ns(size)
    same_class = sum(frame.stream_class == waiting[0].stream_class for frame in waiting)
    for start in range(1, same_class):
        # Within a class the first deadline is the earliest.
        limit_ns = min(waiting[start].deadline_ns - now_ns, cap_ns)
        windowed = profile.efficient_size(limit_ns, same_class - start)
        if windowed * head_ns * 100 > size * profile.planned_ns(windowed) * (100 + WINDOW_GAIN_PERCENT):
            return _rejoin(waiting, start, windowed, profile, now_ns)
    return None


def _rejoin(waiting: Sequence[Frame], start: int, size: int, profile: Profile, now_ns: int) -> Batch:
    frames = list(waiting[start : start + size])
    passed_over: list[Frame] = []
    for frame in waiting[:start]:
        larger = len(frames) + 1
        if larger <= profile.batch_max and now_ns + profile.planned_ns(larger) <= frame.deadline_ns:
            frames.append(frame)
        else:
            passed_over.append(frame)
    return Batch(frames, profile.planned_ns(len(frames)), passed_over)
