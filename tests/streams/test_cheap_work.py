"""Cheap work: a little costs nothing, much waits, and only for who does much."""

from duly.streams.cheap_work import Budget, CheapWork
from tests.runtime.fake_lane import Clock

S = 1_000_000_000


def test_a_budget_fills_up_again_to_its_burst() -> None:
    clock = Clock()
    budget = Budget(clock, per_s=10, burst=3)
    assert [budget.take_if_there() for _ in range(4)] == [True, True, True, False]
    clock.now_ns += S // 10
    assert [budget.take_if_there() for _ in range(2)] == [True, False]
    clock.now_ns += 100 * S
    assert [budget.take_if_there() for _ in range(4)] == [True, True, True, False]


def test_who_overdraws_waits_for_all_that_was_taken() -> None:
    clock = Clock()
    budget = Budget(clock, per_s=10, burst=1)
    assert [budget.take(), budget.take(), budget.take(3)] == [0, S // 10, 4 * S // 10]


def test_who_does_little_never_waits_whatever_others_do() -> None:
    clock = Clock()
    shared = Budget(clock, per_s=100, burst=10)
    flood, modest = (CheapWork(Budget(clock, per_s=2, burst=5), shared) for _ in range(2))
    waits = [flood.done() for _ in range(1000)]
    assert waits[:15] == [0] * 15
    assert waits[-1] > 9 * S
    for _ in range(20):
        assert modest.done() == 0
        clock.now_ns += S // 2
