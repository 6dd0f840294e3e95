"""What a free lane does next: the policies together, seen from one decision."""

from hypothesis import given
from hypothesis import strategies as st

from duly.core.dispatch.best_effort_share import ClassShares
from duly.core.dispatch.choose import DispatchContext, Hold, next_batch, something_waits
from duly.core.dispatch.deferral import LANES_PER_MODEL
from duly.core.merit import FLOOR_MERIT
from duly.core.state import Batch, StreamState, VariantState
from duly.core.types import BacklogPolicy, Frame, StreamClass, StreamTerms
from duly.core.waiting import QueuedFrame
from tests.core.drawn import MS, NOW_NS, profile_of

CRITICAL, STANDARD, BEST_EFFORT = StreamClass.CRITICAL, StreamClass.STANDARD, StreamClass.BEST_EFFORT
GPU = {1: 10.0, 8: 24.0}
Due = tuple[float, StreamClass]


class Scene:
    """Variants with frames that wait, for lanes that are all alike."""

    def __init__(self, lanes: int = 1, free: int = 1, cap_ms: int = 60) -> None:
        caps_ns = dict.fromkeys(StreamClass, cap_ms * MS)
        self.worth: dict[int, float] = {}
        """By seq, where it is not 1."""
        terms = StreamTerms(StreamClass.STANDARD, BacklogPolicy.ALL, 0, 100 * MS, 64)
        self.about = DispatchContext(
            variants=[],
            streams={1: StreamState(terms)},
            lanes=lanes,
            lanes_free=free,
            best_effort=True,
            cap_ns=caps_ns,
            shares=ClassShares(),
            promised=False,
            critical_missed=False,
            merit=self._merit,
            freshness=self._merit,
        )
        self._seq = 0

    def _merit(self, queued: QueuedFrame) -> float:
        return self.worth.get(queued.frame.seq, 1.0)

    def variant(self, times_ms: dict[int, float], *dues: Due, gap_ms: float = 0) -> list[QueuedFrame]:
        """Its frames in the order given; they came 10 ms ago."""
        variant = VariantState(f"model{len(self.about.variants)}/1", "default", 0, stateful=False)
        variant.profiles["gpu:0"] = profile_of(times_ms)
        variant.arrivals.gap_ns, variant.arrivals.last_ns = gap_ms * MS, NOW_NS
        variant.plan()
        frames = []
        for due_ms, stream_class in dues:
            self._seq += 1
            frame = Frame(self._seq, 1, self._seq, variant.model, NOW_NS + round(due_ms * MS))
            queued = QueuedFrame(frame, stream_class, NOW_NS - 10 * MS)
            variant.waiting.add(queued)
            frames.append(queued)
        self.about.variants.append(variant)
        return frames

    def chosen(self) -> Batch | Hold | None:
        return next_batch(NOW_NS, "gpu:0", self.about)

    def batch(self) -> Batch:
        chosen = self.chosen()
        assert isinstance(chosen, Batch)
        return chosen


def test_nothing_waits_that_the_lane_could_serve_in_time() -> None:
    scene = Scene()
    scene.variant(GPU, (9, STANDARD))
    assert scene.chosen() is None
    assert not something_waits(NOW_NS, "gpu:0", scene.about)
    scene.variant(GPU, (11, STANDARD))
    assert something_waits(NOW_NS, "gpu:0", scene.about)
    assert next_batch(NOW_NS, "gpu:1", scene.about) is None


def test_a_batch_grows_with_less_critical_frames_in_their_order() -> None:
    scene = Scene()
    frames = scene.variant(GPU, (60, STANDARD), (40, BEST_EFFORT), (50, BEST_EFFORT))
    batch = scene.batch()
    assert batch.frames == frames
    assert not batch.by_overload


def test_a_batch_grows_no_further_than_its_earliest_deadline() -> None:
    scene = Scene()
    frames = scene.variant(GPU, (60, STANDARD), (13, BEST_EFFORT), (13, BEST_EFFORT))
    assert scene.batch().frames == frames[:2], "a third would end at 14 ms"


def test_a_batch_grows_no_longer_than_its_class_may_block() -> None:
    scene = Scene(cap_ms=15)
    frames = scene.variant(GPU, *[(100, STANDARD)] * 2, *[(100, BEST_EFFORT)] * 4)
    assert scene.batch().frames == frames[:3]


def test_the_earliest_latest_start_goes_first_where_all_fit() -> None:
    scene = Scene()
    scene.variant({1: 10}, (60, STANDARD))
    urgent = scene.variant({1: 40}, (80, STANDARD))
    assert scene.batch().frames == urgent


def test_the_denser_model_goes_first_where_not_all_fit() -> None:
    scene = Scene()
    scene.variant({1: 40}, (45, STANDARD))
    dense = scene.variant(GPU, *[(50, STANDARD)] * 4)
    batch = scene.batch()
    assert batch.frames == dense
    assert batch.by_overload


def test_density_counts_merit() -> None:
    scene = Scene()
    worthy = scene.variant({1: 40}, (45, STANDARD))
    scene.variant(GPU, *[(50, STANDARD)] * 4)
    scene.worth[worthy[0].frame.seq] = 1000.0
    assert scene.batch().frames == worthy


def test_no_window_passes_over_a_frame_that_a_floor_depends_on() -> None:
    scene = Scene()
    frames = scene.variant(GPU, (11, STANDARD), *[(30, STANDARD)] * 12)
    assert scene.batch().frames == frames[1:9]
    scene.worth[frames[0].frame.seq] = FLOOR_MERIT
    scene.about.floors = 1
    assert scene.batch().frames == frames[:1]


def test_overload_is_no_matter_while_another_lane_is_free() -> None:
    scene = Scene(lanes=2, free=2)
    urgent = scene.variant({1: 40}, (45, STANDARD))
    scene.variant(GPU, *[(50, STANDARD)] * 4)
    batch = scene.batch()
    assert batch.frames == urgent
    assert not batch.by_overload


def test_best_effort_goes_first_when_it_is_owed_a_batch() -> None:
    scene = Scene()
    standard, best_effort = scene.variant({1: 10}, (90, STANDARD), (90, BEST_EFFORT))
    assert scene.batch().frames == [standard]
    scene.about.shares.began(STANDARD, 250 * MS, best_effort_waits=True)
    assert scene.batch().frames == [best_effort]


def test_critical_gives_way_to_nobody() -> None:
    scene = Scene()
    scene.about.shares.began(STANDARD, 250 * MS, best_effort_waits=True)
    critical, _, _ = scene.variant({1: 10}, (90, CRITICAL), (90, STANDARD), (90, BEST_EFFORT))
    assert scene.batch().frames == [critical]


def test_a_critical_batch_takes_no_frame_before_its_turn() -> None:
    scene = Scene()
    first = scene.variant(GPU, (60, CRITICAL), (70, CRITICAL), (90, CRITICAL), (50, STANDARD))
    scene.variant(GPU, (80, CRITICAL))
    assert scene.batch().frames == first[:2]


def test_critical_frames_go_by_deadline_until_one_was_missed() -> None:
    scene = Scene()
    due_first = scene.variant({1: 10}, (60, CRITICAL))
    starts_first = scene.variant({1: 40}, (70, CRITICAL))
    assert scene.batch().frames == due_first
    scene.about.critical_missed = True
    assert scene.batch().frames == starts_first, "it has to start in 30 ms, the other in 50 ms"


def test_a_lane_holds_at_high_demand_until_one_more_would_be_late() -> None:
    scene = Scene(LANES_PER_MODEL, LANES_PER_MODEL)
    frames = scene.variant(GPU, *[(40, STANDARD)] * 2, gap_ms=1)
    profile = scene.about.variants[0].profiles["gpu:0"]
    assert scene.chosen() == Hold(frames[0].frame.deadline_ns - profile.plan_ns[3])


def test_a_lane_holds_neither_alone_nor_for_critical_frames() -> None:
    alone = Scene()
    alone.variant(GPU, *[(40, STANDARD)] * 2, gap_ms=12)
    assert isinstance(alone.chosen(), Batch)
    critical = Scene(LANES_PER_MODEL, LANES_PER_MODEL)
    critical.variant(GPU, *[(40, CRITICAL)] * 2, gap_ms=1)
    assert isinstance(critical.chosen(), Batch)


def test_a_lane_does_not_hold_while_the_server_drains() -> None:
    scene = Scene(LANES_PER_MODEL, LANES_PER_MODEL)
    scene.variant(GPU, *[(40, STANDARD)] * 2, gap_ms=1)
    assert isinstance(scene.chosen(), Hold)
    scene.about.draining = True
    assert isinstance(scene.chosen(), Batch)


dues = st.lists(st.tuples(st.integers(5, 90).map(float), st.sampled_from(StreamClass)), max_size=12)


@given(
    queues=st.lists(st.tuples(st.sampled_from([GPU, {1: 10.0}, {1: 25.0, 2: 30.0}]), dues), min_size=1, max_size=3),
    lanes=st.integers(1, 4),
    free=st.integers(1, 4),
    cap_ms=st.integers(5, 60),
    gap_ms=st.sampled_from([0, 1, 5, 50]),
    owed_ms=st.sampled_from([0, 250]),
    missed=st.booleans(),
)
def test_whatever_is_chosen_is_of_one_variant_in_time_and_not_too_long(
    queues: list[tuple[dict[int, float], list[Due]]],
    lanes: int,
    free: int,
    cap_ms: int,
    gap_ms: int,
    owed_ms: int,
    missed: bool,
) -> None:
    scene = Scene(max(lanes, free), free, cap_ms)
    for times_ms, specs in queues:
        scene.variant(times_ms, *specs, gap_ms=gap_ms)
    scene.about.shares.began(STANDARD, owed_ms * 19 * MS, best_effort_waits=True)
    scene.about.critical_missed = missed
    chosen = scene.chosen()
    assert (chosen is not None) == something_waits(NOW_NS, "gpu:0", scene.about)
    if isinstance(chosen, Hold):
        assert chosen.until_ns > NOW_NS
    elif chosen is not None:
        waiting = list(chosen.variant.waiting)
        assert all(frame in waiting for frame in chosen.frames)
        assert len({queued.frame.seq for queued in chosen.frames}) == len(chosen.frames)
        assert chosen.planned_ns == chosen.variant.profiles["gpu:0"].plan_ns[len(chosen.frames)]
        assert all(NOW_NS + chosen.planned_ns <= queued.frame.deadline_ns for queued in chosen.frames)
        assert len(chosen.frames) == 1 or chosen.planned_ns <= cap_ms * MS
