"""What clients of the local transport say of their frames is read whole, or refused."""

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.rpc.local.areas import FrameArea
from duly.rpc.local.frames import FrameReader
from duly.rpc.local.layout import ENCODED, EXTENTS, FRAME, FRAMES, FRAMES_HEAD, FRAMES_MAX, MUST_RUN, TENSOR
from duly.streams.errors import CallError, InvalidFrame
from tests.fuzz.surface import SIGNATURE

AREA_BYTES = 4096
EXTENT = st.integers(-(2**31), 2**31 - 1)
TENSORS = st.builds(
    lambda offset, size, index, kind, dimensions, extents: (offset, size, index, kind, dimensions, *extents),
    st.integers(0, AREA_BYTES // 2),
    st.integers(0, AREA_BYTES // 2),
    st.integers(0, 1),
    st.sampled_from((0, 1, 2, 99, ENCODED, ENCODED + 1, ENCODED + 2, 255)),
    st.integers(0, EXTENTS),
    st.lists(st.one_of(st.integers(-2, 4), EXTENT), min_size=EXTENTS, max_size=EXTENTS),
)
NUMBER = st.integers(-(2**63), 2**63 - 1)
FRAME_STRATEGY = st.tuples(st.integers(0, 2**64 - 1), NUMBER, NUMBER, st.integers(0, 3), st.lists(TENSORS, max_size=3))
Frame = tuple[int, int, int, int, list[tuple[int, ...]]]


@pytest.fixture(scope="module")
def area() -> FrameArea:
    made = FrameArea(1, AREA_BYTES)
    os.pwrite(made.fd, bytes(range(256)) * (AREA_BYTES // 256), 0)
    return made


def message_of(frames: list[Frame]) -> bytes:
    message = FRAMES_HEAD.pack(FRAMES, len(frames), 0)
    for frame_id, captured_ns, budget_ns, flags, tensors in frames:
        message += FRAME.pack(frame_id, captured_ns, budget_ns, flags, len(tensors), 0)
        message += b"".join(TENSOR.pack(*tensor) for tensor in tensors)
    return message


@given(frames=st.lists(FRAME_STRATEGY, min_size=1, max_size=8), cut=st.integers(0, 400))
def test_frames_come_back_and_no_message_that_is_cut_off_does(area: FrameArea, frames: list[Frame], cut: int) -> None:
    reader = FrameReader(SIGNATURE, area)
    message = message_of(frames)
    assert reader.described(memoryview(message)) == [
        (
            frame_id,
            captured_ns,
            budget_ns,
            bool(flags & MUST_RUN),
            [(tensor[0], tensor[1:]) for tensor in tensors],
            sum(tensor[1] for tensor in tensors),
            sum(tensor[1] for tensor in tensors if tensor[3] >= ENCODED),
        )
        for frame_id, captured_ns, budget_ns, flags, tensors in frames
    ]
    with pytest.raises(CallError, match="a message of the local transport is wrong"):
        reader.described(memoryview(message[: -1 - cut % len(message)]))
    with pytest.raises(CallError):
        reader.described(memoryview(message + b"\0"))


@given(message=st.binary(max_size=300))
def test_any_bytes_are_frames_within_the_memory_or_refused(area: FrameArea, message: bytes) -> None:
    reader = FrameReader(SIGNATURE, area)
    with contextlib.suppress(CallError):
        frames = reader.described(memoryview(message))
        assert 0 < len(frames) <= FRAMES_MAX
        tensors = [tensor for frame in frames for tensor in frame[4]]
        assert FRAMES_HEAD.size + FRAME.size * len(frames) + TENSOR.size * len(tensors) == len(message)
        assert all(offset + size <= AREA_BYTES and index < 2 for offset, (size, index, *_) in tensors)


@given(tensors=st.lists(TENSORS, max_size=3))
def test_a_payload_is_what_lies_there_or_the_frame_is_invalid(area: FrameArea, tensors: list[tuple[int, ...]]) -> None:
    reader = FrameReader(SIGNATURE, area)
    try:
        payload = reader.payload(SIGNATURE, [(tensor[0], tensor[1:]) for tensor in tensors])
    except InvalidFrame:
        return
    by_input = {tensor[2]: tensor for tensor in tensors}
    assert sorted(by_input) == [0, 1]
    for index, (_, _, data) in enumerate(payload):
        offset, size = by_input[index][:2]
        assert data == os.pread(area.fd, size, offset)
        assert size <= SIGNATURE.inputs[index].bytes_max


@given(tensors=st.lists(st.tuples(st.integers(0, AREA_BYTES // 2), TENSORS), min_size=2, max_size=8))
def test_what_was_read_before_makes_no_difference(area: FrameArea, tensors: list[tuple[int, tuple[int, ...]]]) -> None:
    signature = SIGNATURE.model_copy(update={"inputs": SIGNATURE.inputs[:1]})
    whole = (0, 8, 0, 0, 2, 4, 2, *[0] * 6)
    reader = FrameReader(signature, area)
    for offset, (_, *rest) in [(0, whole), *tensors, (8, whole), (9, whole)]:
        message = message_of([(1, 0, 0, 0, [(offset, *rest)])])
        read = []
        for each in (reader, FrameReader(signature, area)):
            ((*_, described, _, _),) = each.described(memoryview(message))
            try:
                read.append(tuple(each.payload(signature, described)))
            except InvalidFrame as error:
                read.append(str(error))
        assert read[0] == read[1]
    assert read[0] == ((0, (4, 2), bytes(range(9, 17))),)


@given(
    at=st.integers(0, 200),
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=8),
    gap=st.sampled_from((0, 0, 0, 1)),
    order=st.randoms(use_true_random=False),
)
def test_arrays_that_lie_one_behind_the_other_are_what_lies_there(
    area: FrameArea, at: int, sizes: list[int], gap: int, order: object
) -> None:
    spec = SIGNATURE.inputs[0].model_copy(update={"shape": (-1,), "bytes_max": 300})
    signature = SIGNATURE.model_copy(update={"inputs": (spec,)})
    reader = FrameReader(signature, area)
    described = []
    for number, size in enumerate(sizes):
        described.append((number, 0, 0, 0, [(at, size, 0, 0, 1, size, *[0] * (EXTENTS - 1))]))
        at += size + gap
    for _ in range(2):
        frames = reader.described(memoryview(message_of(described)))
        lies = [os.pread(area.fd, frame[5], frame[4][0][0]) for frame in frames]
        order.shuffle(frames)  # type: ignore[attr-defined]
        for number, *_, tensors, _, _ in frames:
            try:
                ((_, shape, data),) = reader.payload(signature, tensors)
            except InvalidFrame:
                assert not sizes[number]
            else:
                assert (shape, bytes(data)) == ((sizes[number],), lies[number])  # type: ignore[arg-type]
        was = os.pread(area.fd, AREA_BYTES, 0)
        os.pwrite(area.fd, bytes(255 - byte for byte in was), 0)  # the next message has what lies there then
