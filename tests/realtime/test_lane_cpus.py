"""Which processors lanes have: what users write, and what is wrong with it."""

import os
import threading
from pathlib import Path

import pytest

from duly.config_sources import ConfigError, load_config
from duly.realtime import lane_cpus


@pytest.mark.parametrize(
    ("entry", "numbers"),
    [("0", {0}), ("2-4", {2, 3, 4}), ("7+1-2", {1, 2, 7}), ("3-3", {3})],
)
def test_what_one_lane_has(entry: str, numbers: set[int]) -> None:
    assert lane_cpus.parse(entry) == numbers


@pytest.mark.parametrize("entry", ["", "a", "-1", "3-2", "1-", "1+", "01", "1 2", "99999", "1-2-3"])
def test_what_makes_no_sense_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"such as 2-3,4 or 2\+4-5"):
        lane_cpus.parse(entry)


def test_numbers_are_told_as_ranges() -> None:
    assert lane_cpus.told({0, 1, 2, 5, 7, 8}) == "0-2, 5, 7-8"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight processors, of which this process may have six and is on four."""
    monkeypatch.setattr(os, "sysconf", lambda name: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(lane_cpus, "_usable", lambda numbers: numbers & {0, 1, 2, 3, 4, 5})


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        (("1-2", "2-3"), "gives 2 to two"),
        (("1", "8-9"), "has 0-7 and not 8-9"),
        (("1", "5-6"), "6 may not be had"),
        (("0-1", "2-3"), "leave the server a processor"),
    ],
)
@pytest.mark.usefixtures("machine")
def test_processors_that_are_not_to_be_had_are_named(entries: tuple[str, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        lane_cpus.check(entries)


@pytest.mark.usefixtures("machine")
def test_isolated_processors_may_be_had_although_the_server_is_not_on_them() -> None:
    lane_cpus.check(("3", "4-5"))
    lane_cpus.check(())


def test_what_this_machine_lets_a_thread_have_is_found_out_and_leaves_no_trace() -> None:
    before = os.sched_getaffinity(0)
    assert lane_cpus._usable({min(before), 4000}) == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_settings_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--cpus: .* an entry for each lane: lanes are cpu:0, cpu:1, entries are 1"):
        load_config({"models": tmp_path, "lanes": "cpu:0,cpu:1", "cpus": "0"}, None, {})
    with pytest.raises(ConfigError, match=r"environment DULY_CPUS: should be processors of this machine, which has"):
        load_config({"models": tmp_path}, None, {"DULY_CPUS": "9999"})


def test_all_threads_are_moved_and_moved_back() -> None:
    before = os.sched_getaffinity(0)
    ended, seen = threading.Event(), list[set[int]]()

    def run() -> None:
        ended.wait()
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert lane_cpus.move({min(before)}) == before
        ended.set()
        thread.join()
        assert seen == [{min(before)}]
    finally:
        ended.set()
        lane_cpus.move(before)
    assert os.sched_getaffinity(0) == before
