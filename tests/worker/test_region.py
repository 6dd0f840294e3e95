"""The memory that server and worker share: what is written to is there before."""

import os

import pytest

from duly.worker.channel import KEPT_BYTES_MAX, Region
from tests.no_room import without_room

SIZE = 1 << 20


def test_an_inputs_place_is_had_once_and_again_after_it_was_given_back() -> None:
    region = Region.create(SIZE, SIZE)
    try:
        before = os.fstat(region.fd).st_blocks
        region.reserve(1, 5000, 300_000)
        assert (os.fstat(region.fd).st_blocks - before) * 512 >= 300_000
        without_room(lambda: region.reserve(1, 5000, 300_000), size_bytes=1)  # it is there
        for place in ((0, 5000, 300_000), (1, 5000, 300_001), (1, 5001, 1)):
            with pytest.raises(OSError, match="No space left"):
                without_room(lambda place=place: region.reserve(*place), size_bytes=1)
        region.filled[1, False] = KEPT_BYTES_MAX + 1
        region.trim(1, outputs=False)
        assert os.fstat(region.fd).st_blocks == before
        region.reserve(1, 5000, 300_000)
        assert (os.fstat(region.fd).st_blocks - before) * 512 >= 300_000
    finally:
        region.close()
