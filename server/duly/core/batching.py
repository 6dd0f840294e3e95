"""Which of the waiting frames of one model form the next batch.

Theory. A batch pays only where running b frames together costs less than one after another, which the measured profile
alone tells: on a GPU it nearly always does, for a convolution on one CPU thread it does not. So a batch takes frames in
their order while the whole still meets the earliest deadline in it, up to the largest size that earns its keep.

Under overload a head with little slack would force small batches for ever (the lane then does its least when most is
asked of it). The window rule: pass over the shortest prefix of the queue behind which a clearly more efficient batch
meets its own head's deadline (Nexus, SOSP'19, `model_exec.cpp`). Only frames that this batch would make late are passed
over, and never a more critical one for a less critical one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from duly.core.profile import Profile
from duly.core.types import Frame

WINDOW_GAIN_PERCENT = 10
"""A window must run at least this many more frames per lane time than the batch at the head."""
EDGE_PERCENT = 150
"""Under overload a batch begins with a frame that has at least this much of a single run's plan left."""
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
    if len(waiting) == 1:
        return Batch([waiting[0]], profile.planned_ns(1), [])
    size = _size(waiting, profile, now_ns, cap_ns)
    if last_free_lane and size < len(waiting) and _too_much(waiting, size, profile, now_ns):
        if size < profile.batch_max:
            window = _window(waiting, size, profile, now_ns, cap_ns)
            if window is not None:
                return window
        waiting = waiting[_past_the_edge(waiting, profile, now_ns) :]
        size = _size(waiting, profile, now_ns, cap_ns)
    return Batch(list(waiting[:size]), profile.planned_ns(size), [])


def _size(waiting: Sequence[Frame], profile: Profile, now_ns: int, cap_ns: int) -> int:
    """Largest efficient batch of the first frames that meets each of their deadlines."""
    deadline_ns = waiting[0].deadline_ns
    fitting = 1
    for frame in waiting[1 : profile.batch_max]:
        deadline_ns = min(deadline_ns, frame.deadline_ns)
        if now_ns + profile.planned_ns(fitting + 1) > deadline_ns:
            break
        fitting += 1
    return profile.efficient_size(cap_ns, fitting)


def _past_the_edge(waiting: Sequence[Frame], profile: Profile, now_ns: int) -> int:
    """Index of the first frame of the head's class with room to spare; 0: none has."""
    room_ns = profile.planned_ns(1) * EDGE_PERCENT // 100
    for nth, frame in enumerate(waiting):
        if frame.stream_class != waiting[0].stream_class:
            break
        if frame.deadline_ns >= now_ns + room_ns:
            return nth
    return 0


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
        planned_ns = profile.planned_ns(windowed)
        needed = now_ns + planned_ns > waiting[start - 1].deadline_ns
        if needed and windowed * head_ns * 100 > size * planned_ns * (100 + WINDOW_GAIN_PERCENT):
            return Batch(list(waiting[start : start + windowed]), planned_ns, list(waiting[:start]))
    return None
