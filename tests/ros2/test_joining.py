"""Messages that belong together, by their stamps."""

from hypothesis import given
from hypothesis import strategies as st

from duly_ros2.joining import Joining

MS = 1_000_000


def test_the_nearest_partners_within_the_tolerance_are_joined_once() -> None:
    joining: Joining[str] = Joining(2, 10 * MS, 5, 1000 * MS)
    assert joining.add(0, 100 * MS, "a100", 0).together is None
    assert joining.add(0, 108 * MS, "a108", 0).together is None
    assert joining.add(1, 107 * MS, "b107", 0).together == ("a108", "b107")
    assert joining.add(1, 101 * MS, "b101", 0).together == ("a100", "b101")
    assert joining.add(1, 102 * MS, "b102", 0).together is None
    assert joining.take_all() == ["b102"]


def test_three_topics_whose_stamps_lie_apart_pairwise_but_not_together() -> None:
    joining: Joining[str] = Joining(3, 10 * MS, 5, 1000 * MS)
    joining.add(0, 0, "a0", 0)
    joining.add(1, 16 * MS, "b16", 0)
    assert joining.add(2, 8 * MS, "c8", 0).together is None  # each is near to it, but not to the other
    assert joining.add(1, 9 * MS, "b9", 0).together == ("a0", "b9", "c8")


def test_the_oldest_message_is_pushed_out_and_one_with_the_same_stamp_too() -> None:
    joining: Joining[int] = Joining(2, MS, 2, 1000 * MS)
    assert [joining.add(0, stamp * 100 * MS, stamp, 0).pushed_out for stamp in range(4)] == [[], [], [0], [1]]
    assert joining.add(0, 300 * MS, 33, 0).pushed_out == [3]
    assert joining.add(1, 300 * MS, 4, 0).together == (33, 4)


def test_what_has_waited_too_long_is_taken_out_in_time() -> None:
    joining: Joining[str] = Joining(2, MS, 5, 50 * MS)
    assert joining.next_overdue_ns() is None
    joining.add(0, 0, "early", 10 * MS)
    joining.add(0, 30 * MS, "late", 30 * MS)
    assert joining.next_overdue_ns() == 60 * MS
    assert joining.overdue(59 * MS) == []
    assert joining.overdue(60 * MS) == ["early"]
    assert joining.next_overdue_ns() == 80 * MS


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), max_size=40), st.integers(0, 8), st.integers(1, 4))
def test_every_message_is_joined_pushed_out_or_left_exactly_once(
    messages: list[tuple[int, int]], tolerance: int, queue: int
) -> None:
    joining: Joining[int] = Joining(3, tolerance, queue, 10)
    ended: list[int] = []
    for number, (topic, stamp) in enumerate(messages):
        joined = joining.add(topic, stamp, number, number)
        ended += [*joined.pushed_out, *(joined.together or ())]
        if joined.together is not None:
            assert [messages[each][0] for each in joined.together] == [0, 1, 2]
            stamps = [messages[each][1] for each in joined.together]
            assert max(stamps) - min(stamps) <= tolerance
        ended += joining.overdue(number)
    ended += joining.take_all()
    assert sorted(ended) == list(range(len(messages)))
