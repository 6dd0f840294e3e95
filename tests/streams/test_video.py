"""What a stream keeps of its video: workers are given every access unit once, in order, within the bounds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.core.types import BacklogPolicy, GapPolicy, OutcomeStatus
from duly.models.spec import TensorSpec
from duly.runtime.held_frames import InputData
from duly.streams.limits import ServerLimits, StreamLimits
from duly.streams.video import KEPT_NS_MAX, UNITS_BYTES_MAX, Video
from duly.worker.channel import ENCODINGS
from duly.worker.video_units import UNITS_MAX, is_key, packed_bytes, unpack
from tests.streams.bench import LIMITS, MS, Bench, statuses, written

H264 = ENCODINGS.index("H264")
ROOM = 1 << 16


def unit(frame_id: int, key: bool, size_bytes: int = 8) -> bytes:
    return b"\0\0\1" + (b"\x65" if key else b"\x41") + frame_id.to_bytes(size_bytes, "big")


@dataclass
class Decoder:
    """What a real one needs, without pictures: it says of what its last picture was made."""

    made_of: list[int] | None = None
    expected: int = 0

    def given(self, payload: bytes) -> list[int] | None:
        _, first, units = unpack(memoryview(payload))
        assert len(units) <= UNITS_MAX
        for frame_id, data in enumerate(units, start=first):
            assert int.from_bytes(bytes(data[4:]), "big") == frame_id
            if is_key(bytes(data), "H264"):
                self.made_of = []
            elif self.made_of is not None and frame_id < self.expected:
                continue
            elif frame_id != self.expected:
                self.made_of = None
            if self.made_of is not None:
                self.made_of.append(frame_id)
                self.expected = frame_id + 1
        return self.made_of


Step = tuple[bool, bool, int, str]
"""Whether it is a key picture, is refused at the door, its bytes, and what becomes of the frame."""
steps = st.tuples(
    st.integers(0, 5).map(lambda number: number == 0),
    st.integers(0, 9).map(lambda number: number == 0),
    st.sampled_from((8, 200, 5000, UNITS_BYTES_MAX // 3)),
    st.sampled_from(("runs", "passed", "passed", "waits")),
)


@given(st.lists(steps, min_size=1, max_size=120), st.booleans())
def test_a_picture_is_made_of_all_since_its_key_picture_or_not_at_all(
    script: Sequence[Step], dispatched_first: bool
) -> None:
    video, decoder = Video(), Decoder()
    kept_bytes, last_key, ran_last = 0, -1, -1
    waiting: list[tuple[int, Sequence[InputData], int, int]] = []
    for frame_id, (key, refused, size_bytes, fate) in enumerate(script):
        if not refused:
            data = unit(frame_id, key, size_bytes)
            payload = video.taken(frame_id, [InputData(0, (1,), b"x"), InputData(H264, (), data)], [1, ROOM])
            last = frame_id if key else last_key
            waiting.append((frame_id, payload, last, packed_bytes(1, len(data))))
        last_key = frame_id if key else last_key  # also one that was refused: without it there is no picture
        if fate == "waits":
            continue
        for waiting_id, waits, its_key, alone_bytes in waiting:
            ran = fate == "runs"
            if ran:
                assert waits[0].data == b"x"
                made_of = decoder.given(bytes(waits[1].data))  # type: ignore[arg-type]
                assert len(waits[1].data) <= max(ROOM, alone_bytes)
                if made_of is not None:
                    assert made_of == list(range(its_key, waiting_id + 1))
            if ran and dispatched_first:  # a lane is given its next batch before the outcomes of its last are sent
                if ran_last >= 0:
                    kept_bytes += video.answered(0, ran_last, ran=True)
                ran_last = waiting_id
                continue
            if ran_last >= 0:
                kept_bytes += video.answered(0, ran_last, ran=True)
                ran_last = -1
            kept_bytes += video.answered(0, waiting_id, ran)
            assert kept_bytes == video.kept_bytes
            assert 0 <= kept_bytes <= UNITS_BYTES_MAX
        waiting.clear()
        assert video.units <= UNITS_MAX
    if ran_last >= 0:
        kept_bytes += video.answered(0, ran_last, ran=True)
    kept_bytes += video.forget()
    assert kept_bytes == 0


def test_what_is_not_run_goes_with_the_next_frame_that_is() -> None:
    video = Video()
    payloads = [video.taken(number, [InputData(H264, (), unit(number, number == 0))], [ROOM]) for number in range(5)]
    assert [video.answered(0, number, ran=False) > 0 for number in range(4)] == [True] * 4
    _, first, units = unpack(memoryview(bytes(payloads[4][0].data)))  # type: ignore[arg-type]
    assert (first, len(units)) == (0, 5)
    assert video.answered(0, 4, ran=True) < 0
    assert (video.units, video.kept_bytes) == (0, 0)


def test_a_key_picture_comes_alone() -> None:
    video = Video()
    for number in range(4):
        video.taken(number, [InputData(H264, (), unit(number, number == 0))], [ROOM])
        video.answered(0, number, ran=False)
    payload = video.taken(4, [InputData(H264, (), unit(4, key=True))], [ROOM])
    assert unpack(memoryview(bytes(payload[0].data)))[1] == 4  # type: ignore[arg-type]


def test_an_access_unit_is_held_once() -> None:
    message = bytearray(unit(1, key=True))
    taken = Video().taken(1, [InputData(H264, (), memoryview(message))], [ROOM])
    message.append(0)  # which no view of it allows
    assert unpack(memoryview(bytes(taken[0].data)))[2][0] == unit(1, key=True)  # type: ignore[arg-type]


def test_frames_without_video_are_left_as_they_are() -> None:
    video = Video()
    payload = [InputData(0, (1,), b"x")]
    assert video.taken(1, payload, [1]) is payload
    assert video.answered(0, 1, ran=True) == 0


class Rig:
    """A bench whose model takes video."""

    def __init__(self, bytes_in_flight_max: int) -> None:
        stream = StreamLimits(64, bytes_in_flight_max, 60_000 * MS)
        limits = replace(LIMITS, stream=stream, server=ServerLimits(8, 1 << 20))
        self.bench = Bench(limits)
        served = self.bench.catalogue.find("m")
        video = TensorSpec(name="x", datatype="UINT8", shape=(4, 4, 3), encodings=("H264",), bytes_max=ROOM)
        assert served.signature is not None
        served.signature = served.signature.model_copy(update={"inputs": (video,), "stateful": True})
        self.stream = self.bench.open(backlog_policy=BacklogPolicy.LATEST, gap_policy=GapPolicy.CONTINUE)

    def send(self, frame_id: int, key: bool, size_bytes: int = 8) -> None:
        held = self.stream.take(frame_id, 0, 0, False, 0)
        if held is not None:
            data = unit(frame_id, key, size_bytes)
            self.stream.submit(held, [InputData(H264, (), data)], len(data))
        self.bench.driver._admit()


@pytest.mark.asyncio
async def test_video_that_was_not_run_never_keeps_new_video_out() -> None:
    rig = Rig(bytes_in_flight_max=1000)
    rig.send(1, key=True)  # it runs all the while
    for frame_id in range(2, 8):
        rig.send(frame_id, key=False, size_bytes=200)
    ended = statuses(await written(rig.stream))
    assert OutcomeStatus.SHED not in ended.values()
    assert [ended[frame_id] for frame_id in range(2, 7)] == [OutcomeStatus.SUPERSEDED] * 5


@pytest.mark.asyncio
async def test_video_that_was_not_run_is_not_kept_for_ever() -> None:
    rig = Rig(bytes_in_flight_max=10_000)
    bench = rig.bench
    rig.send(1, key=True)
    for frame_id in range(2, 6):
        rig.send(frame_id, key=False, size_bytes=200)
    await written(rig.stream)
    waiting_bytes = len(unit(1, True)) + len(unit(5, False, 200))
    kept_bytes = 3 * len(unit(2, False, 200))
    held = (rig.stream.frame_bytes, bench.use.bytes, bench.driver.held.bytes)
    assert held == (waiting_bytes + kept_bytes,) * 3
    rig.stream.forget_old_video(bench.clock())
    assert rig.stream.frame_bytes == waiting_bytes + kept_bytes
    rig.stream.forget_old_video(bench.clock() + KEPT_NS_MAX)
    held = (rig.stream.frame_bytes, bench.use.bytes, bench.driver.held.bytes)
    assert held == (waiting_bytes,) * 3
