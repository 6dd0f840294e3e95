"""The memory that a local stream shares with its client: nothing is overwritten before it was read, and nothing waits
for room that is there.
"""

import errno
import os
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.rpc.local.areas import ALIGNMENT, OutcomeArea
from duly.rpc.local.layout import ALIVE, HEAD_BYTES
from duly.streams.errors import CallError
from tests.no_room import without_room

SIZE = 4 * 4096


@given(st.lists(st.tuples(st.integers(0, SIZE // 4), st.booleans()), max_size=60), st.integers(0, 255))
def test_what_was_not_read_stays_and_a_quarter_always_finds_room(steps: list[tuple[int, bool]], first: int) -> None:
    area = OutcomeArea(SIZE)
    fd = os.dup(area.fd)  # the client's
    sent: deque[tuple[int, bytes, int]] = deque()
    told = 0

    def read_one() -> None:
        nonlocal told
        offset, data, position = sent.popleft()
        assert os.pread(fd, len(data), offset) == data
        if position - told > SIZE // 4:  # as clients do
            os.eventfd_write(area.read_fd, position - told)
            told = position
            area.hear()

    try:
        for number, (size, reads) in enumerate(steps):
            data = bytes([(first + number) % 256]) * min(size, area.piece_bytes_max)
            while (offset := area.put(data)) < 0:
                assert sent, "there is no room though the client has read everything"
                read_one()
            assert offset >= HEAD_BYTES
            assert offset % ALIGNMENT == 0
            assert offset + len(data) <= SIZE
            sent.append((offset, data, area.position))
            if reads:
                read_one()
        while sent:
            read_one()
    finally:
        os.close(fd)
        area.close()


def test_a_client_cannot_have_read_what_was_not_sent() -> None:
    area = OutcomeArea(SIZE)
    try:
        area.put(bytes(100))
        os.eventfd_write(area.read_fd, area.position)
        area.hear()
        area.hear()  # there is nothing new
        os.eventfd_write(area.read_fd, 1)
        with pytest.raises(CallError, match="1 bytes of outcomes were read, 0 were sent"):
            area.hear()
    finally:
        area.close()


def test_memory_is_given_back_whatever_the_client_keeps() -> None:
    area = OutcomeArea(1 << 20)
    kept = os.dup(area.fd)
    for _ in range(3):
        area.put(b"\x01" * area.piece_bytes_max)
    assert ALIVE.unpack(os.pread(kept, 8, 0)) == (1,)
    assert os.fstat(kept).st_blocks * 512 == 1 << 20
    area.close()
    assert os.fstat(kept).st_blocks == 0
    assert ALIVE.unpack(os.pread(kept, 8, 0)) == (0,)
    os.close(kept)


def test_all_of_it_is_there_before_anything_is_written() -> None:
    """The server would end where it writes to a page that the system does not have."""
    area = OutcomeArea(1 << 20)
    assert os.fstat(area.fd).st_blocks * 512 == 1 << 20
    area.close()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="No space left") as refused:
        without_room(lambda: OutcomeArea(1 << 20), size_bytes=1 << 20)
    assert refused.value.errno == errno.ENOSPC
    assert len(os.listdir("/proc/self/fd")) == len(before)
