"""What a worker reads of clients' memory: pieces that cannot be read are those of their own frames alone."""

import os

from duly.worker.shared_frames import SharedFrames


def memory(data: bytes) -> int:
    fd = os.memfd_create("test")
    os.write(fd, data)
    return fd


def test_pieces_come_to_their_places_and_what_cannot_be_read_is_zeros_and_named() -> None:
    shared = SharedFrames()
    shared.share(1, memory(b"abcdefgh"))
    shared.share(2, -1)  # the system had no descriptor left for it
    area = bytearray(b"\xff" * 16)
    shared.gather(memoryview(area), [(1, 2, 0, 4), (2, 0, 4, 4), (1, 6, 8, 4), (3, 0, 12, 4)])
    assert bytes(area) == b"cdef" + bytes(12)
    frames = [(1, False, [(0, 4, 0, ())]), (2, False, [(4, 4, 0, ())]), (1, False, [(8, 4, 0, ())])]
    assert shared.unread_frames(frames) == {1, 2}
    assert not shared.unread_frames(frames)
    shared.forget((1, 2, 3))
    shared.gather(memoryview(area), [(1, 2, 0, 4)])
    assert shared.unread_frames(frames) == {0}
