"""What a profile plans: high enough nearly always, in order of size, unmoved by hiccups, and in step with its lane."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.core.timing.lane_speed import LaneSpeed
from duly.core.timing.profile import GAIN_PERCENT, MARGIN_PERCENT, Profile
from duly.core.timing.window import FIT_STEPS, LONG_PERCENT, LONG_RUNS, PATIENCE_MAX, STALE_RUNS, TRIAL_RUNS, WINDOW
from tests.core.histories import recoveries

MS = 1_000_000

times_ns = st.integers(1_000, 50 * MS)
warm_ups = st.dictionaries(
    st.integers(1, 12), st.lists(times_ns, min_size=1, max_size=3).map(tuple), min_size=1, max_size=4
)


def profile_of(samples_ns: dict[int, tuple[int, ...]], any_size: bool = True) -> Profile:
    """Alone on its lane."""
    return Profile(samples_ns, any_size, LaneSpeed())


def plan(profile: Profile) -> list[int]:
    """Planned times of batches of 1, 2, ..."""
    return profile.plan_ns[1:]


def with_margin(time_ns: float) -> int:
    return round(time_ns * (100 + MARGIN_PERCENT) / 100)


runs_of_any_size = st.lists(st.tuples(st.integers(1, 12), times_ns, st.booleans()), max_size=8)


@given(samples_ns=warm_ups, any_size=st.booleans(), runs=runs_of_any_size)
def test_larger_batches_never_plan_shorter(
    samples_ns: dict[int, tuple[int, ...]], any_size: bool, runs: list[tuple[int, int, bool]]
) -> None:
    profile = profile_of(samples_ns, any_size)
    assert profile.batch_max == max(samples_ns)
    for size, actual_ns, probe in runs:
        profile.observe(min(size, profile.batch_max), actual_ns, probe=probe)
        assert plan(profile) == sorted(plan(profile))
        assert all(planned_ns > 0 for planned_ns in plan(profile))


@given(
    samples_ns=warm_ups,
    any_size=st.booleans(),
    runs=runs_of_any_size,
    limits=st.lists(st.tuples(st.integers(1, 12), runs_of_any_size), min_size=1, max_size=3),
)
def test_limited_batches(
    samples_ns: dict[int, tuple[int, ...]],
    any_size: bool,
    runs: list[tuple[int, int, bool]],
    limits: list[tuple[int, list[tuple[int, int, bool]]]],
) -> None:
    """Nothing larger is planned any more, and a larger batch that still ran teaches nothing."""
    profile = profile_of(samples_ns, any_size)
    for size, actual_ns, after_idle in runs:
        profile.observe(min(size, profile.batch_max), actual_ns, after_idle=after_idle)
    largest = max(samples_ns)
    for size_max, more in limits:
        largest = max((size for size in samples_ns if size <= min(size_max, largest)), default=largest)
        profile.limit(size_max)
        for size, actual_ns, after_idle in [(1, 1, False), *more]:
            before = profile.plan_ns
            profile.observe(size, actual_ns, after_idle=after_idle)
            assert size <= largest or profile.plan_ns is before
            assert profile.batch_max == profile.careful.batch_max == largest
            assert len(plan(profile)) == len(profile.careful.plan_ns) - 1 == len(profile.usual_ns) - 1 == largest
            assert plan(profile) == sorted(plan(profile))
            assert profile.largest_efficient(largest) in range(1, largest + 1)


def planned_for(times_ns: list[int]) -> int:
    """q99, but at most the longer of the last runs' q90 and what is not long against the median."""
    by_length, late = sorted(times_ns), sorted(times_ns[-LONG_RUNS:])
    bound = by_length[len(by_length) // 2] * LONG_PERCENT // 100
    return min(by_length[(len(by_length) - 1) * 99 // 100], max(bound, late[(len(late) - 1) * 90 // 100]))


@given(
    warm_up=st.lists(st.integers(9 * MS, 11 * MS), min_size=1, max_size=30),
    pattern=st.lists(st.integers(9 * MS, 11 * MS) | st.just(80 * MS), min_size=10, max_size=10),
    hiccups=st.integers(0, 10),
)
def test_plans_a_high_quantile_of_the_last_window_plus_the_margin(
    warm_up: list[int], pattern: list[int], hiccups: int
) -> None:
    """As long as the speed of the lane stays; here hiccups are too far apart for it to seem to change."""
    profile = profile_of({1: tuple(warm_up)})
    runs = [run_ns if nth % 10 == 0 and nth < 10 * hiccups else 10 * MS for nth, run_ns in enumerate(pattern * 15)]
    for actual_ns in runs:
        profile.observe(1, actual_ns)
    # Within the steps in which plans follow.
    assert plan(profile) == pytest.approx([with_margin(planned_for([*warm_up, *runs][-WINDOW:]))], rel=1 / FIT_STEPS)


@given(outlier_ns=st.integers(10 * MS, 10_000 * MS), when=st.integers(0, 29))
def test_one_outlier_does_not_count(outlier_ns: int, when: int) -> None:
    calm = profile_of({1: (10 * MS,) * 30, 4: (20 * MS,) * 30})
    runs = [10 * MS] * 30
    runs[when] = outlier_ns
    assert plan(profile_of({1: tuple(runs), 4: (20 * MS,) * 30})) == plan(calm)
    disturbed = profile_of({1: (10 * MS,) * 30, 4: (20 * MS,) * 30})
    disturbed.observe(1, outlier_ns)
    disturbed.observe(4, outlier_ns)
    assert plan(disturbed) == plan(calm)


@given(outlier_ns=st.integers(30 * MS, 10_000 * MS), size=st.sampled_from([2, 3]))
def test_one_outlier_does_not_count_at_a_size_that_the_warm_up_left_out(outlier_ns: int, size: int) -> None:
    profile = profile_of({1: (10 * MS,) * 30, 4: (20 * MS,) * 30})
    before = plan(profile)
    profile.observe(size, outlier_ns)
    assert plan(profile) == before


def test_a_size_that_the_warm_up_left_out_is_learnt_from_its_own_runs() -> None:
    profile = profile_of({1: (10 * MS,) * 30, 4: (40 * MS,) * 30})
    assert profile.plan_ns[2] == with_margin(20 * MS)
    for _ in range(WINDOW):
        profile.observe(2, 12 * MS)
    assert profile.plan_ns[2] == with_margin(12 * MS)
    assert profile.plan_ns[4] == with_margin(24 * MS), "no longer than two batches of two, which run now"
    assert profile.plan_ns[3] == with_margin(18 * MS)


def test_few_hiccups_in_a_window_do_not_count_frequent_ones_do() -> None:
    profile = profile_of({1: (10 * MS,) * WINDOW})
    planned = []
    for _ in range(20):
        profile.observe(1, 50 * MS)
        for _ in range(6):
            profile.observe(1, 10 * MS)
        planned.append(profile.plan_ns[1])
    assert planned[:2] == [with_margin(10 * MS)] * 2
    assert planned[2:4] == [with_margin(15 * MS)] * 2
    assert planned[5:] == [with_margin(50 * MS)] * 15
    for _ in range(LONG_RUNS):
        profile.observe(1, 10 * MS)
    assert profile.plan_ns[1] == with_margin(15 * MS), "they are no longer frequent"
    for _ in range(WINDOW):
        profile.observe(1, 10 * MS)
    assert profile.plan_ns[1] == with_margin(10 * MS)


def noisy(rng: Random, time_ns: float, cv: float = 0.05) -> int:
    return round(time_ns * rng.lognormvariate(0, cv))


TABLE_NS = {1: 3 * MS, 2: 4 * MS, 4: 6 * MS, 8: 9 * MS, 16: 15 * MS}


def measured(rng: Random, factor: float = 1.0) -> dict[int, tuple[int, ...]]:
    return {size: tuple(noisy(rng, time_ns * factor) for _ in range(30)) for size, time_ns in TABLE_NS.items()}


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("factor", [1.2, 1 / 1.2, 2.0, 0.5])
def test_a_lasting_shift_settles_all_sizes_of_all_models_within_20_runs(factor: float, seed: int) -> None:
    rng = Random(seed)
    speed = LaneSpeed()
    first, second, idle = (Profile(measured(rng), True, speed) for _ in range(3))
    before = plan(idle)
    for _ in range(300):
        size = rng.choice(list(TABLE_NS))
        assert not first.observe(size, noisy(rng, TABLE_NS[size]))
    assert plan(idle) == before
    shifted = []
    for nth in range(20):
        size = rng.choice([1, 4])
        shifted.append((first, second)[nth % 2].observe(size, noisy(rng, TABLE_NS[size] * factor)))
        if shifted[-1]:
            for profile in (first, second, idle):
                profile.refit()
    assert shifted.count(True) == 1
    ratios = [now_ns / then_ns for now_ns, then_ns in zip(plan(idle), before, strict=True)]
    assert all(0.94 < ratio / factor < 1.1 for ratio in ratios)
    for size, time_ns in TABLE_NS.items():
        # Neither too short nor inflated by the runs that revealed the shift.
        assert 1.04 < first.plan_ns[size] / (time_ns * factor) < 1.3


def test_a_profile_that_missed_a_change_of_its_lane_catches_up_with_its_next_run() -> None:
    speed = LaneSpeed()
    first, second, missed = (Profile({1: (10 * MS,) * 30}, True, speed) for _ in range(3))
    assert any((first, second)[nth % 2].observe(1, 20 * MS) for nth in range(20))
    assert plan(missed) == [with_margin(10 * MS)]
    missed.observe(1, 20 * MS)
    assert plan(missed) == [with_margin(20 * MS)]


def test_a_profile_made_on_a_lane_that_has_slowed_down_plans_what_it_measured() -> None:
    speed = LaneSpeed()
    first = Profile({1: (10 * MS,) * 30}, True, speed)
    assert any(first.observe(1, 20 * MS) for _ in range(20))
    second = Profile({1: (30 * MS,) * 30}, True, speed)
    assert plan(second) == [with_margin(30 * MS)]
    runs_ns = ((first, 10 * MS), (second, 15 * MS))
    assert any(profile.observe(1, time_ns) for _ in range(20) for profile, time_ns in runs_ns)
    second.refit()
    assert plan(second) == [with_margin(15 * MS)]


def test_what_one_model_shows_alone_is_not_held_against_another() -> None:
    # Waking a worker takes many times as long as the small model; the large one must not be planned so.
    rng = Random(4)
    speed = LaneSpeed()
    small = Profile({1: (40_000,) * 30}, True, speed)
    large = Profile({1: (10 * MS,) * 30}, True, speed)
    assert not any(small.observe(1, noisy(rng, 750_000, 0.4)) for _ in range(500))
    large.refit()
    assert plan(large) == [with_margin(10 * MS)]
    assert plan(small)[0] > 700_000


def test_a_model_that_changes_alone_leaves_the_others_alone() -> None:
    rng = Random(1)
    speed = LaneSpeed()
    first, second = Profile(measured(rng), True, speed), Profile(measured(rng), True, speed)
    for _ in range(100):
        assert not first.observe(1, noisy(rng, TABLE_NS[1]))
        assert not second.observe(4, noisy(rng, TABLE_NS[4]))
    before = plan(second)
    for _ in range(20):
        assert not first.observe(1, noisy(rng, 2 * TABLE_NS[1]))
        assert not second.observe(4, noisy(rng, TABLE_NS[4]))
    assert plan(second) == pytest.approx(before, rel=0.1)
    for size, time_ns in TABLE_NS.items():
        assert 1.04 < first.plan_ns[size] / (2 * time_ns) < 1.3


def test_runs_of_a_size_that_the_warm_up_left_out_say_nothing_about_the_lane_at_first() -> None:
    """The straight line may be wrong: here a batch of 3 takes as long as one of 4."""
    speed = LaneSpeed()
    profile = Profile({1: (10 * MS,) * 30, 4: (40 * MS,) * 30}, True, speed)
    for _ in range(50):
        assert not profile.observe(3, 40 * MS)
    assert plan(profile) == [with_margin(time_ms * MS) for time_ms in (10, 25, 40, 40)]


def test_probes_after_idle_undo_a_spoilt_plan_at_once() -> None:
    profile = profile_of({1: (10 * MS,) * 30, 2: (16 * MS,) * 30})
    for _ in range(6):
        profile.observe(1, 500 * MS)
    assert plan(profile) == [with_margin(500 * MS), with_margin(800 * MS)]
    assert profile.observe(1, 10 * MS, probe=True)
    assert plan(profile) == pytest.approx([with_margin(10 * MS), with_margin(16 * MS)], rel=0.01)


def test_probes_forget_one_long_run_each() -> None:
    profile = profile_of({1: (10 * MS,) * 20})
    for _ in range(6):
        profile.observe(1, 500 * MS)
        for _ in range(4):
            profile.observe(1, 10 * MS)
    assert plan(profile) == [with_margin(500 * MS)]
    planned = []
    for _ in range(5):
        profile.observe(1, 10 * MS, probe=True)
        planned += plan(profile)
    assert planned == [with_margin(500 * MS)] + [with_margin(15 * MS)] * 3 + [with_margin(10 * MS)]


def test_a_size_that_does_not_run_forgets_its_hiccups_while_another_one_does() -> None:
    """Twenty of sixty runs of four were long, and now only two run at a time."""
    profile = profile_of({2: (16 * MS,) * 30, 4: (20 * MS,) * 30})
    for nth in range(60):
        profile.observe(4, 70 * MS if nth % 3 == 0 else 20 * MS)
        profile.observe(2, 16 * MS)
    assert profile.plan_ns[4] == pytest.approx(with_margin(70 * MS), rel=0.05)
    assert profile.usual_ns[4] == pytest.approx(20 * MS, rel=0.05), "what it usually costs is not touched"
    assert profile.largest_efficient(4) < 4, "what is planned longer than its frames one by one is not run"
    for _ in range(STALE_RUNS - 1):
        profile.observe(2, 16 * MS)
        assert profile.plan_ns[4] == pytest.approx(with_margin(70 * MS), rel=0.05), "hiccups of now are believed"
    profile.observe(2, 16 * MS)
    assert profile.plan_ns[4] == pytest.approx(with_margin(20 * MS), rel=0.05)
    assert profile.largest_efficient(4) == 4
    assert profile.careful.plan_ns[4] == pytest.approx(with_margin(70 * MS), rel=0.05), (
        "promises rest on what was measured"
    )
    for _ in range(TRIAL_RUNS):
        profile.observe(4, 20 * MS)
    assert profile.careful.plan_ns[4] == pytest.approx(with_margin(20 * MS), rel=0.05)


@given(samples_ns=warm_ups)
def test_sizes_never_run_lie_on_a_straight_line_between_their_neighbours(
    samples_ns: dict[int, tuple[int, ...]],
) -> None:
    single = {size: times[:1] for size, times in samples_ns.items()}
    profile = profile_of(single)
    line: list[int] = []
    for size in range(1, profile.batch_max + 1):
        upper = min(known for known in single if known >= size)
        lower = max((known for known in single if known <= size), default=upper)
        low_ns, high_ns = single[lower][0], single[upper][0]
        between_ns = low_ns if lower == upper else low_ns + (high_ns - low_ns) * (size - lower) / (upper - lower)
        line.append(max(with_margin(between_ns), line[-1] if line else 0))
    assert plan(profile) == pytest.approx(line, abs=2)


@given(samples_ns=warm_ups)
def test_fixed_engines_plan_the_size_that_they_pad_to(samples_ns: dict[int, tuple[int, ...]]) -> None:
    profile = profile_of(samples_ns, any_size=False)
    padded = [
        profile.plan_ns[min(known for known in samples_ns if known >= size)] for size in range(1, profile.batch_max + 1)
    ]
    assert plan(profile) == padded


def test_a_padded_run_counts_for_the_size_that_it_was_padded_to() -> None:
    profile = profile_of({1: (10 * MS,), 4: (20 * MS,) * 30}, any_size=False)
    profile.observe(2, 40 * MS)
    profile.observe(3, 40 * MS)
    assert plan(profile) == [with_margin(10 * MS)] + [with_margin(30 * MS)] * 3


@given(samples_ns=warm_ups, any_size=st.booleans())
def test_efficient_sizes_are_those_of_brute_force(samples_ns: dict[int, tuple[int, ...]], any_size: bool) -> None:
    profile = profile_of(samples_ns, any_size)

    def pays(size: int) -> bool:
        usual, plan = profile.usual_ns, profile.plan_ns
        return usual[size] * 100 <= size * usual[1] * (100 - GAIN_PERCENT) and plan[size] <= size * plan[1]

    for frames in range(1, profile.batch_max + 1):
        assert profile.largest_efficient(frames) == max(
            (size for size in range(2, frames + 1) if pays(size)), default=1
        )


@pytest.mark.parametrize("samples_ns", [{}, {1: ()}, {1: (10,), 2: ()}, {0: (10,)}, {-1: (10,), 1: (10,)}])
def test_refuses_a_warm_up_that_measured_nothing(samples_ns: dict[int, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="a profile needs samples for batch sizes of 1 or more"):
        profile_of(samples_ns)


# ---- runs in a row and after idle ----


def test_runs_after_idle_change_plans_but_not_what_a_run_in_a_row_is_thought_to_cost() -> None:
    """Waking up takes longer than the model: single frames are planned so, and batches stay worth while."""
    profile = profile_of({1: (MS,) * 30, 8: (2 * MS,) * 30})
    for _ in range(200):
        profile.observe(1, 5 * MS, after_idle=True)
    assert profile.plan_ns[1] == pytest.approx(with_margin(5 * MS))
    assert profile.usual_one_ns == pytest.approx(5 * MS)
    assert profile.usual_ns[1] == MS
    assert profile.usual_ns[8] == 2 * MS
    assert profile.largest_efficient(8) == 8


def test_plans_are_those_of_the_kind_that_runs_and_the_longer_while_both_do() -> None:
    profile = profile_of({1: (10 * MS,) * 30})
    for _ in range(40):
        profile.observe(1, 14 * MS, after_idle=True)
    assert profile.plan_ns[1] == pytest.approx(with_margin(14 * MS))
    for nth in range(STALE_RUNS):
        assert profile.plan_ns[1] == pytest.approx(with_margin(14 * MS)), f"{nth} runs in a row"
        profile.observe(1, 10 * MS)
    assert profile.plan_ns[1] == pytest.approx(with_margin(10 * MS))
    assert profile.one_ns_max == pytest.approx(with_margin(14 * MS)), "promises remember"
    profile.observe(1, 14 * MS, after_idle=True)
    assert profile.plan_ns[1] == pytest.approx(with_margin(14 * MS)), "the lane is idle again, at once"


def test_a_probe_corrects_both_kinds_whichever_was_spoilt() -> None:
    for spoilt_after_idle in (False, True):
        profile = profile_of({1: (10 * MS,) * 30})
        for _ in range(6):
            profile.observe(1, 500 * MS, after_idle=spoilt_after_idle)
        assert profile.plan_ns[1] == pytest.approx(with_margin(500 * MS))
        profile.observe(1, 10 * MS, after_idle=True, probe=True)
        assert profile.plan_ns[1] == pytest.approx(with_margin(10 * MS))


@pytest.mark.parametrize("wake", [0.3, 1.5, 5.0, 40.0])
@pytest.mark.parametrize("models", [1, 3])
def test_alternating_between_singles_and_backlog_never_spoils_a_size_that_does_not_run(
    wake: float, models: int
) -> None:
    """The fault that this rests on: singles after idle and large batches in turn, and what was believed of the sizes
    between grew from turn to turn, until nothing but singles ran any more.
    """
    rng = Random(7)
    speed = LaneSpeed()
    profiles = [Profile(measured(rng), True, speed) for _ in range(models)]
    before = [plan(profile) for profile in profiles]
    for turn in range(300):
        for profile in profiles[: 1 + turn % 2]:
            for _ in range(8):
                if profile.observe(1, noisy(rng, TABLE_NS[1] * wake, 0.2), after_idle=True):
                    for other in profiles:
                        other.refit()
            for _ in range(12):
                if profile.observe(16, noisy(rng, TABLE_NS[16], 0.2)):
                    for other in profiles:
                        other.refit()
    for profile in profiles[:2]:
        for _ in range(STALE_RUNS):
            profile.observe(16, noisy(rng, TABLE_NS[16], 0.05))
    for profile, planned in zip(profiles, before, strict=True):
        assert profile.largest_efficient(16) == 16
        for size in (2, 4, 8, 16):
            assert 0.8 < profile.usual_ns[size] / TABLE_NS[size] < 1.25
            assert 0.8 < profile.plan_ns[size] / planned[size - 1] < 2.0


# ---- sizes that do not run ----


def test_a_stale_size_follows_those_that_run() -> None:
    """The size that runs slows down without an alarm; sizes that do not run are planned slower all the same."""
    profile = profile_of({1: (10 * MS,) * 30, 2: (16 * MS,) * 30, 4: (20 * MS,) * 30})
    for nth in range(600):
        profile.observe(2, round(16 * MS * (1 + nth / 600)))
    assert profile.usual_ns[2] == pytest.approx(32 * MS, rel=0.1)
    assert profile.usual_ns[1] == pytest.approx(20 * MS, rel=0.1)
    assert profile.usual_ns[4] == pytest.approx(40 * MS, rel=0.1)


@given(samples_ns=warm_ups, spoilt=st.integers(1, 12), factor=st.integers(2, 1000), seed=st.integers(0, 99))
def test_a_stale_size_is_never_worse_than_those_that_run(
    samples_ns: dict[int, tuple[int, ...]], spoilt: int, factor: int, seed: int
) -> None:
    """One size of the warm-up was `factor` times too long; another one runs."""
    sizes = sorted(samples_ns)
    size, running = sizes[spoilt % len(sizes)], sizes[seed % len(sizes)]
    told = {each: (20 * MS + each * 4 * MS,) * 3 for each in samples_ns}
    told[size] = (told[size][0] * factor,) * 3
    profile = profile_of(told)
    for _ in range(STALE_RUNS + 1):
        profile.observe(running, 20 * MS + running * 4 * MS)
    usual_ns, plan_ns = profile.usual_ns, profile.plan_ns
    for other in range(1, profile.batch_max + 1):
        if other != running:
            batches = -(-other // running)
            assert usual_ns[other] <= batches * usual_ns[running] + batches
            assert plan_ns[other] <= batches * plan_ns[running] + batches


def test_a_size_that_did_not_pay_is_tried_again_and_then_less_and_less_often() -> None:
    """Batches never pay here. Ever rarer trials show it, and take next to nothing of the lane."""
    profile = profile_of({1: (10 * MS,) * 30, 2: (30 * MS,) * 30})
    tried = []
    for nth in range(20_000):
        size = profile.largest_efficient(2)
        profile.observe(size, 30 * MS if size == 2 else 10 * MS)
        if size == 2:
            tried.append(nth)
    assert tried[0] == STALE_RUNS + 1
    assert len(tried) < 20_000 / 300
    assert tried[-1] - tried[-1 - TRIAL_RUNS] == PATIENCE_MAX + TRIAL_RUNS + 1


def test_a_size_that_has_come_to_pay_is_found_out() -> None:
    profile = profile_of({1: (10 * MS,) * 30, 2: (30 * MS,) * 30})
    chosen = []
    for _ in range(STALE_RUNS + 20):
        size = profile.largest_efficient(2)
        chosen.append(size)
        profile.observe(size, 12 * MS if size == 2 else 10 * MS)
    assert chosen == [1] * (STALE_RUNS + 1) + [2] * 19


def test_what_is_tried_is_no_longer_than_promises_allow() -> None:
    """Batches of two took longer than two frames one by one: they are not tried while CRITICAL streams rest on that."""
    profile = profile_of({1: (10 * MS,) * 30, 2: (30 * MS,) * 30})
    for _ in range(STALE_RUNS + 1):
        profile.observe(1, 10 * MS)
    assert profile.largest_efficient(2) == 2
    assert profile.careful.largest_efficient(2) == 1
    assert profile.careful.plan_ns[2] == with_margin(30 * MS)


# ---- whatever came before ----


@pytest.mark.parametrize("seed", [*range(150), 2084, 2256, 2509])
def test_throughput_and_plans_recover_within_50_batches_of_the_last_change(seed: int) -> None:
    """The history before that change may be any; `python -m tests.core.histories` tries more of them."""
    for found in recoveries(seed):
        assert found.throughput >= 0.95
        assert found.plan <= 1.6
