"""Whose fault it is that workers die."""

from duly.core.fates import PRINCIPAL_BARRED, STREAM_BARRED
from duly.runtime.blame import (
    BAR_NS,
    BAR_NS_MAX,
    CERTAIN_MAX,
    CERTAIN_NS,
    DEATHS_MAX,
    DEATHS_NS,
    FRUITLESS_MAX,
    FRUITLESS_S,
    NEW_BAR_NS_MAX,
    PAUSE_S,
    PAUSE_S_MAX,
    STRIKES_MAX,
    TRIED_ALONE,
    Blame,
    CrashLoop,
)

S = 1_000_000_000


def test_all_that_shared_a_lost_batch_run_alone_until_some_went_well() -> None:
    blame = Blame()
    assert blame.died(0, [(1, False), (2, False)]) == []
    assert blame.runs_alone(1)
    assert blame.runs_alone(2)
    blame.went_well([1] * TRIED_ALONE)
    assert not blame.runs_alone(1)
    assert blame.runs_alone(2)
    blame.went_well([2] * TRIED_ALONE)
    assert blame.peaceful


def test_strikes_in_a_row_bar_a_stream_for_longer_each_time() -> None:
    blame = Blame()
    now_ns, barred_ns = 0, BAR_NS
    for _ in range(STRIKES_MAX - 1):
        assert blame.died(now_ns, [(7, False)]) == []
        assert not blame.bar(now_ns, "a", "m/1", 7)
    for _ in range(12):
        assert blame.died(now_ns, [(7, False)]) == [7]
        assert blame.bar(now_ns + barred_ns - 1, "a", "m/1", 7) is STREAM_BARRED
        assert not blame.bar(now_ns + barred_ns, "a", "m/1", 7)
        now_ns, barred_ns = now_ns + barred_ns, min(2 * barred_ns, BAR_NS_MAX)


def test_a_stream_that_merely_ran_while_workers_were_killed_is_never_barred() -> None:
    blame = Blame()
    for second in range(1000):
        assert blame.died(second * S, [(7, False)]) == []
        if second % (STRIKES_MAX - 1):
            blame.went_well([7])


def test_frames_that_workers_died_of_twice_are_not_forgiven() -> None:
    blame = Blame()
    for nth in range(CERTAIN_MAX - 1):
        assert blame.died(nth * S, [(7, True)]) == []
        blame.went_well([7] * 1000)
    assert blame.died(CERTAIN_MAX * S, [(7, True)]) == [7]


def test_long_ago_it_may_have_been_chance() -> None:
    blame = Blame()
    for nth in range(10):
        assert blame.died(nth * CERTAIN_NS, [(7, True)]) == []
        blame.went_well([7] * 1000)


def test_a_closed_stream_leaves_nothing() -> None:
    blame = Blame()
    blame.died(0, [(1, False)])
    blame.forget(1)
    blame.went_well([1])
    assert blame.peaceful


def test_one_of_a_batch_whose_other_streams_have_closed_was_not_alone() -> None:
    blame = Blame()
    for second in range(10):
        assert blame.died(second * S, [(7, False)], alone=False) == []
    assert blame.runs_alone(7)


def test_a_client_that_comes_again_and_again_is_barred_without_those_that_are_well() -> None:
    blame = Blame()
    blame.died(0, [(3, False)])
    now_ns, barred_ns, stream_id = 0, BAR_NS, 10
    for _ in range(DEATHS_MAX - 1):
        assert not blame.died_alone(now_ns, "a", "m/1", stream_id)
        stream_id += 1
    for _ in range(TRIED_ALONE):
        blame.went_well_for("a", "m/1", 11)
    for _ in range(DEATHS_MAX - 1):
        assert not blame.died_alone(now_ns, "a", "m/1", stream_id), "one of a new stream has gone well"
        stream_id += 1
    for _ in range(8):
        assert blame.died_alone(now_ns, "a", "m/1", stream_id)
        for new in (stream_id, stream_id + 1):
            assert blame.bar(now_ns + barred_ns - 1, "a", "m/1", new) is PRINCIPAL_BARRED
        assert not blame.bar(now_ns + barred_ns, "a", "m/1", stream_id + 1)
        for principal, model, other in (("b", "m/1", stream_id), ("a", "m/2", stream_id), ("a", "m/1", 9)):
            assert not blame.bar(now_ns, principal, model, other)
        assert not blame.bar(now_ns, "a", "m/1", 11)
        stream_id += 1
        now_ns, barred_ns = now_ns + barred_ns, min(2 * barred_ns, NEW_BAR_NS_MAX)
    blame.died_alone(now_ns + DEATHS_NS, "b", "m/1", stream_id)
    assert not blame.died_alone(now_ns + DEATHS_NS, "a", "m/1", stream_id), "that was long ago"


def test_who_kills_workers_of_streams_that_are_well_bars_nobody() -> None:
    blame = Blame()
    for nth in range(1000):
        assert not blame.died_alone(nth * S, "a", "m/1", 2 * nth)
        blame.went_well_for("a", "m/1", 2 * nth + 1)


def test_a_version_that_dies_at_once_is_paused_for_longer_each_time() -> None:
    crashes = CrashLoop()
    pauses = [crashes.ended(0.1, 0) for _ in range(FRUITLESS_MAX + 8)]
    assert pauses[:FRUITLESS_MAX] == [0.0] * FRUITLESS_MAX
    assert pauses[FRUITLESS_MAX : FRUITLESS_MAX + 3] == [PAUSE_S, 2 * PAUSE_S, 4 * PAUSE_S]
    assert pauses[-1] == PAUSE_S_MAX


def test_one_batch_or_a_second_of_life_begins_the_count_anew() -> None:
    crashes = CrashLoop()
    for nth in range(100):
        assert crashes.ended(0.1, 0) == 0.0
        assert crashes.ended(*((0.1, 1) if nth % 2 else (FRUITLESS_S, 0))) == 0.0
