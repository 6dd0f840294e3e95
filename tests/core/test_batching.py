"""What every batch that `form_batch` forms must hold, and that the window rule is no loss."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from duly.core.batching import EDGE_PERCENT, LOOKAHEAD_BATCHES, WINDOW_GAIN_PERCENT, Batch, form_batch
from duly.core.profile import Profile
from duly.core.types import Frame, StreamClass

MS = 1_000_000
NOW_NS = 7_000 * MS


@dataclass
class Decision:
    waiting: list[Frame]
    profile: Profile
    cap_ns: int
    last_free_lane: bool

    def batch(self) -> Batch:
        return form_batch(self.waiting, self.profile, NOW_NS, self.cap_ns, self.last_free_lane)


def frame(seq: int, due_ns: int, stream_class: StreamClass = StreamClass.STANDARD) -> Frame:
    return Frame(seq, seq, 1, "detect/1", NOW_NS + due_ns, stream_class=stream_class)


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    """Frames in the queue's order, each of which could start alone now and be in time."""
    sizes = draw(st.sampled_from([(1,), (1, 4), (1, 2, 4, 8), (1, 3, 5), (4,), (2, 8)]))
    times_ns = draw(st.lists(st.integers(1, 40), min_size=len(sizes), max_size=len(sizes)))
    profile = Profile({size: (ms * MS,) for size, ms in zip(sizes, times_ns, strict=True)}, draw(st.booleans()))
    alone_ns = profile.planned_ns(1)
    slack = st.one_of(st.integers(0, 10), st.integers(0, 120)).map(lambda ms: alone_ns + ms * MS)
    specs = draw(
        st.lists(
            st.tuples(st.sampled_from(StreamClass), slack), min_size=1, max_size=LOOKAHEAD_BATCHES * profile.batch_max
        )
    )
    waiting = [frame(seq, slack_ns, cls) for seq, (cls, slack_ns) in enumerate(sorted(specs))]
    return Decision(waiting, profile, draw(st.integers(0, 40).map(lambda ms: ms * MS)), draw(st.booleans()))


@given(decision=decisions())
def test_every_frame_of_a_batch_is_planned_in_time(decision: Decision) -> None:
    batch = decision.batch()
    assert 1 <= len(batch.frames) <= decision.profile.batch_max
    assert batch.planned_ns == decision.profile.planned_ns(len(batch.frames))
    assert all(NOW_NS + batch.planned_ns <= chosen.deadline_ns for chosen in batch.frames)
    assert len(batch.frames) == 1 or batch.planned_ns <= decision.cap_ns


@given(decision=decisions())
def test_a_batch_costs_no_more_lane_time_than_single_runs(decision: Decision) -> None:
    batch = decision.batch()
    assert batch.planned_ns <= len(batch.frames) * decision.profile.planned_ns(1)


@given(decision=decisions())
def test_every_frame_is_chosen_passed_over_or_left_waiting_and_only_once(decision: Decision) -> None:
    batch = decision.batch()
    taken = [chosen.seq for chosen in batch.frames + batch.passed_over]
    assert len(set(taken)) == len(taken)
    assert set(taken) <= {waiting.seq for waiting in decision.waiting}


@given(decision=decisions())
def test_no_more_critical_frame_is_left_behind(decision: Decision) -> None:
    batch = decision.batch()
    least = max(chosen.stream_class for chosen in batch.frames)
    chosen = {chosen.seq for chosen in batch.frames}
    assert all(left.stream_class >= least for left in decision.waiting if left.seq not in chosen)
    assert batch.frames[0].stream_class == decision.waiting[0].stream_class


@given(decision=decisions())
def test_a_batch_takes_frames_in_their_order(decision: Decision) -> None:
    """It begins at the head of the queue, behind the frames passed over, or past those at the edge of their time."""
    batch = decision.batch()
    start = decision.waiting.index(batch.frames[0])
    assert batch.frames == decision.waiting[start : start + len(batch.frames)]
    room_ns = decision.profile.planned_ns(1) * EDGE_PERCENT // 100
    before = decision.waiting[:start]
    assert batch.passed_over == before or all(left.deadline_ns < NOW_NS + room_ns for left in before)


@given(decision=decisions())
def test_passed_over_frames_cannot_run_in_time_after_the_batch(decision: Decision) -> None:
    batch = decision.batch()
    free_ns = NOW_NS + batch.planned_ns
    for passed in batch.passed_over:
        assert passed.deadline_ns < free_ns + decision.profile.planned_ns(1)
    if not decision.last_free_lane:
        assert batch.passed_over == []


@given(decision=decisions())
def test_a_window_serves_clearly_more_frames_per_lane_time(decision: Decision) -> None:
    batch = decision.batch()
    if not batch.passed_over:
        return
    calm = Decision(decision.waiting, decision.profile, decision.cap_ns, last_free_lane=False).batch()
    gain = (100 + WINDOW_GAIN_PERCENT) / 100
    assert len(batch.frames) / batch.planned_ns > gain * len(calm.frames) / calm.planned_ns


def test_a_window_passes_over_the_shortest_prefix_that_pays() -> None:
    profile = Profile({1: (10 * MS,), 8: (24 * MS,)}, any_size=True)
    tight = [frame(seq, 11 * MS) for seq in range(2)]
    roomy = [frame(seq, 30 * MS) for seq in range(2, 12)]
    batch = form_batch(tight + roomy, profile, NOW_NS, 25 * MS, last_free_lane=True)
    assert batch.passed_over == tight
    assert batch.frames == roomy[:8]


def test_a_window_blocks_the_lane_no_longer_than_any_batch() -> None:
    profile = Profile({1: (10 * MS,), 8: (24 * MS,)}, any_size=True)
    waiting = [frame(0, 11 * MS), *(frame(seq, 30 * MS) for seq in range(1, 12))]
    batch = form_batch(waiting, profile, NOW_NS, 20 * MS, last_free_lane=True)
    assert batch.passed_over == waiting[:1]
    assert batch.frames == waiting[1:6]
    assert batch.planned_ns <= 20 * MS < profile.planned_ns(6)


def test_a_window_at_the_end_of_the_queue_passes_over_nothing_that_has_time() -> None:
    """Batches of two are the best of this engine, yet that is no reason to give up all but the last two frames."""
    profile = Profile({1: (6 * MS,), 2: (7 * MS,), 4: (20 * MS,), 8: (35 * MS,)}, any_size=True)
    waiting = [frame(seq, due * MS) for seq, due in enumerate([17, 23, 27, 30, *range(36, 100, 3)])]
    batch = form_batch(waiting, profile, NOW_NS, 25 * MS, last_free_lane=True)
    assert batch.passed_over == []
    assert batch.frames == waiting[:3]


def test_no_window_where_the_lane_can_serve_all_in_time() -> None:
    profile = Profile({1: (10 * MS,), 8: (24 * MS,)}, any_size=True)
    waiting = [frame(0, 11 * MS), *(frame(seq, 200 * MS) for seq in range(1, 12))]
    batch = form_batch(waiting, profile, NOW_NS, 25 * MS, last_free_lane=True)
    assert batch.passed_over == []
    assert batch.frames == waiting[:1]
