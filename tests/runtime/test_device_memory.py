"""What memory the device of a lane has: the machine and its control groups, as the kernel lays them out, and GPUs."""

import asyncio
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from duly import cgroups
from duly.nvml.library import Library
from duly.runtime import device_memory
from duly.runtime.device_memory import HOST, DeviceMemory, Devices, host_memory, on_host, process_bytes
from duly.runtime.placement import Placement
from tests.nvml import stand_in as nvml

GPU = "00000000-0000-0000-0000-000000000001"
MB = 1_000_000


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GB, of which 6 are available, and no control groups yet."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000000 kB\nMemFree: 1 kB\nMemAvailable: 6000000 kB\nHuge: 0\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/system/duly\n")
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path)
    monkeypatch.setattr(device_memory, "_MEMINFO", tmp_path / "proc/meminfo")
    return tmp_path


def group(machine: Path, name: str, **files: object) -> None:
    folder = machine / "sys/fs/cgroup" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file.replace("_", ".", 1)).write_text(f"{text}\n")


def test_the_machine_alone(machine: Path) -> None:
    assert host_memory() == DeviceMemory(HOST, "this machine", 8_192_000_000, 2_048_000_000)


def test_the_group_that_has_less_left(machine: Path) -> None:
    stat = "anon 5\ninactive_file 300000000\nactive_file 100000000"
    group(machine, "system/duly", memory_max="max", memory_current=700 * MB, memory_stat=stat)
    group(machine, "system", memory_max=2000 * MB, memory_current=900 * MB, memory_stat=stat)
    assert host_memory() == DeviceMemory(HOST, "the control group", 2000 * MB, 500 * MB)


def test_a_group_with_more_than_the_machine_has(machine: Path) -> None:
    group(machine, "system/duly", memory_max=7000 * MB, memory_current=10 * MB, memory_stat="")
    found = host_memory()
    assert found is not None
    assert found.name == "this machine"


def test_groups_of_version_1(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("4:memory:/docker/a\n")
    folder = machine / "sys/fs/cgroup/memory/docker/a"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(f"{1000 * MB}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{600 * MB}\n")
    (folder / "memory.stat").write_text(
        f"inactive_file 1\nactive_file 1\ntotal_inactive_file {100 * MB}\ntotal_active_file {50 * MB}\n"
    )
    assert host_memory() == DeviceMemory(HOST, "the control group", 1000 * MB, 450 * MB)


def test_a_system_that_does_not_tell(machine: Path) -> None:
    (machine / "proc/meminfo").write_text("MemTotal: 8000000 kB\n")
    assert host_memory() is None


def test_this_very_machine() -> None:
    found = host_memory()
    assert found is not None
    assert 0 < found.used_bytes < found.total_bytes
    block = bytearray(64 << 20)
    assert process_bytes(os.getpid()) > len(block)
    assert process_bytes(1 << 30) == 0


@pytest.mark.parametrize(
    ("lane", "host"),
    [
        ("cpu:0", True),
        ("openvino:CPU", True),
        ("openvino:CPU/2", True),
        ("openvino:GPU", False),
        ("cuda:0", False),
        ("webgpu:0", False),
    ],
)
def test_which_lanes_are_on_the_machine(lane: str, host: bool) -> None:
    assert on_host(lane) is host


def find(lanes: Sequence[str]) -> Mapping[str, str]:
    return dict.fromkeys([lane for lane in lanes if lane.startswith("cuda:")], GPU)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """NVML, as a process sees it that has the system's process ids."""
    (tmp_path / "ids").symlink_to("pid:[4026531836]")
    monkeypatch.setattr(device_memory, "_PROCESS_IDS", tmp_path / "ids")
    driver = tmp_path / "version"
    driver.write_text("NVRM version: 580\n")
    nvml.fresh(nvml.Gpu(GPU, used_bytes=3, total_bytes=16, processes={7: 2}))
    return Library(nvml.__name__, driver)


async def test_gpus_are_asked_by_what_cuda_counts(library: Library) -> None:
    devices = Devices(library, ("cuda:0", "webgpu:0"), find)
    assert await devices.memory("cuda:0") == DeviceMemory(GPU, "cuda:0", 16, 3, {7: 2})
    assert await devices.memory("webgpu:0") is None
    assert (await devices.memory("cpu:0")) is not None


@pytest.mark.parametrize("ids", ["pid:[4026532001]", None], ids=["of a container", "that cannot be told"])
async def test_process_ids_of_others_are_not_taken_for_ours(library: Library, tmp_path: Path, ids: str | None) -> None:
    """The driver's process 7 is not this server's worker 7, which is measured by what has come into use."""
    (tmp_path / "ids").unlink()
    if ids is not None:
        (tmp_path / "ids").symlink_to(ids)
    devices = Devices(library, ("cuda:0",), find)
    assert await devices.memory("cuda:0") == DeviceMemory(GPU, "cuda:0", 16, 3, {})
    placement = Placement(devices.memory)
    claim = await placement.claim("m/1", "cuda:0", 1)
    assert claim is not None
    claim.pid = 7
    nvml.GPUS[0].used_bytes = 9
    await placement.warm(claim)
    assert claim.size_bytes == 6


async def test_where_cuda_counts_nothing_yet_it_is_asked_again(library: Library) -> None:
    now, found, asked = [5.0], False, []

    def finds_later(lanes: Sequence[str]) -> Mapping[str, str]:
        asked.append(now[0])
        return find(lanes) if found else {}

    devices = Devices(library, ("cuda:0",), finds_later, lambda: now[0])
    assert await devices.memory("cuda:0") is None
    found = True
    now[0] = 64.9
    assert await devices.memory("cuda:0") is None
    now[0] = 65.0
    assert await devices.memory("cuda:0") is not None
    now[0] = 1000.0
    assert await devices.memory("cuda:0") is not None
    assert asked == [5.0, 65.0]


async def test_those_who_ask_at_the_same_time_are_all_answered(library: Library) -> None:
    devices = Devices(library, ("cuda:0",), find)
    told = await asyncio.gather(devices.memory("cuda:0"), devices.memory("cuda:0"))
    assert told == [DeviceMemory(GPU, "cuda:0", 16, 3, {7: 2})] * 2


async def test_a_driver_that_hangs_is_waited_for_once(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    going_on = threading.Event()

    def hangs(lanes: Sequence[str]) -> Mapping[str, str]:
        going_on.wait()
        return find(lanes)

    devices = Devices(library, ("cuda:0",), hangs)
    monkeypatch.setattr(device_memory, "ASK_SECONDS_MAX", 0.0)
    assert await devices.memory("cuda:0") is None
    monkeypatch.setattr(device_memory, "ASK_SECONDS_MAX", 60.0)
    assert await devices.memory("cuda:0") is None
    assert (await devices.memory("cpu:0")) is not None
    going_on.set()
    while await devices.memory("cuda:0") is None:
        await asyncio.sleep(0)
