"""When variants switch: at once where frames miss or will, back only after a calm, and never to and fro."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.core.types import VARIANT_RANK_ANY, StreamClass
from duly.core.variants.ladder import CALM_NS, DWELL_MAX_NS, DWELL_MIN_NS, TICK_NS, VariantControl

SECOND_NS = 1_000_000_000
CRITICAL, STANDARD, BEST_EFFORT = StreamClass.CRITICAL, StreamClass.STANDARD, StreamClass.BEST_EFFORT

Demands = dict[StreamClass, Sequence[float]]

demands_of_three = st.dictionaries(
    st.sampled_from(list(StreamClass)), st.lists(st.floats(0, 2), min_size=3, max_size=3), max_size=3
)


def ranks(control: VariantControl) -> tuple[int, int, int]:
    """The ranks for BEST_EFFORT, STANDARD and CRITICAL streams that accept any variant, in this order."""
    best_effort, standard, critical = (
        control.rank_for(each, VARIANT_RANK_ANY) for each in (BEST_EFFORT, STANDARD, CRITICAL)
    )
    return best_effort, standard, critical


class Host:
    """Ticks a controller and remembers when it switched; `share` is what its streams would need where they stand."""

    def __init__(self, control: VariantControl) -> None:
        self.control = control
        self.now_ns = 17 * SECOND_NS
        self.switches: list[tuple[int, tuple[int, int, int]]] = []

    def share(self, demands: Demands) -> float:
        return sum(by_rank[self.control.rank_for(each, VARIANT_RANK_ANY)] for each, by_rank in demands.items())

    def tick(self, on_time: int, missed: int, demands: Demands, others: float = 0.0) -> bool:
        self.now_ns += TICK_NS
        changed = self.control.tick(self.now_ns, on_time, missed, demands, others)
        if changed:
            self.switches.append((self.now_ns, ranks(self.control)))
        return changed

    def run(self, duration_ns: int, demands: Demands, frames: int = 100) -> None:
        """What the lanes can't do is missed."""
        for _ in range(duration_ns // TICK_NS):
            missed = int(frames * max(0.0, 1 - 1 / max(1.0, self.share(demands))))
            self.tick(frames - missed, missed, demands)


# Each row of a story: on time, missed, demand by rank of the STANDARD streams; the rank after the tick.
Row = tuple[int, int, Sequence[float], int]

STORIES: dict[str, list[Row]] = {
    "one hiccup does not switch": [
        (100, 0, (0.5, 0.3, 0.1), 0),
        (60, 40, (0.5, 0.3, 0.1), 0),
        (100, 0, (0.5, 0.3, 0.1), 0),
        (60, 40, (0.5, 0.3, 0.1), 0),
    ],
    "misses in both ticks of 500 ms switch": [
        (99, 1, (0.5, 0.3, 0.1), 0),
        (98, 2, (0.5, 0.3, 0.1), 1),
    ],
    "not more than 1 % missed does not switch": [(99, 1, (0.5, 0.3, 0.1), 0)] * 8,
    "three ticks of high demand switch before anything is missed": [
        (100, 0, (0.96, 0.7, 0.4), 0),
        (100, 0, (0.96, 0.7, 0.4), 0),
        (100, 0, (0.96, 0.7, 0.4), 1),
    ],
    "high demand that pauses does not switch": [
        (100, 0, (0.96, 0.7, 0.4), 0),
        (100, 0, (0.96, 0.7, 0.4), 0),
        (100, 0, (0.94, 0.7, 0.4), 0),
        (100, 0, (0.96, 0.7, 0.4), 0),
        (100, 0, (0.96, 0.7, 0.4), 0),
    ],
    "a rank that will not do is skipped": [
        (60, 40, (2.0, 1.1, 0.6), 0),
        (60, 40, (2.0, 1.1, 0.6), 2),
    ],
    "where none will do, the one that needs least": [
        (60, 40, (3.0, 1.8, 2.2), 0),
        (60, 40, (3.0, 1.8, 2.2), 1),
        (60, 40, (3.0, 1.8, 2.2), 1),
        (60, 40, (3.0, 1.8, 2.2), 1),
        (60, 40, (3.0, 1.8, 2.2), 1),
    ],
    "a variant that is not faster is no help": [(60, 40, (1.5, 1.5, 1.5), 0)] * 8,
    "frames that waited before a switch do not cause the next, lasting misses do, without any dwell": [
        (60, 40, (1.5, 0.8, 0.4), 0),
        (60, 40, (1.5, 0.8, 0.4), 1),
        (60, 40, (1.5, 0.8, 0.4), 1),
        (90, 10, (1.5, 0.8, 0.4), 1),
        (90, 10, (1.5, 0.8, 0.4), 2),
    ],
}


@pytest.mark.parametrize("story", STORIES)
def test_stories(story: str) -> None:
    host = Host(VariantControl(3))
    told = [row[3] for row in STORIES[story]]
    seen = []
    for on_time, missed, by_rank, _ in STORIES[story]:
        host.tick(on_time, missed, {STANDARD: by_rank})
        seen.append(host.control.rank_for(STANDARD, VARIANT_RANK_ANY))
    assert seen == told


@pytest.mark.parametrize(
    ("demands", "steps"),
    [
        # Least critical first; a class that has no streams costs no switch.
        ({CRITICAL: (0.4, 0.3), STANDARD: (0.6, 0.3), BEST_EFFORT: (0.3, 0.1)}, [(1, 1, 0)]),
        ({CRITICAL: (0.4, 0.2), BEST_EFFORT: (1.0, 0.4)}, [(1, 0, 0)]),
        ({CRITICAL: (1.3, 0.6)}, [(1, 1, 1)]),
        ({STANDARD: (1.3, 0.6)}, [(1, 1, 0)]),
    ],
)
def test_the_least_critical_streams_that_suffice_are_moved(demands: Demands, steps: list[tuple[int, int, int]]) -> None:
    host = Host(VariantControl(2))
    host.run(20 * SECOND_NS, demands)
    assert [step for _, step in host.switches] == steps


def test_a_stream_is_never_served_worse_than_it_accepts() -> None:
    host = Host(VariantControl(3))
    host.run(SECOND_NS, {STANDARD: (9.0, 5.0, 3.0)})
    assert [host.control.rank_for(STANDARD, rank_max) for rank_max in (0, 1, 2, 5)] == [0, 1, 2, 2]


def test_what_other_models_need_counts() -> None:
    host = Host(VariantControl(2))
    switched = [host.tick(100, 0, {STANDARD: (0.5, 0.2)}, others=0.5) for _ in range(3)]
    assert switched == [False, False, True]
    assert not any(host.tick(100, 0, {STANDARD: (0.5, 0.2)}, others=0.4) for _ in range(80))
    host.run(CALM_NS + TICK_NS, {STANDARD: (0.5, 0.2)})
    assert ranks(host.control) == (0, 0, 0)


def test_a_load_step_is_settled_within_a_second_and_a_half_by_two_switches_at_most() -> None:
    for factor in (1.2, 1.5, 2.0, 2.5):
        for error in (0.6, 0.8, 1.0, 1.2):
            host = Host(VariantControl(4))
            host.run(10 * SECOND_NS, {STANDARD: (0.7, 0.5, 0.35, 0.2)})
            assert not host.switches
            started_ns = host.now_ns
            real = [factor * 0.85 * share for share in (1.0, 0.7, 0.5, 0.25)]
            predicted = {STANDARD: [error * share for share in real]}
            for _ in range(CALM_NS // TICK_NS):
                missed = int(1000 * max(0.0, 1 - 1 / max(1.0, host.share({STANDARD: real}))))
                host.tick(1000 - missed, missed, predicted)
            assert host.share({STANDARD: real}) <= 1
            assert len(host.switches) <= 2
            assert all(at_ns - started_ns <= 1.5 * SECOND_NS for at_ns, _ in host.switches)


def test_comes_back_after_the_calm_straight_to_the_best_that_fits() -> None:
    host = Host(VariantControl(3))
    host.run(10 * SECOND_NS, {STANDARD: (2.0, 1.2, 0.8)})
    calm_ns = host.now_ns
    host.run(10 * SECOND_NS, {STANDARD: (0.6, 0.4, 0.2)})
    assert [step for _, step in host.switches] == [(2, 2, 0), (0, 0, 0)]
    assert host.switches[1][0] == calm_ns + TICK_NS + CALM_NS


def test_streams_that_closed_leave_no_rank_behind() -> None:
    host = Host(VariantControl(2))
    host.run(SECOND_NS, {CRITICAL: (1.5, 0.7)})
    host.run(CALM_NS + TICK_NS, {})
    assert ranks(host.control) == (0, 0, 0)


def test_a_prediction_that_is_always_wrong_swings_ever_more_slowly() -> None:
    """Demand claims that rank 0 will do; there every tenth frame is missed."""
    host = Host(VariantControl(2))
    for _ in range(1200 * 4):
        missed = 10 if host.control.rank_for(STANDARD, 1) == 0 else 0
        host.tick(100 - missed, missed, {STANDARD: (0.5, 0.3)})
    falls = [at_ns for at_ns, (_, rank, _) in host.switches if rank == 1]
    gaps = [later - earlier for earlier, later in pairwise(falls)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= DWELL_MAX_NS
    assert len(falls) < 1200 / 60 + 8


def test_a_rise_that_holds_forgives() -> None:
    host = Host(VariantControl(2))
    overload, calm = {STANDARD: (1.5, 0.7)}, {STANDARD: (0.5, 0.3)}

    def fall_and_count_ns() -> int:
        host.run(SECOND_NS, overload)
        fallen_ns = host.switches[-1][0]
        host.run(DWELL_MAX_NS + 10 * SECOND_NS, calm)
        assert ranks(host.control) == (0, 0, 0)
        return host.switches[-1][0] - fallen_ns

    first_ns = fall_and_count_ns()
    for _ in range(5):
        host.run(SECOND_NS, overload)
        host.run(DWELL_MIN_NS, calm)
        host.run(2 * DWELL_MAX_NS, calm)
    assert fall_and_count_ns() == first_ns


@given(shares=st.lists(st.floats(0.80, 0.95), min_size=1, max_size=300))
def test_demand_between_the_thresholds_switches_nothing(shares: list[float]) -> None:
    host = Host(VariantControl(2))
    host.run(SECOND_NS, {STANDARD: (1.2, 0.6)})
    assert ranks(host.control) == (1, 1, 0)
    for share in shares:
        assert not host.tick(100, 0, {STANDARD: (share, share / 2)})


@given(demands=demands_of_three, others=st.floats(0, 1))
def test_constant_demand_settles(demands: Demands, others: float) -> None:
    """What is really missed follows from demand: after few switches there are no more."""
    host = Host(VariantControl(3))

    def run(ticks: int) -> None:
        for _ in range(ticks):
            missed = int(100 * max(0.0, 1 - 1 / max(1.0, host.share(demands) + others)))
            host.tick(100 - missed, missed, demands, others)

    run(60)
    early = len(host.switches)
    assert early <= 2
    run(100)
    assert len(host.switches) == early


ticks = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5), demands_of_three, st.integers(1, 40)), max_size=10)


@given(count=st.integers(1, 3), script=ticks)
def test_ranks_stay_in_range_and_in_order_and_rises_dwell(
    count: int, script: list[tuple[int, int, Demands, int]]
) -> None:
    host = Host(VariantControl(count))
    changed_ns, before = host.now_ns - DWELL_MIN_NS, ranks(host.control)
    for on_time, missed, demands, repeats in script:
        fitting = {each: by_rank[:count] for each, by_rank in demands.items()}
        for _ in range(repeats):
            changed = host.tick(on_time, missed, fitting)
            after = ranks(host.control)
            assert changed == (after != before)
            assert 0 <= after[2] <= after[1] <= after[0] < count
            assert after[1] == 0 or after[0] == count - 1
            assert after[2] == 0 or after[1] == count - 1
            if after < before:
                assert host.now_ns - changed_ns >= DWELL_MIN_NS
            if changed:
                changed_ns, before = host.now_ns, after


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VariantControl(0), "a model has 1 variant or more, got 0"),
        (lambda: VariantControl(2).tick(0, 0, 0, {STANDARD: (1.0,)}), "STANDARD needs 2 demands, one a rank, got"),
    ],
)
def test_refuses_what_makes_no_sense(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
