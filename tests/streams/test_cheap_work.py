"""Cheap work: a little costs nothing, much waits, and only for who does much."""

from duly.streams.cheap_work import Budget, CheapWork, SharedBudget
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
    who = CheapWork(Budget(clock, per_s=10, burst=0), SharedBudget(clock, per_s=10, burst=1))
    assert [who.done(), who.done(), who.done(3)] == [0, S // 10, 4 * S // 10]


def test_who_does_a_little_more_than_is_free_waits_little_beside_many_who_do_much() -> None:
    clock = Clock()
    shared = SharedBudget(clock, per_s=1000, burst=10)
    floods = [CheapWork(Budget(clock, per_s=1, burst=1), shared) for _ in range(100)]
    modest = CheapWork(Budget(clock, per_s=1, burst=1), shared)
    ends_ns = dict.fromkeys(floods, 0)
    done = 0
    modest.done()
    for step in range(300):  # three seconds
        for flood in floods:
            if ends_ns[flood] <= clock.now_ns:
                ends_ns[flood] = clock.now_ns + max(flood.done() for _ in range(64))
                done += 64
        if step % 25 == 0:
            assert modest.done() <= S // 9, "as if all took theirs in turns"
        clock.now_ns += S // 100
    assert done <= 64 * 100 + 3 * 1100, "all together have no more than the budget, and what they begin with"


def test_who_does_little_never_waits_whatever_others_do() -> None:
    clock = Clock()
    shared = SharedBudget(clock, per_s=100, burst=10)
    flood, modest = (CheapWork(Budget(clock, per_s=2, burst=5), shared) for _ in range(2))
    waits = [flood.done() for _ in range(1000)]
    assert waits[:15] == [0] * 15
    assert waits[-1] > 9 * S
    for _ in range(20):
        assert modest.done() == 0
        clock.now_ns += S // 2
