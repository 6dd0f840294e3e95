"""When a run in spare time may begin for one stream's sake; the stories show the rest."""

import pytest

from duly.core.spare_time import BUDGET_PART, GAPS, LULL, NEVER_NS, OVERDUE_GAPS, RARE, Rhythm

MS = 1_000_000


def rhythm(gaps_ms: list[float], period_ms: float = 0, budget_ms: float = 1000) -> tuple[Rhythm, int]:
    """A stream that has sent with these gaps, and when it sent last."""
    now_ns = 5 * MS
    made = Rhythm(now_ns, int(period_ms * MS), int(budget_ms * MS))
    for gap_ms in gaps_ms:
        now_ns += int(gap_ms * MS)
        made.came(now_ns)
    return made, now_ns


@pytest.mark.parametrize(("gaps_ms", "period_ms"), [([100.0], 100.0), ([100.0] * GAPS, 0.0), ([120.0] * 40, 100.0)])
def test_a_run_ends_before_the_next_frame_is_expected(gaps_ms: list[float], period_ms: float) -> None:
    made, last_ns = rhythm(gaps_ms, period_ms)
    expected_ns = last_ns + 100 * MS - 100 * MS // 8
    if not period_ms or len(gaps_ms) == 1:
        assert made.from_ns(last_ns, expected_ns - last_ns) == last_ns
    assert made.from_ns(expected_ns - 10 * MS, 10 * MS) == expected_ns - 10 * MS
    assert made.from_ns(expected_ns - 10 * MS, 10 * MS + 1) > expected_ns, "it may come any moment"


def test_what_is_overdue_may_come_any_moment_until_it_has_been_silent_for_long() -> None:
    made, last_ns = rhythm([10.0] * GAPS)
    assert made.from_ns(last_ns + 9 * MS, MS) == last_ns + OVERDUE_GAPS * 10 * MS
    assert made.from_ns(last_ns + 9 * MS, 5 * MS) == last_ns + RARE * 5 * MS
    assert made.from_ns(last_ns + 10_000 * MS, 5 * MS) == last_ns + 10_000 * MS


def test_the_shortest_gap_counts_until_it_is_long_past() -> None:
    made, last_ns = rhythm([*[100.0] * GAPS, 20.0, *[100.0] * GAPS])
    assert made.from_ns(last_ns, 18 * MS) > last_ns
    made, last_ns = rhythm([20.0, *[100.0] * (3 * GAPS)])
    assert made.from_ns(last_ns, 18 * MS) == last_ns


def test_of_an_irregular_stream_a_run_is_short_and_comes_in_a_lull() -> None:
    gaps_ms = [1.0 + 63.0 * (nth % 2) for nth in range(200)]
    made, last_ns = rhythm(gaps_ms)
    assert made.from_ns(last_ns + MS, MS // 2) == last_ns + LULL * MS // 2
    assert made.from_ns(last_ns + MS, 4 * MS) == last_ns + RARE * 4 * MS, "longer than its mean gap allows"


def test_nothing_runs_that_a_budget_could_not_bear_unless_it_ends_in_time() -> None:
    made, last_ns = rhythm([100.0] * GAPS, budget_ms=40)
    assert made.from_ns(last_ns, 50 * MS) == last_ns
    assert made.from_ns(last_ns + 60 * MS, 40 * MS // BUDGET_PART + 1) == last_ns + 60 * MS
    assert made.from_ns(last_ns + 86 * MS, 40 * MS // BUDGET_PART + 1) == NEVER_NS


def test_frames_that_come_together_are_one() -> None:
    made, last_ns = rhythm([100.0] * GAPS)
    for _ in range(5):
        made.came(last_ns)
    assert made.from_ns(last_ns, 50 * MS) == last_ns


def test_of_a_stream_of_which_little_is_known_nothing_is_expected() -> None:
    made, last_ns = rhythm([100.0] * (GAPS - 1))
    assert made.from_ns(last_ns, 2 * MS) == last_ns + RARE * 2 * MS
