"""What frames are worth by what their streams and principals have missed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.core.merit import (
    FLOOR_MERIT,
    FLOOR_VALUE,
    FORGET_NS,
    PRINCIPALS_MAX,
    SHARE_MAX,
    STREAK_FACTOR,
    STREAK_MAX,
    Merit,
    Principals,
)
from duly.core.types import BacklogPolicy, StreamClass, StreamTerms
from tests.core.drawn import MS


def merit(floor_frames: int = 0, floor_window: int = 0) -> Merit:
    terms = StreamTerms(StreamClass.STANDARD, BacklogPolicy.ALL, 0, 100 * MS, 64)
    terms.floor_frames, terms.floor_window = floor_frames, floor_window
    return Merit(terms)


@given(outcomes=st.lists(st.booleans(), max_size=30))
def test_a_frame_is_worth_more_with_each_miss_in_a_row(outcomes: list[bool]) -> None:
    worth = merit()
    for on_time in outcomes:
        worth.ended(on_time)
    streak = len(outcomes)
    for back, on_time in enumerate(reversed(outcomes)):
        if on_time:
            streak = back
            break
    assert worth.value == STREAK_FACTOR ** min(streak, STREAK_MAX)


def test_a_frame_counts_for_those_that_its_client_keeps_back() -> None:
    thinned, whole = merit(), merit()
    thinned.thinned(2.0)
    for on_time in (False, False, True, False, False, True):
        whole.ended(on_time)
    whole.ended(False)
    whole.ended(False)
    assert thinned.value == whole.value == STREAK_FACTOR**2, "it would have missed the two before"
    thinned.ended(False)
    assert thinned.value == STREAK_FACTOR**5
    thinned.ended(True)
    assert thinned.value == STREAK_FACTOR**2
    thinned.thinned(0.0)
    assert thinned.value == 1.0


@given(unsent=st.floats(0, 1e6), outcomes=st.lists(st.booleans(), max_size=40))
def test_no_thinned_frame_is_worth_what_a_floor_is(unsent: float, outcomes: list[bool]) -> None:
    worth = merit()
    worth.thinned(unsent)
    for on_time in outcomes:
        worth.ended(on_time)
    assert 1.0 <= worth.value <= STREAK_FACTOR**STREAK_MAX < FLOOR_MERIT


@given(outcomes=st.lists(st.booleans(), max_size=40), window=st.integers(1, 8), data=st.data())
def test_a_floor_counts_where_one_more_miss_would_break_it(
    outcomes: list[bool], window: int, data: st.DataObject
) -> None:
    frames = data.draw(st.integers(0, window))
    worth = merit(frames, window)
    for on_time in outcomes:
        worth.ended(on_time)
    recent = ([True] * window + outcomes + [False])[-window:]
    if outcomes:
        assert (worth.value >= FLOOR_VALUE) is (sum(recent) < frames)


@pytest.mark.parametrize(
    ("floor", "outcomes", "urgent"),
    [
        ((3, 4), "", False),
        ((3, 4), "x", True),
        ((3, 4), "x..", True),
        ((3, 4), "x...", False),
        ((2, 4), "x", False),
        ((2, 4), "x.x", True),
        ((1, 3), "xx", True),
        ((1, 3), "xx.", False),
        ((0, 0), "xxxxx", False),
    ],
)
def test_floors(floor: tuple[int, int], outcomes: str, urgent: bool) -> None:
    """Dots are frames on time."""
    worth = merit(*floor)
    for outcome in outcomes:
        worth.ended(outcome == ".")
    assert (worth.value >= FLOOR_VALUE) is urgent


def test_a_floor_of_all_frames_counts_from_the_first_outcome_on() -> None:
    """With m = k every frame is one that the floor depends on."""
    worth = merit(2, 2)
    worth.ended(True)
    assert worth.value >= FLOOR_VALUE


def test_a_floor_outweighs_a_streak_and_a_principal() -> None:
    worth = merit(3, 4)
    worth.ended(False)
    assert worth.value / SHARE_MAX >= FLOOR_MERIT > (1 + STREAK_FACTOR * STREAK_MAX) * SHARE_MAX


def test_alone_nobody_counts_for_more() -> None:
    principals = Principals()
    assert principals.factor("north") == 1
    principals.served(0, "north", 100 * MS)
    assert principals.factor("north") == 1


def test_who_had_less_counts_for_more() -> None:
    principals = Principals()
    principals.served(0, "north", 30 * MS)
    principals.served(0, "south", 10 * MS)
    assert principals.factor("south") == 2
    assert principals.factor("north") == pytest.approx(2 / 3)
    assert principals.factor("new") == SHARE_MAX


served = st.lists(
    st.tuples(st.integers(0, FORGET_NS), st.sampled_from("abcdef"), st.floats(0, 50 * MS)), min_size=2, max_size=60
)


@given(times=served)
def test_factors_are_bounded_and_in_order_of_what_each_had(times: list[tuple[int, str, float]]) -> None:
    principals = Principals()
    now_ns, had_ns = 0, dict.fromkeys("abcdef", 0.0)
    for after_ns, name, lane_ns in times:
        now_ns += after_ns // 60  # all within one period
        principals.served(now_ns, name, lane_ns)
        had_ns[name] += lane_ns
    factors = {name: principals.factor(name) for name in had_ns}
    assert all(1 / SHARE_MAX <= factor <= SHARE_MAX for factor in factors.values())
    for more in had_ns:
        for less in had_ns:
            if had_ns[more] > had_ns[less] + 1:
                assert factors[more] <= factors[less]


def test_what_was_long_ago_is_forgotten() -> None:
    principals = Principals()
    principals.served(0, "north", 100 * MS)
    principals.served(0, "south", 10 * MS)
    for second in range(1, 40):
        principals.served(second * FORGET_NS, "south", 10 * MS)
    assert principals.factor("north") == 1, "only one is known of"


def test_principals_are_bounded() -> None:
    principals = Principals()
    for nth in range(PRINCIPALS_MAX + 10):
        principals.served(1, f"principal {nth}", MS)
    principals.served(1 + FORGET_NS, "another", MS)
    assert len(principals._served_ns) <= PRINCIPALS_MAX


# ---- results that turn out otherwise ----


@given(before=st.lists(st.booleans(), max_size=20))
def test_a_hit_that_was_none_counts_as_the_miss_that_it_was(before: list[bool]) -> None:
    """As if it had been known at once."""
    worth, known = merit(), merit()
    for on_time in before:
        worth.ended(on_time)
        known.ended(on_time)
    worth.ended(True)
    worth.turned_out(missed=True)
    known.ended(False)
    assert (worth.value, worth.untouched_by_hit) == (known.value, known.untouched_by_hit)


@given(before=st.lists(st.booleans(), max_size=20))
def test_a_hit_lost_by_its_own_client_is_worth_neither_more_nor_less(before: list[bool]) -> None:
    worth = merit()
    for on_time in before:
        worth.ended(on_time)
    value = worth.value
    worth.ended(True)
    worth.turned_out(missed=False)
    assert worth.value == value


@given(before=st.lists(st.booleans(), max_size=20), window=st.integers(2, 8), data=st.data())
def test_a_client_that_does_not_read_gains_nothing_by_its_floor(
    before: list[bool], window: int, data: st.DataObject
) -> None:
    worth = merit(data.draw(st.integers(1, window - 1)), window)
    for on_time in before:
        worth.ended(on_time)
    value = worth.value
    worth.ended(True)
    worth.turned_out(missed=False)
    assert worth.value <= value


@given(outcomes=st.lists(st.sampled_from("hmt"), max_size=40), window=st.integers(2, 8), data=st.data())
def test_a_floor_counts_what_the_client_really_got(outcomes: list[str], window: int, data: st.DataObject) -> None:
    """h: a hit; m: a miss; t: a hit that turns out otherwise before the next."""
    frames = data.draw(st.integers(1, window - 1))
    worth = merit(frames, window)
    for outcome in outcomes:
        worth.ended(outcome != "m")
        if outcome == "t":
            worth.turned_out(missed=True)
    recent = [True] * window + [outcome == "h" for outcome in outcomes]
    if outcomes:
        assert (worth.value >= FLOOR_VALUE) is (sum(recent[-(window - 1) :]) < frames)
