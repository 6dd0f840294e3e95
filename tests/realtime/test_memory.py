"""Memory that is locked can be given back all the same, and huge pages can be had again."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from duly.realtime import memory
from duly.rpc.local.areas import OutcomeArea
from duly.worker.channel import KEPT_BYTES_MAX, Region
from tests.realtime.needs import needs_rights

SIZE = 8 * mmap.PAGESIZE


def status(name: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith(name))


@pytest.fixture
def locked() -> Iterator[None]:
    memory.lock()
    assert status("VmLck") != "0 kB"
    yield
    memory.unlock()
    assert status("VmLck") == "0 kB"


@needs_rights
@pytest.mark.usefixtures("locked")
def test_a_part_of_a_locked_mapping_is_given_back() -> None:
    fd = os.memfd_create("test")
    os.ftruncate(fd, SIZE)
    with mmap.mmap(fd, SIZE) as area:
        area[:] = b"x" * SIZE
        memory.give_back(fd, 0, SIZE // 2)
        assert os.fstat(fd).st_blocks * 512 == SIZE // 2
        assert area[:] == bytes(SIZE // 2) + b"x" * (SIZE // 2)  # to look takes memory again
        memory.give_back_mapped(area)
        assert os.fstat(fd).st_blocks == 0
    os.close(fd)


@needs_rights
@pytest.mark.usefixtures("locked")
def test_a_workers_region_is_trimmed() -> None:
    region = Region.create(SIZE, SIZE)
    region.inputs[0][:SIZE] = b"x" * SIZE
    region.filled[0, False] = KEPT_BYTES_MAX + 1
    region.trim(0, outputs=False)
    assert os.fstat(region.fd).st_blocks == 0
    assert bytes(region.inputs[0]) == bytes(SIZE)
    region.close()


@needs_rights
@pytest.mark.usefixtures("locked")
def test_what_outcomes_take_is_given_back_when_a_local_stream_ends() -> None:
    area = OutcomeArea(SIZE)
    other = os.dup(area.fd)
    assert os.fstat(other).st_blocks * 512 == SIZE
    area.close()
    assert os.fstat(other).st_blocks == 0
    os.close(other)


def test_huge_pages_are_forbidden_and_allowed() -> None:
    memory.allow_huge_pages(False)
    try:
        assert status("THP_enabled") == "0"
    finally:
        memory.allow_huge_pages(True)
    assert status("THP_enabled") == "1"
