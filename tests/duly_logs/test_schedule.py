"""The log's own time: jumps of its clock are told and cut short."""

from duly_logs.schedule import Schedule
from tests.duly_logs.drives import PERIOD_NS, START_NS


def placed(*times_ns: int) -> tuple[list[int], list[str]]:
    told: list[str] = []
    schedule = Schedule(told.append)
    return [schedule.at_ns(START_NS + time_ns, number) for number, time_ns in enumerate(times_ns, start=1)], told


def test_messages_keep_their_distances() -> None:
    assert placed(0, 100, 250, 250, 1000) == ([0, 100, 250, 250, 1000], [])


def test_a_message_that_is_a_little_late_is_due_at_once() -> None:
    assert placed(0, 10**8, 10**8 - 5, 2 * 10**8) == ([0, 10**8, 10**8, 2 * 10**8], [])


def test_a_clock_that_is_set_back_is_told_and_the_drive_goes_on() -> None:
    hour = 3600 * 10**9
    at_ns, told = placed(0, PERIOD_NS, PERIOD_NS - hour, 2 * PERIOD_NS - hour)
    assert at_ns == [0, PERIOD_NS, 2 * PERIOD_NS, 3 * PERIOD_NS]
    assert told == ["the clock of the log jumps 3.6e+03 s back at message 3; replayed as 100 ms"]


def test_a_clock_that_is_set_ahead_and_a_long_pause_are_cut_short() -> None:
    at_ns, told = placed(0, 5 * 10**7, 5 * 10**7 + 20 * 10**9, 10**8 + 20 * 10**9)
    assert at_ns == [0, 5 * 10**7, 10**8, 15 * 10**7]
    assert told == ["the clock of the log jumps 20 s ahead at message 3; replayed as 50 ms"]
