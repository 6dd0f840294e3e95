"""Joules between two points, and the honest None; what is read can be counted on in steps."""

from collections.abc import Sequence
from threading import Event
from typing import Any

import pytest

from duly.energy import watch
from duly.energy.meter import Meter
from duly.energy.source import Missing
from duly.energy.totals import Reading
from duly.energy.watch import EnergyWatch

S = 1_000_000_000


class Scripted:
    """A source that gives one list of readings after another, the last one for ever."""

    def __init__(self, *looks: list[Reading], missing: Sequence[Missing] = ()) -> None:
        self._looks = list(looks)
        self._missing = missing
        self.looks = 0
        self.read_again = Event()

    def read(self) -> tuple[Sequence[Reading], Sequence[Missing]]:
        self.looks += 1
        if self.looks > 1:
            self.read_again.set()
        return self._looks.pop(0) if len(self._looks) > 1 else self._looks[0], self._missing


def package(joules: float) -> Reading:
    return Reading("package-0", int(joules * 1e6), 262_143_328_850)


@pytest.fixture(autouse=True)
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the looks of the test itself."""
    monkeypatch.setattr(EnergyWatch, "start", lambda self: None)


def clock(*times_s: float) -> Any:
    times = iter(times_s)
    return lambda: int(next(times) * S)


def measured(source: Scripted, *times_s: float) -> Meter:
    with Meter([source], clock(*times_s)) as meter:
        assert meter.energy.joules is None
    return meter


def test_what_was_taken_between_two_points() -> None:
    source = Scripted(
        [package(100), Reading("gpu-0", 5_000_000), Reading("psys", 1, 262_143_328_850)],
        [package(130), Reading("gpu-0", 15_000_000), Reading("psys", 90_000_001, 262_143_328_850)],
        missing=[Missing("dram-0: may be read by root alone", "chmod")],
    )
    energy = measured(source, 10, 12).energy
    assert energy.by_device == {"package-0": 30, "gpu-0": 10, "psys": 90}
    assert (energy.joules, energy.seconds) == (40, 2)
    assert energy.why_not == "dram-0: may be read by root alone"
    assert energy.a_frame(80) == 0.5
    assert energy.a_frame(0) is None
    told = "0.5 J a frame, 40 J in 2 s, of gpu-0, package-0; without dram-0: may be read by root alone"
    assert energy.words(80) == told


@pytest.mark.parametrize(
    ("looks", "seconds", "why_not"),
    [
        ([[], []], 2, "no RAPL"),
        ([[package(1)], [package(2)]], 0.1, "it took 0.1 s, less than the 0.5 s that counters can tell; no RAPL"),
        ([[package(1)], []], 2, "package-0 vanished meanwhile; no RAPL"),
        ([[package(1)], [package(2)]], 300, "the machine was paused, in which time a counter may have gone round"),
    ],
)
def test_where_it_is_not_known_it_says_why(looks: list[list[Reading]], seconds: float, why_not: str) -> None:
    energy = measured(Scripted(*looks, missing=[Missing("no RAPL")]), 10, 10 + seconds).energy
    assert energy.joules is None
    assert energy.a_frame(10) is None
    assert energy.words(10) == f"not available: {energy.why_not}"
    assert energy.why_not.startswith(why_not.removesuffix("; no RAPL"))


def test_a_thread_looks_again_and_again_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.0)
    source = Scripted([package(1)], [package(2)], [package(4)])
    watched = EnergyWatch([source])
    watched.start()
    assert source.read_again.wait(30)
    watched.stop()
    watched.look()
    watched.look()
    assert watched.joules == {"package-0": 3}


def test_this_machine_says_what_it_has_or_why_not() -> None:
    watched = EnergyWatch()
    watched.look()
    assert watched.joules or watched.missing
