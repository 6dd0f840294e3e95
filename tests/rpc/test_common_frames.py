"""Frames that are read without protobuf are those that protobuf reads."""

import random

import pytest

from duly.rpc.duly_v1 import common_frames
from duly.rpc.duly_v1.common_frames import COMMON_FRAMES_MAX, by_hand, by_protobuf
from duly.v1 import inference_pb2 as pb
from tests.rpc.common_messages import HEADS, TENSORS, check, common, messages, read

MESSAGES = 20_000


@pytest.fixture(params=["by hand", "by protobuf"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the numbers of frames are read. What is compiled reads them by hand, and cannot be told otherwise."""
    if common_frames.__file__.endswith(".py"):
        monkeypatch.setattr(common_frames, "_BY_HAND", request.param == "by hand")
    elif request.param == "by protobuf":
        pytest.skip("it is compiled")
    return str(request.param)


def test_messages_as_clients_write_them_are_read(way: str) -> None:
    chance = random.Random(1)
    for _ in range(2000):
        kind, count = chance.randrange(len(TENSORS)), chance.choice((1, 1, 3, 16, 200))
        assert check(common(chance, kind, count).SerializeToString(), kind)


def test_whatever_is_read_is_what_protobuf_reads(way: str) -> None:
    read_count = sum(check(message, kind) for message, kind in messages(random.Random(2), MESSAGES))
    assert MESSAGES // 8 < read_count < MESSAGES // 2, "neither nearly all nor hardly any should be read"


def test_no_message_is_read_that_was_cut_off(way: str) -> None:
    message = common(random.Random(3), 0, 3).SerializeToString()
    for end in range(len(message)):
        assert read(message[:end], 0) is None
        check(message[:end] + bytes(len(message) - end), 0)


@pytest.mark.parametrize("kind", range(len(TENSORS)))
def test_bytes_of_any_kind_are_read_as_protobuf_does_or_not_at_all(way: str, kind: int) -> None:
    chance = random.Random(4)
    for _ in range(2000):
        size = chance.randrange(300)
        check(chance.randbytes(size), kind)
        check(b"\x12" + bytes((size % 128,)) + b"\x0a" + chance.randbytes(size % 128) + HEADS[kind], kind)


def test_numbers_are_taken_up_to_63_bits_and_no_further(way: str) -> None:
    for bits, taken in ((62, True), (63, True), (64, False)):
        frame = pb.Frame(frame_id=(1 << bits) - 1, tensors=[TENSORS[0]])
        message = pb.StreamRequest(frames=pb.FrameBatch(frames=[frame])).SerializeToString()
        assert check(message, 0) or not taken
    negative = pb.Frame(frame_id=1, budget_nano=-1, tensors=[TENSORS[0]])
    check(pb.StreamRequest(frames=pb.FrameBatch(frames=[negative])).SerializeToString(), 0)


def test_messages_with_more_frames_than_all_bounds_allow_are_left_to_protobuf(way: str) -> None:
    chance = random.Random(5)
    assert check(common(chance, 1, COMMON_FRAMES_MAX).SerializeToString(), 1)
    assert not check(common(chance, 1, COMMON_FRAMES_MAX + 1).SerializeToString(), 1)


def test_both_ways_of_reading_numbers_agree() -> None:
    chance = random.Random(6)
    for _ in range(2000):
        frame = common(chance, 0, 1).frames.frames[0]
        del frame.tensors[:]
        numbers = frame.SerializeToString()
        message = b"--" + numbers + HEADS[0] + TENSORS[0].data
        end = 2 + len(numbers)
        expected = (frame.frame_id, frame.capture_time_unix_nano, frame.budget_nano, frame.must_run, 7)
        assert by_hand(message, 2, end, 7) == by_protobuf(message, 2, end, 7) == expected
