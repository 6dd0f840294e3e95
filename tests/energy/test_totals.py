"""Counters that begin again, are set back, vanish, or are not looked at for long. Time is an argument."""

import pytest

from duly.energy.totals import Reading, Totals, counted

S = 1_000_000_000
RANGE_UJ = 262_143_328_850


def totals_of(*looks: tuple[float, int]) -> Totals:
    """Of a package whose counter said so many microjoules at so many seconds."""
    totals = Totals()
    for at_s, microjoules in looks:
        totals.take([Reading("package-0", microjoules, RANGE_UJ)], int(at_s * S))
    return totals


@pytest.mark.parametrize(
    ("looks", "joules"),
    [
        ([(5, 70_000_000)], 0),  # what was before the first look is not counted
        ([(5, 70_000_000), (6, 90_000_000)], 20),
        ([(5, 70_000_000), (6, 70_000_000)], 0),
        ([(5, RANGE_UJ - 3_000_000), (6, 4_000_000)], 7),  # it has begun again
        ([(5, 70_000_000), (6, 90_000_000), (7, 1_000_000), (8, 2_000_000)], 22),  # it was set back to 0
        ([(5, 70_000_000), (6, 70_000_000 + 30_000 * 1_000_000)], 0),  # no device takes 30 kW: another counter
    ],
)
def test_what_was_taken(looks: list[tuple[float, int]], joules: float) -> None:
    assert totals_of(*looks).joules() == {"package-0": joules}


def test_many_rounds_of_a_counter_are_all_counted() -> None:
    """A day at 400 W, looked at once a second: the counter goes round 131 times."""
    totals = Totals()
    for second in range(0, 86_400):
        totals.take([Reading("package-0", 400_000_000 * second % RANGE_UJ, RANGE_UJ)], second * S)
    assert totals.joules()["package-0"] == pytest.approx(400 * 86_399)
    assert totals.gaps == 0


def test_a_pause_in_which_a_counter_may_have_gone_round_is_told() -> None:
    totals = totals_of((0, 0), (20, 1_000_000))
    assert totals.gaps == 0
    totals.take([Reading("package-0", 2_000_000, RANGE_UJ)], 60 * S)
    assert totals.gaps == 1
    assert totals.joules() == {"package-0": 2}


def test_a_counter_that_never_begins_again_has_no_gaps() -> None:
    totals = Totals()
    for at_s in (0, 10_000):
        totals.take([Reading("gpu-0", at_s * 300_000_000)], at_s * S)
    assert (totals.joules(), totals.gaps) == ({"gpu-0": 3_000_000}, 0)
    totals.take([Reading("gpu-0", 5_000_000)], 10_001 * S)  # its driver was loaded anew
    assert totals.joules() == {"gpu-0": 3_000_005}


def test_a_device_that_vanishes_keeps_its_total_and_begins_anew() -> None:
    totals = totals_of((0, 1_000_000), (1, 3_000_000))
    totals.take([], 2 * S)
    assert totals.there() == set()
    totals.take([Reading("package-0", 900_000_000, RANGE_UJ)], 3 * S)
    totals.take([Reading("package-0", 901_000_000, RANGE_UJ)], 4 * S)
    assert totals.joules() == {"package-0": 3}


@pytest.mark.parametrize(
    ("devices", "all_of_them"),
    [
        ("", ""),
        ("package-0 package-1 dram-0 gpu-0", "package-0 package-1 dram-0 gpu-0"),
        ("package-0 dram-0 psys", "package-0 dram-0"),
        ("psys psys-1", "psys psys-1"),
        ("psys dram-0", "psys"),
        ("gpu-0", "gpu-0"),
    ],
)
def test_nothing_is_counted_twice(devices: str, all_of_them: str) -> None:
    assert counted(devices.split()) == all_of_them.split()
