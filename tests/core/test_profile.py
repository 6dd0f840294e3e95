"""What a profile plans: high enough nearly always, in order of size, and unmoved by a hiccup."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.core.profile import GAIN_PERCENT, MARGIN_PERCENT, WINDOW, Profile

MS = 1_000_000

times_ns = st.integers(1_000, 50 * MS)
warm_ups = st.dictionaries(
    st.integers(1, 12), st.lists(times_ns, min_size=1, max_size=3).map(tuple), min_size=1, max_size=4
)


def plan(profile: Profile) -> list[int]:
    """Planned times of batches of 1, 2, ..."""
    return [profile.planned_ns(size) for size in range(1, profile.batch_max + 1)]


def with_margin(time_ns: int) -> int:
    return time_ns + time_ns * MARGIN_PERCENT // 100


runs_of_any_size = st.lists(st.tuples(st.integers(1, 12), times_ns, st.booleans()), max_size=8)


@given(samples_ns=warm_ups, any_size=st.booleans(), runs=runs_of_any_size)
def test_larger_batches_never_plan_shorter(
    samples_ns: dict[int, tuple[int, ...]], any_size: bool, runs: list[tuple[int, int, bool]]
) -> None:
    profile = Profile(samples_ns, any_size)
    assert profile.batch_max == max(samples_ns)
    for size, actual_ns, after_idle in runs:
        profile.observe(min(size, profile.batch_max), actual_ns, after_idle=after_idle)
        assert plan(profile) == sorted(plan(profile))
        assert all(planned_ns > 0 for planned_ns in plan(profile))


@given(samples_ns=warm_ups, pattern=st.lists(times_ns, max_size=10), repeats=st.integers(1, 2 * WINDOW // 10))
def test_plans_the_q99_of_the_last_window_plus_the_margin(
    samples_ns: dict[int, tuple[int, ...]], pattern: list[int], repeats: int
) -> None:
    """For the smallest size nothing but its own runs counts."""
    smallest = min(samples_ns)
    profile = Profile(samples_ns, any_size=True)
    runs = pattern * repeats
    for actual_ns in runs:
        profile.observe(smallest, actual_ns)
    last = sorted([*samples_ns[smallest], *runs][-WINDOW:])
    assert profile.planned_ns(smallest) == with_margin(last[(len(last) - 1) * 99 // 100])


@given(outlier_ns=st.integers(10 * MS, 10_000 * MS), when=st.integers(0, 29))
def test_one_outlier_does_not_count(outlier_ns: int, when: int) -> None:
    calm = Profile({1: (10 * MS,) * 30, 4: (20 * MS,) * 30}, any_size=True)
    runs = [10 * MS] * 30
    runs[when] = outlier_ns
    assert plan(Profile({1: tuple(runs), 4: (20 * MS,) * 30}, any_size=True)) == plan(calm)
    disturbed = Profile({1: (10 * MS,) * 30, 4: (20 * MS,) * 30}, any_size=True)
    disturbed.observe(1, outlier_ns)
    disturbed.observe(4, outlier_ns)
    assert plan(disturbed) == plan(calm)


@given(outlier_ns=st.integers(30 * MS, 10_000 * MS), size=st.sampled_from([2, 3]))
def test_one_outlier_does_not_count_at_a_size_that_the_warm_up_left_out(outlier_ns: int, size: int) -> None:
    profile = Profile({1: (10 * MS,) * 30, 4: (20 * MS,) * 30}, any_size=True)
    before = plan(profile)
    profile.observe(size, outlier_ns)
    assert plan(profile) == before


def test_a_size_that_the_warm_up_left_out_is_learnt_from_its_own_runs() -> None:
    profile = Profile({1: (10 * MS,) * 30, 4: (40 * MS,) * 30}, any_size=True)
    assert profile.planned_ns(2) == with_margin(20 * MS)
    for _ in range(WINDOW):
        profile.observe(2, 12 * MS)
    assert profile.planned_ns(2) == with_margin(12 * MS)
    assert profile.planned_ns(3) == with_margin(26 * MS)


def test_a_lasting_shift_counts_and_is_forgotten_after_a_window() -> None:
    profile = Profile({1: (10 * MS,) * 30}, any_size=True)
    profile.observe(1, 30 * MS)
    assert profile.planned_ns(1) == with_margin(10 * MS)
    profile.observe(1, 30 * MS)
    assert profile.planned_ns(1) == with_margin(30 * MS)
    for _ in range(WINDOW):
        profile.observe(1, 10 * MS)
    assert profile.planned_ns(1) == with_margin(10 * MS)


def test_probes_after_idle_undo_a_spoilt_plan_one_run_each() -> None:
    profile = Profile({1: (10 * MS,) * 30}, any_size=True)
    for _ in range(3):
        profile.observe(1, 500 * MS)
    assert profile.planned_ns(1) == with_margin(500 * MS)
    probes = 0
    while profile.planned_ns(1) > with_margin(10 * MS):
        profile.observe(1, 10 * MS, after_idle=True)
        probes += 1
    assert probes == 2


@given(samples_ns=warm_ups)
def test_sizes_never_run_lie_on_a_straight_line_between_their_neighbours(
    samples_ns: dict[int, tuple[int, ...]],
) -> None:
    single = {size: times[:1] for size, times in samples_ns.items()}
    profile = Profile(single, any_size=True)
    line: list[int] = []
    for size in range(1, profile.batch_max + 1):
        upper = min(known for known in single if known >= size)
        lower = max((known for known in single if known <= size), default=upper)
        low_ns, high_ns = single[lower][0], single[upper][0]
        between_ns = low_ns if lower == upper else low_ns + (high_ns - low_ns) * (size - lower) // (upper - lower)
        line.append(max(with_margin(between_ns), line[-1] if line else 0))
    assert plan(profile) == line


@given(samples_ns=warm_ups)
def test_fixed_engines_plan_the_size_that_they_pad_to(samples_ns: dict[int, tuple[int, ...]]) -> None:
    profile = Profile(samples_ns, any_size=False)
    padded = [
        profile.planned_ns(min(known for known in samples_ns if known >= size))
        for size in range(1, profile.batch_max + 1)
    ]
    assert plan(profile) == padded


def test_a_padded_run_counts_for_the_size_that_it_was_padded_to() -> None:
    profile = Profile({1: (10 * MS,), 4: (20 * MS,) * 30}, any_size=False)
    profile.observe(2, 40 * MS)
    profile.observe(3, 40 * MS)
    assert plan(profile) == [with_margin(10 * MS)] + [with_margin(40 * MS)] * 3


@given(samples_ns=warm_ups, any_size=st.booleans(), limit_ns=st.integers(0, 60 * MS), frames=st.integers(1, 20))
def test_efficient_size_is_that_of_brute_force(
    samples_ns: dict[int, tuple[int, ...]], any_size: bool, limit_ns: int, frames: int
) -> None:
    profile = Profile(samples_ns, any_size)
    single_ns = profile.planned_ns(1)

    def pays(size: int) -> bool:
        return profile.planned_ns(size) * 100 <= size * single_ns * (100 - GAIN_PERCENT)

    lawful = [
        size
        for size in range(2, min(frames, profile.batch_max) + 1)
        if profile.planned_ns(size) <= limit_ns and pays(size)
    ]
    assert profile.efficient_size(limit_ns, frames) == max(lawful, default=1)


@pytest.mark.parametrize("samples_ns", [{}, {1: ()}, {1: (10,), 2: ()}, {0: (10,)}, {-1: (10,), 1: (10,)}])
def test_refuses_a_warm_up_that_measured_nothing(samples_ns: dict[int, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="a profile needs samples for batch sizes of 1 or more"):
        Profile(samples_ns, any_size=True)
