"""The buffer of actions: when each is due, what a new chunk replaces, when it runs dry. Its clock is the test's."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly_client import Chunk
from duly_client.chunks import ACTIONS_MAX, ActionBuffer

MS = 1_000_000


def chunk_of(actions: Sequence[float], dt_ms: int = 20, t0_ms: int = 0) -> tuple[Chunk, np.ndarray]:
    array = np.float32(actions).reshape(len(actions), 1)
    return Chunk("actions", t0_ms * MS, dt_ms * MS, len(actions)), array


def seen(buffer: ActionBuffer, at_ms: Sequence[int]) -> list[float | None]:
    """The action at each of these times."""
    found = [buffer.action(ms * MS) for ms in at_ms]
    return [None if action is None else float(action[0]) for action in found]


def test_each_action_is_due_at_its_time_until_the_buffer_runs_dry() -> None:
    buffer = ActionBuffer()
    assert buffer.action(0) is None
    assert buffer.add(*chunk_of([1, 2, 3]), captured_ns=0, delay_ns=0, now_ns=0) == 3
    assert buffer.slack_ns(0) == 60 * MS
    assert seen(buffer, [0, 19, 20, 40, 59, 60]) == [1, 1, 2, 3, 3, None]
    assert buffer.slack_ns(60 * MS) == 0
    assert len(buffer) == 0


def test_the_first_chunk_begins_where_the_robot_is_by_now() -> None:
    buffer = ActionBuffer()
    assert buffer.add(*chunk_of([1, 2, 3, 4]), captured_ns=0, delay_ns=10 * MS, now_ns=45 * MS) == 2
    assert seen(buffer, [45, 60, 79, 80]) == [3, 4, 4, None]


def test_a_new_chunk_takes_over_from_its_capture_plus_the_planned_delay_on() -> None:
    buffer = ActionBuffer()
    buffer.add(*chunk_of([1, 2, 3, 4, 5]), captured_ns=0, delay_ns=0, now_ns=0)
    # captured at 20, planned to take 40, here already at 30: the policy was told that two old actions are carried out
    assert buffer.add(*chunk_of([12, 13, 14, 15, 16]), captured_ns=20 * MS, delay_ns=40 * MS, now_ns=30 * MS) == 3
    assert seen(buffer, [30, 40, 59, 60, 80, 100, 119, 120]) == [2, 3, 3, 14, 15, 16, 16, None]


def test_a_chunk_that_comes_later_than_planned_takes_over_at_once() -> None:
    buffer = ActionBuffer()
    buffer.add(*chunk_of([1, 2, 3, 4, 5]), captured_ns=0, delay_ns=0, now_ns=0)
    buffer.add(*chunk_of([12, 13, 14, 15]), captured_ns=20 * MS, delay_ns=20 * MS, now_ns=70 * MS)
    assert seen(buffer, [70, 80, 99]) == [4, 15, 15]


def test_new_actions_fill_the_time_when_old_ones_have_ended() -> None:
    buffer = ActionBuffer()
    buffer.add(*chunk_of([1, 2]), captured_ns=0, delay_ns=0, now_ns=0)
    buffer.add(*chunk_of([11, 12, 13, 14, 15]), captured_ns=10 * MS, delay_ns=80 * MS, now_ns=30 * MS)
    assert seen(buffer, [30, 39, 40, 50, 70, 90]) == [2, 2, 12, 13, 14, 15]


def test_the_chunk_of_an_older_frame_changes_nothing() -> None:
    buffer = ActionBuffer()
    buffer.add(*chunk_of([1, 2, 3]), captured_ns=20 * MS, delay_ns=0, now_ns=20 * MS)
    assert buffer.add(*chunk_of([8, 9, 10]), captured_ns=10 * MS, delay_ns=0, now_ns=25 * MS) == 0
    assert seen(buffer, [25, 40]) == [1, 2]
    buffer.clear()
    assert buffer.add(*chunk_of([8, 9, 10]), captured_ns=10 * MS, delay_ns=0, now_ns=25 * MS) == 3


def test_a_chunk_that_is_over_changes_nothing() -> None:
    buffer = ActionBuffer()
    assert buffer.add(*chunk_of([1, 2]), captured_ns=0, delay_ns=0, now_ns=40 * MS) == 0
    assert buffer.action(40 * MS) is None


def test_blending_goes_from_the_old_to_the_new() -> None:
    buffer = ActionBuffer(blend_steps=3)
    buffer.add(*chunk_of([0] * 10), captured_ns=0, delay_ns=0, now_ns=0)
    buffer.add(*chunk_of([4] * 10), captured_ns=20 * MS, delay_ns=20 * MS, now_ns=30 * MS)
    assert seen(buffer, [30, 40, 60, 80, 100, 120]) == [0, 1, 2, 3, 4, 4]


def test_a_policy_is_told_what_will_be_carried_out() -> None:
    buffer = ActionBuffer()
    buffer.add(*chunk_of([1, 2, 3, 4]), captured_ns=0, delay_ns=0, now_ns=0)
    assert [float(action[0]) for action in buffer.ahead(30 * MS, 2)] == [2, 3]


@pytest.mark.parametrize("chunk", [Chunk("a", 0, 0, 1), Chunk("a", 0, -1, 1)])
def test_a_chunk_without_time_is_refused(chunk: Chunk) -> None:
    with pytest.raises(ValueError, match="make no chunk"):
        ActionBuffer().add(chunk, np.zeros((1, 1)), 0, 0, 0)


def test_a_chunk_is_held_up_to_a_bound() -> None:
    buffer = ActionBuffer()
    assert buffer.add(*chunk_of([1] * (ACTIONS_MAX + 5)), captured_ns=0, delay_ns=0, now_ns=0) == ACTIONS_MAX
    assert buffer.slack_ns(0) == ACTIONS_MAX * 20 * MS
    late = chunk_of([2] * ACTIONS_MAX)
    buffer.add(*late, captured_ns=20 * MS, delay_ns=1000 * MS, now_ns=20 * MS)
    assert len(buffer) == ACTIONS_MAX


ADDED = st.tuples(
    st.integers(1, 30),  # actions
    st.integers(1, 40),  # ms between them
    st.integers(0, 60),  # ms before the first one
    st.integers(0, 400),  # ms from capture to arrival
    st.integers(0, 400),  # ms of planned delay
    st.integers(0, 300),  # ms since the arrival before
)


@given(st.lists(ADDED, max_size=12), st.integers(0, 5))
def test_what_holds_of_any_chunks(added: list[tuple[int, ...]], blend_steps: int) -> None:
    buffer, plain = ActionBuffer(blend_steps=blend_steps), ActionBuffer()
    now_ms, newest_ms = 1000, -1
    for nth, (horizon, dt_ms, t0_ms, took_ms, delay_ms, pause_ms) in enumerate(added):
        now_ms += pause_ms
        captured_ms = now_ms - took_ms
        chunk, actions = chunk_of([nth * 100 + i for i in range(horizon)], dt_ms, t0_ms)
        before = {at: plain._at(at * MS) for at in range(now_ms, now_ms + 1500, 7)}
        slack_ns = plain.slack_ns(now_ms * MS)
        times = {"captured_ns": captured_ms * MS, "delay_ns": delay_ms * MS, "now_ns": now_ms * MS}
        taken = plain.add(chunk, actions, **times)
        assert taken == buffer.add(chunk, actions, **times)
        assert plain._due_ns == buffer._due_ns == sorted(set(plain._due_ns))
        begin_ms = captured_ms + t0_ms
        end_ms = begin_ms + horizon * dt_ms
        switch_ms = min(max(captured_ms + delay_ms, now_ms), now_ms + slack_ns // MS)
        after = {at: plain._at(at * MS) for at in before}
        if not taken:
            no_use = all(begin_ms + nth * dt_ms < switch_ms for nth in range(horizon))
            assert captured_ms < newest_ms or no_use
            assert plain.slack_ns(now_ms * MS) == slack_ns
            assert all((after[at] is None) == (old is None) for at, old in before.items())
            continue
        newest_ms = captured_ms
        assert plain.slack_ns(now_ms * MS) == (end_ms - now_ms) * MS
        for at, old in before.items():
            new = after[at]
            if at < captured_ms + delay_ms and old is not None:
                assert new is not None
                assert float(new[0]) == float(old[0]), "what was promised to the policy is carried out"
            elif max(begin_ms, switch_ms + dt_ms) <= at < end_ms:
                assert new is not None
                assert float(new[0]) == nth * 100 + (at - begin_ms) // dt_ms, "then each new action at its time"
            if begin_ms <= at < end_ms:
                assert new is not None, "there is no gap"
