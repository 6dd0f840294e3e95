"""Counters of processors, read from folders as the kernel lays them out."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from duly.energy.rapl import Rapl
from duly.energy.totals import Reading
from tests.energy.powercap import DRAM_RANGE_UJ, RANGE_UJ, Powercap, server_of_two_sockets

NOBODY = 65534


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="duly-powercap-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextlib.contextmanager
def not_root() -> Iterator[None]:
    """In it, the test is a user who is not root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def test_packages_memory_and_machine_are_read_and_nothing_that_they_contain(tmp_path: Path) -> None:
    readings, missing = Rapl(server_of_two_sockets(tmp_path).classes).read()
    assert set(readings) == {
        Reading("package-0", 1_000_000, RANGE_UJ),
        Reading("package-1", 2_000_000, RANGE_UJ),
        Reading("dram-0", 500_000, DRAM_RANGE_UJ),
        Reading("dram-1", 500_000, DRAM_RANGE_UJ),
        Reading("psys", 9_000_000, RANGE_UJ),
    }
    assert missing == []


def test_the_same_package_by_two_ways_is_read_once(tmp_path: Path) -> None:
    powercap = Powercap(tmp_path)
    powercap.control_type("intel-rapl")
    powercap.control_type("intel-rapl-mmio")
    powercap.zone("intel-rapl-mmio:0", "package-0", 7)
    powercap.zone("intel-rapl-mmio:0:0", "dram", 8)
    powercap.zone("intel-rapl:0", "package-0", 5)
    readings, missing = Rapl(powercap.classes).read()
    assert set(readings) == {Reading("package-0", 5, RANGE_UJ), Reading("dram-0", 8, RANGE_UJ)}
    assert missing == []


def test_dies_of_a_package_and_processors_of_amd(tmp_path: Path) -> None:
    powercap = Powercap(tmp_path)
    powercap.zone("intel-rapl:0", "package-0-die-0", 1)
    powercap.zone("intel-rapl:0:0", "dram", 2)
    powercap.zone("intel-rapl:1", "package-0-die-1", 3, 65_532_610_987)
    powercap.zone("intel-rapl:1:0", "core", 4, 65_532_610_987)
    found = {reading.device: reading.microjoules for reading in Rapl(powercap.classes).read()[0]}
    assert found == {"package-0-die-0": 1, "dram-0-die-0": 2, "package-0-die-1": 3}


def test_zones_that_vanish_and_come_again(tmp_path: Path) -> None:
    powercap = server_of_two_sockets(tmp_path)
    rapl = Rapl(powercap.classes)
    assert len(rapl.read()[0]) == 5
    powercap.take_away("intel-rapl:1")
    readings, missing = rapl.read()
    assert [reading.device for reading in readings] == ["package-0", "psys", "dram-0"]
    assert missing == []
    powercap.zone("intel-rapl:3", "package-1", 11)
    assert Reading("package-1", 11, RANGE_UJ) in rapl.read()[0]


def test_a_zone_that_goes_between_list_and_read_is_named_and_hides_no_other(tmp_path: Path) -> None:
    powercap = server_of_two_sockets(tmp_path)
    rapl = Rapl(powercap.classes)
    rapl.read()
    (powercap.folder("intel-rapl:1") / "energy_uj").unlink()
    readings, missing = rapl.read()
    assert {reading.device for reading in readings} == {"package-0", "dram-0", "dram-1", "psys"}
    assert [each.reason for each in missing] == ["package-1: energy_uj is not there"]


def test_what_root_alone_may_read_is_said_with_what_to_do(open_folder: Path) -> None:
    powercap = server_of_two_sockets(open_folder)
    for entry in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:2"):
        (powercap.folder(entry) / "energy_uj").chmod(0)
    for entry in ("intel-rapl:0:0", "intel-rapl:1:0"):
        (powercap.folder(entry) / "energy_uj").chmod(0o444)
    with not_root():
        readings, (missing,) = Rapl(powercap.classes).read()
    assert [reading.device for reading in readings] == ["dram-0", "dram-1"]
    assert missing.reason == "package-0, package-1, psys: energy_uj may be read by root alone"
    assert "chmod" in missing.advice
    assert "CVE-2020-8694" in missing.advice


def test_a_container_that_masks_the_devices_is_seen(tmp_path: Path) -> None:
    powercap = server_of_two_sockets(tmp_path)
    powercap.mask()
    readings, (missing,) = Rapl(powercap.classes).read()
    assert readings == []
    assert missing.reason.startswith("intel-rapl:0, intel-rapl:1, ")
    assert missing.reason.endswith(": listed, and not there")
    assert "systempaths=unconfined" in missing.advice


@pytest.mark.parametrize("there", [True, False])
def test_without_counters_it_says_so(tmp_path: Path, there: bool) -> None:
    powercap = Powercap(tmp_path)
    powercap.control_type("dtpm")
    root = powercap.classes if there else tmp_path / "no such folder"
    readings, (missing,) = Rapl(root).read()
    assert readings == []
    assert missing.reason == f"no RAPL: the kernel shows no counters of this processor in {root}"
    assert "modprobe" in missing.advice


@pytest.mark.parametrize("text", ["", "-5", "12a", "0x10", "٣", "9" * 64 + "\n" * 1000])
def test_what_is_no_number_is_named_and_hides_no_other(tmp_path: Path, text: str) -> None:
    powercap = server_of_two_sockets(tmp_path)
    (powercap.folder("intel-rapl:0") / "energy_uj").chmod(0o600)
    (powercap.folder("intel-rapl:0") / "energy_uj").write_text(text)
    readings, missing = Rapl(powercap.classes).read()
    if text.strip().isascii() and text.strip().isdigit():
        assert readings[0].microjoules == int("9" * 64)
        return
    assert {reading.device for reading in readings} == {"package-1", "dram-0", "dram-1", "psys"}
    assert "should be a number of microjoules" in missing[0].reason


@pytest.mark.parametrize(
    ("range_uj", "reason"), [(0, "does not say when its counter begins again"), (1000, "too often to be followed")]
)
def test_a_counter_that_cannot_be_followed_is_left_out(tmp_path: Path, range_uj: int, reason: str) -> None:
    powercap = Powercap(tmp_path)
    powercap.zone("intel-rapl:0", "package-0", 1, range_uj)
    powercap.zone("intel-rapl:1", "package-1", 2)
    readings, (missing,) = Rapl(powercap.classes).read()
    assert [reading.device for reading in readings] == ["package-1"]
    assert missing.reason.startswith("package-0")
    assert reason in missing.reason
