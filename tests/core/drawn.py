"""The strategies of the tests of the policies: profiles of every shape, and queues of one class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from duly.core.timing.lane_speed import LaneSpeed
from duly.core.timing.profile import MARGIN_PERCENT, Profile
from duly.core.types import Frame, StreamClass
from duly.core.waiting import Entry, QueuedFrame

MS = 1_000_000
NOW_NS = 7_000 * MS


def profile_of(times_ms: Mapping[int, float], *, any_size: bool = True) -> Profile:
    """A profile that plans these times, to within a nanosecond."""
    samples_ns: dict[int, tuple[int, ...]] = {
        size: (round(ms * MS * 100 / (100 + MARGIN_PERCENT)),) for size, ms in times_ms.items()
    }
    return Profile(samples_ns, any_size, LaneSpeed())


def queue_of(
    dues_ms: Sequence[float], *, age_ms: float = 0, stream_class: StreamClass = StreamClass.STANDARD
) -> list[Entry]:
    """Frames that have waited for `age_ms` and whose deadlines are `dues_ms` ahead, each of its own stream."""
    entries = []
    for seq, due_ms in enumerate(sorted(dues_ms)):
        frame = Frame(seq, seq, 1, "detect/1", NOW_NS + round(due_ms * MS))
        entries.append((frame.deadline_ns, seq, QueuedFrame(frame, stream_class, NOW_NS - round(age_ms * MS))))
    return entries


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    sizes = draw(st.sampled_from([(1,), (1, 4), (1, 2, 4, 8), (1, 3, 5), (4,), (2, 8)]))
    times_ms = draw(st.lists(st.integers(1, 40), min_size=len(sizes), max_size=len(sizes)))
    return profile_of(dict(zip(sizes, times_ms, strict=True)), any_size=draw(st.booleans()))


@dataclass
class Waiting:
    profile: Profile
    entries: list[Entry]
    """The waiting frames; each could run alone now and be in time."""
    cap_ns: int


@st.composite
def waiting(draw: st.DrawFn) -> Waiting:
    profile = draw(profiles())
    alone_ms = profile.plan_ns[1] / MS
    slack_ms = st.one_of(st.integers(0, 10), st.integers(0, 120))
    dues_ms = draw(st.lists(slack_ms.map(lambda ms: alone_ms + ms), min_size=1, max_size=5 * profile.batch_max))
    return Waiting(profile, queue_of(dues_ms), draw(st.integers(0, 60)) * MS)
