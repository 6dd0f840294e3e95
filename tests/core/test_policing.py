"""Who keeps to the stated period is never demoted, and who does not gains nothing by it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duly.core.policing import BURST_NS, BURST_PERIODS, FASTER_PERCENT, Policer
from duly.core.types import BacklogPolicy, StreamClass, StreamTerms
from tests.core.drawn import MS

POLICED = (StreamClass.CRITICAL, StreamClass.STANDARD)


def policer(stream_class: StreamClass, period_ns: int, *, policed: bool = True) -> Policer:
    terms = StreamTerms(stream_class, BacklogPolicy.ALL, 0, 100 * MS, 64, period_ns=period_ns, policed=policed)
    return Policer(terms)


@given(
    stream_class=st.sampled_from(POLICED),
    period_ns=st.integers(1, 60_000 * MS),
    delays=st.lists(st.floats(0, 1), min_size=1, max_size=200),
)
@settings(max_examples=100)
def test_frames_that_the_network_delays_within_the_tolerance_conform(
    stream_class: StreamClass, period_ns: int, delays: list[float]
) -> None:
    came_ns, held = 0, policer(stream_class, period_ns)
    for nth, delay in enumerate(delays):
        came_ns = max(came_ns, nth * period_ns + int(delay * BURST_NS[stream_class]))
        assert held.conforms(came_ns)


@given(
    stream_class=st.sampled_from(POLICED),
    period_ns=st.integers(1, 1_000 * MS),
    gaps_ns=st.lists(st.integers(0, 50 * MS), min_size=1, max_size=300),
)
@settings(max_examples=100)
def test_however_frames_come_no_more_conform_than_were_promised(
    stream_class: StreamClass, period_ns: int, gaps_ns: list[int]
) -> None:
    now_ns, conforming, held = 0, 0, policer(stream_class, period_ns)
    for gap_ns in gaps_ns:
        now_ns += gap_ns
        conforming += held.conforms(now_ns)
    fastest_ns = max(1, period_ns * 100 // (100 + FASTER_PERCENT[stream_class]))
    burst_ns = max(BURST_NS[stream_class], BURST_PERIODS * period_ns)
    assert conforming <= (now_ns + burst_ns) // fastest_ns + 1


@pytest.mark.parametrize(
    "held",
    [
        policer(StreamClass.BEST_EFFORT, MS),
        policer(StreamClass.CRITICAL, 0),
        policer(StreamClass.CRITICAL, MS, policed=False),
    ],
    ids=["BEST_EFFORT", "no period", "not policed"],
)
def test_who_was_promised_nothing_may_send_as_it_likes(held: Policer) -> None:
    assert all(held.conforms(0) for _ in range(10_000))
