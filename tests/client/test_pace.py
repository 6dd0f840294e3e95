"""How a client that follows advice thins its frames."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly_client.pace import Pace

MS = 1_000_000


def sent_of(pace: Pace, times_ns: list[int]) -> list[int]:
    """Those of the times at which a frame is sent."""
    sent = []
    for now_ns in times_ns:
        if pace.due(now_ns):
            pace.sent(now_ns)
            sent.append(now_ns)
    return sent


def test_without_advice_every_frame_is_due() -> None:
    assert sent_of(Pace(), [0, 0, 1]) == [0, 0, 1]


@given(
    natural_ms=st.integers(1, 100), advised_ms=st.integers(1, 2000), phase=st.floats(0, 1), now_ns=st.integers(0, 2**62)
)
def test_the_advised_rate_is_kept_on_average(natural_ms: int, advised_ms: int, phase: float, now_ns: int) -> None:
    pace = Pace()
    pace.advised(now_ns, advised_ms * MS, phase)
    end_ns = 100 * max(natural_ms, advised_ms) * MS
    sent = sent_of(pace, list(range(now_ns, now_ns + end_ns, natural_ms * MS)))
    assert len(sent) == pytest.approx(end_ns / (max(natural_ms, advised_ms) * MS), abs=2)


def test_a_sensor_whose_period_does_not_divide_the_advised_one_is_not_slowed_further() -> None:
    pace = Pace()
    pace.advised(0, 50 * MS, 0.0)
    assert [at_ns // MS for at_ns in sent_of(pace, [nth * 33 * MS for nth in range(8)])] == [0, 66, 132, 165, 231]


def test_little_of_a_pause_is_made_up_for() -> None:
    pace = Pace()
    pace.advised(0, 100 * MS, 0.0)
    after_ns = [60_000 * MS + nth * 10 * MS for nth in range(30)]
    assert [(at_ns - after_ns[0]) // MS for at_ns in sent_of(pace, [0, *after_ns])][1:] == [0, 10, 20, 100, 200]


def test_frames_that_are_sent_all_the_same_count() -> None:
    pace = Pace()
    pace.advised(0, 100 * MS, 0.0)
    pace.sent(0)
    pace.sent(10 * MS)
    assert not pace.due(150 * MS)
    assert pace.due(200 * MS)


def test_advice_ends_with_a_period_of_0() -> None:
    pace = Pace()
    pace.advised(0, 2000 * MS, 1.0)
    assert not pace.due(1999 * MS)
    pace.advised(10 * MS, 0, 0.5)
    assert pace.due(10 * MS)
