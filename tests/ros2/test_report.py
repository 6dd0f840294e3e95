"""What diagnostics say of a stream; time is an argument."""

from duly_client import ClockEstimate, Outcome, Status
from duly_ros2.report import PROBLEM_SHOWN_NS, Report

MS = 1_000_000
S = 1000 * MS


def test_a_stream_that_is_served() -> None:
    report = Report(budget_ns=100 * MS)
    report.answered(Status.ON_TIME, Outcome(1, Status.ON_TIME, 30 * MS), 0)
    found = report.diagnose(ClockEstimate(2 * MS, MS), S)
    assert (found.level, found.message) == ("OK", "frames are served")
    assert found.values["processing_time_ms"] == "30.000"
    assert found.values["is_processing_time_ms_in_expected_range"] == "True"
    assert found.values["consecutive_processing_delay_ms"] == "0.000"
    assert found.values["clock_offset_ms"] == "2.000"
    assert found.values["drop_ratio"] == "0.000"


def test_the_drop_ratio_is_of_what_was_answered_since_the_last_time() -> None:
    report = Report()
    for status in (Status.ON_TIME, Status.SUPERSEDED, Status.SHED, Status.LATE):
        report.answered(status, None, 0)
    assert report.diagnose(None, MS).values["drop_ratio"] == "0.500"
    report.answered(Status.ON_TIME, None, 2 * MS)
    found = report.diagnose(None, 3 * MS)
    assert found.values["drop_ratio"] == "0.000"
    assert (found.values["frames"], found.values["frames/SHED"]) == ("5", "1")


def test_results_that_take_too_long_and_none_for_long() -> None:
    report = Report(budget_ns=10 * MS)
    report.answered(Status.LATE, Outcome(1, Status.LATE, 30 * MS), 5 * S)
    soon = report.diagnose(None, 5 * S + MS)
    assert soon.level == "WARN"
    assert soon.values["is_processing_time_ms_in_expected_range"] == "False"
    assert soon.values["is_consecutive_processing_delay_in_range"] == "True"
    late = report.diagnose(None, 7 * S)
    assert (late.level, late.values["is_consecutive_processing_delay_in_range"]) == ("ERROR", "False")
    assert late.values["consecutive_processing_delay_ms"] == "2000.000"
    report.answered(Status.ON_TIME, Outcome(2, Status.ON_TIME, 5 * MS), 8 * S)
    assert report.diagnose(None, 9 * S).level == "OK"


def test_why_there_is_no_result_is_told_and_not_hidden_by_what_newer_messages_pushed_aside() -> None:
    report = Report()
    assert report.diagnose(None, 0).message == "no message came yet"
    report.answered(Status.CANCELLED, None, S, "connection lost")
    report.answered(Status.SUPERSEDED, None, 2 * S, "a newer message came")
    assert report.diagnose(None, 3 * S).message == "no result in time for 2.0 s: CANCELLED, connection lost"
    report.answered(Status.ON_TIME, Outcome(1, Status.ON_TIME, MS), 4 * S)
    assert report.diagnose(None, 5 * S).message == "frames are served"


def test_problems_are_shown_for_a_while_and_lasting_ones_until_they_are_taken_back() -> None:
    report = Report()
    assert report.problem("message /camera", "an encoding", 0)
    assert not report.problem("message /camera", "an encoding", S)
    assert report.lasting("type /camera", "another type", S)
    assert not report.lasting("type /camera", "another type", 2 * S)
    found = report.diagnose(None, 2 * S)
    assert (found.level, found.message) == ("ERROR", "another type; an encoding")
    assert found.values["problem/message /camera"] == "an encoding (2 times)"
    report.lasting("type /camera", None, 3 * S)
    assert report.diagnose(None, 3 * S).level == "WARN"
    assert report.diagnose(None, S + PROBLEM_SHOWN_NS + 1).level == "OK"
    assert report.problem("message /camera", "an encoding", 30 * S), "it is new again"
