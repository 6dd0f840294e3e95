"""What BEST_EFFORT gets while STANDARD asks for everything."""

from hypothesis import given, settings
from hypothesis import strategies as st

from duly.core.dispatch.best_effort_share import BEST_EFFORT_PERCENT, DEFICIT_NS_MAX, GIVEN_WAY, STRICT, ClassShares
from duly.core.types import StreamClass
from tests.core.drawn import MS

CRITICAL, STANDARD, BEST_EFFORT = StreamClass.CRITICAL, StreamClass.STANDARD, StreamClass.BEST_EFFORT


def test_precedence_is_strict_at_first() -> None:
    assert ClassShares().order(1) == STRICT == (CRITICAL, STANDARD, BEST_EFFORT)


def test_critical_is_first_in_either_order() -> None:
    assert GIVEN_WAY == (CRITICAL, BEST_EFFORT, STANDARD)


def test_best_effort_is_owed_lane_time_only_while_it_waits_for_standard() -> None:
    shares = ClassShares()
    shares.began(STANDARD, 1000 * MS, best_effort_waits=False)
    shares.began(CRITICAL, 1000 * MS, best_effort_waits=True)
    assert shares.order(1) == STRICT
    shares.began(STANDARD, 95 * MS, best_effort_waits=True)
    assert shares.order(5 * MS) == GIVEN_WAY
    assert shares.order(5 * MS + 1) == STRICT


def test_its_batch_pays_off_what_it_was_owed() -> None:
    shares = ClassShares()
    shares.began(STANDARD, 190 * MS, best_effort_waits=True)
    shares.began(BEST_EFFORT, 6 * MS, best_effort_waits=True)
    assert shares.order(4 * MS) == GIVEN_WAY
    assert shares.order(4 * MS + 1) == STRICT
    shares.began(BEST_EFFORT, 60 * MS, best_effort_waits=True)
    shares.began(STANDARD, 95 * MS, best_effort_waits=True)
    assert shares.order(5 * MS) == GIVEN_WAY, "it runs up no debts"


@given(planned_ms=st.lists(st.tuples(st.integers(1, 25), st.integers(1, 25)), min_size=200, max_size=200))
@settings(max_examples=20)
def test_while_both_wait_best_effort_gets_its_share(planned_ms: list[tuple[int, int]]) -> None:
    """Over a long time 5 %, never more than one batch ahead."""
    shares, had_ms = ClassShares(), {STANDARD: 0, BEST_EFFORT: 0}
    for standard_ms, best_effort_ms in planned_ms:
        first = shares.order(best_effort_ms * MS)[1]
        chosen_ms = best_effort_ms if first is BEST_EFFORT else standard_ms
        shares.began(first, chosen_ms * MS, best_effort_waits=True)
        had_ms[first] += chosen_ms
        assert had_ms[BEST_EFFORT] * (100 - BEST_EFFORT_PERCENT) <= had_ms[STANDARD] * BEST_EFFORT_PERCENT
    owed_ms = had_ms[STANDARD] * BEST_EFFORT_PERCENT / (100 - BEST_EFFORT_PERCENT)
    assert had_ms[BEST_EFFORT] >= owed_ms - 25 - 25


@given(
    began=st.lists(st.tuples(st.sampled_from(StreamClass), st.integers(1, 10**12), st.booleans()), max_size=50),
)
def test_what_is_owed_is_bounded_on_both_sides(began: list[tuple[StreamClass, int, bool]]) -> None:
    shares = ClassShares()
    for stream_class, planned_ns, waits in began:
        shares.began(stream_class, planned_ns, waits)
        assert shares.order(DEFICIT_NS_MAX + 1) == STRICT
        assert shares.order(0) == GIVEN_WAY
