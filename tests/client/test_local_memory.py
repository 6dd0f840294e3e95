"""The client's part of the local transport: how it shares out its memory, and what it makes of a server that lies."""

import asyncio
import gc
import mmap
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.v1 import inference_pb2 as pb
from duly.v1 import tensor_pb2
from duly_client import Client, DulyError, ProtocolError, ServerUnavailable, Stream, local_wire
from duly_client.local_memory import ALIGNMENT, STEPS, FrameMemory
from tests.no_room import without_room

SIZE = 4 * mmap.PAGESIZE


@given(st.lists(st.one_of(st.integers(0, 3000), st.just(-1)), max_size=80), st.randoms(use_true_random=False))
def test_nothing_is_taken_twice_and_all_of_it_comes_back(steps: list[int], random: object) -> None:
    memory = FrameMemory(mmap.mmap(-1, SIZE))
    taken: dict[int, int] = {}
    for size in steps:
        if size >= 0:
            offset = memory.take(size)
            if offset >= 0:
                assert offset % ALIGNMENT == 0
                assert offset + size <= SIZE
                assert all(offset + size <= other or other + bytes_ <= offset for other, bytes_ in taken.items())
                taken[offset] = max(size, 1)
        elif taken:
            offset = random.choice(list(taken))  # type: ignore[attr-defined]
            del taken[offset]
            memory.give_back(offset)
    for offset in taken:
        memory.give_back(offset)
        memory.give_back(offset)  # which does nothing
    assert memory.take(SIZE) == 0


def test_what_is_lent_comes_back_when_nobody_has_it_any_more() -> None:
    memory = FrameMemory(mmap.mmap(-1, SIZE))
    lent = memory.lend((SIZE,), np.dtype(np.uint8), SIZE)
    assert lent is not None
    assert memory.lend((1,), np.dtype(np.uint8), 1) is None
    part = lent.reshape(2, -1)[1][5:]
    del lent
    gc.collect()
    assert memory.lend((1,), np.dtype(np.uint8), 1) is None, "a part of it is still there"
    del part
    gc.collect()
    lent = memory.lend((1,), np.dtype(np.uint8), 1)
    assert lent is not None
    assert memory.holds(lent)
    assert not memory.holds(np.empty(1, np.uint8))
    offset = memory.sent(lent)
    assert offset == 0
    assert not memory.holds(lent)
    assert memory.sent(lent) == -1, "it was sent already"
    del lent
    gc.collect()
    assert memory.take(SIZE) == -1, "what was sent comes back by its outcome alone"
    memory.give_back(offset)
    assert memory.take(SIZE) == 0


def test_what_was_given_back_is_put_together_where_a_larger_frame_needs_the_room() -> None:
    memory = FrameMemory(mmap.mmap(-1, SIZE))
    taken = [memory.take(SIZE // 4) for _ in range(4)]
    assert not memory.has_room(1)
    for offset in taken[:2]:
        memory.give_back(offset)
    assert memory.has_room(SIZE // 4)
    assert memory.has_room(SIZE // 2)
    assert not memory.has_room(SIZE // 2 + 1)
    assert memory.take(SIZE // 2) == 0


@given(
    rows=st.lists(
        st.tuples(st.integers(1, local_wire.FRAMES_MAX), st.integers(0, 2**40), st.booleans(), st.integers(1, 999)),
        min_size=1,
        max_size=5,
    )
)
def test_frames_that_are_alike_are_said_as_each_by_itself(rows: list[tuple[int, int, bool, int]]) -> None:
    alike = local_wire.AlikeFrames()
    first = 1
    for count, offset, must_run, size in rows:
        ids = range(first, first + count)
        first += count
        tail = local_wire.tensor_tail(size, 0, 1, (size,))
        message = alike.message(ids, offset + 5, offset + 7, must_run, offset, size, tail)
        each = [
            local_wire.frame_of_one(frame_id, offset + 5, offset + 7, must_run, offset + nth * size, tail)
            for nth, frame_id in enumerate(ids)
        ]
        assert message == local_wire.frames_message(each)
        assert local_wire.frames_of(message) == each
        assert local_wire.frames_of(message[:0]) == []


def test_what_frames_share_is_free_when_all_of_them_have_given_it_back() -> None:
    memory = FrameMemory(mmap.mmap(-1, SIZE))
    for count in (1, 2, 3, 64):
        offset = memory.take(SIZE)
        assert offset == 0
        memory.divide(offset, count)
        for _ in range(count):
            assert memory.take(1) == -1
            memory.give_back(offset)


def test_there_is_as_much_as_the_system_gives() -> None:
    """What is written to is there before: a page that the system does not have then would end the client."""
    whole, step = STEPS * SIZE, SIZE
    fd = os.memfd_create("frames")
    os.ftruncate(fd, whole)
    area = mmap.mmap(fd, whole)

    def use() -> list[int]:
        os.posix_fallocate(fd, 0, step)
        memory = FrameMemory(area, os.dup(fd), step)
        taken = []
        while memory.has_room(step // 2):
            taken.append(memory.take(step // 2))
            assert taken[-1] + step // 2 <= os.fstat(fd).st_blocks * 512
            memory.write(taken[-1], b"x" * (step // 2), step // 2)
        assert memory.size_bytes == os.fstat(fd).st_blocks * 512
        assert memory.take(1) == -1
        assert memory.lend((1,), np.dtype(np.uint8), 1) is None
        memory.give_back(taken[1])
        assert memory.take(step // 2) == taken[1]
        for offset in taken:
            memory.give_back(offset)
        assert memory.take(memory.size_bytes) == 0
        memory.close()
        return taken

    assert use() == list(range(0, whole, step // 2))
    os.ftruncate(fd, 0)
    os.ftruncate(fd, whole)
    assert without_room(use, offset=3 * step) == list(range(0, 3 * step, step // 2))
    os.close(fd)


# ---- outcomes ----

TEXT = st.text(max_size=5)
OUTCOMES = st.tuples(
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 8), min_size=1, max_size=1) | st.lists(st.integers(0, 8)),
    TEXT,
    TEXT,
    TEXT,
)
Read = tuple[int, list[int], str, str, str]


@given(groups=st.lists(st.tuples(OUTCOMES, st.integers(1, 3)), max_size=4))
def test_outcomes_are_read_alike_or_not(groups: list[tuple[Read, int]]) -> None:
    area = memoryview(bytearray(range(1, 200)))
    reader = local_wire.OutcomeReader(area, [tensor_pb2.TensorSpec(name="y")])
    outcomes = [outcome for outcome, times in groups for _ in range(times)]
    message = local_wire.OUTCOMES_HEAD.pack(local_wire.OUTCOMES, len(outcomes), 0, 64)
    for frame_id, sizes, *texts in outcomes:
        encoded = [text.encode() for text in texts]
        message += local_wire.OUTCOME.pack(frame_id, 2, *range(7), 1, 16, len(sizes), *map(len, encoded), 0)
        for at, size in enumerate(sizes):
            message += output(64 + at, size, kind=5)
        message += b"".join(encoded) + bytes(-sum(map(len, encoded)) % local_wire.TEXT_ALIGNMENT)
    read = reader.outcomes(message)
    assert [(each.frame_id, each.version, each.variant, each.reason) for each in read] == [
        (frame_id, *texts) for frame_id, _, *texts in outcomes
    ]
    for each, (_, sizes, *_) in zip(read, outcomes, strict=True):
        assert (each.slack_nano, each.status, each.batch_size) == (2, 1, 16)
        assert each.timing == tuple(range(7))
        assert list(each.outputs) == [
            ("y", 5, (4,), bytes(range(65 + at, 65 + at + size))) for at, size in enumerate(sizes)
        ]


# ---- a server that lies ----


class Server:
    """The server's end of one local stream, scripted by a test."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.area = mmap.mmap(-1, 0x10000)

    def greet(self, **changed: object) -> None:
        spec = tensor_pb2.TensorSpec(name="x", datatype=tensor_pb2.DATA_TYPE_FP32, shape=[4])
        agreed = {"inputs": [spec], "outputs": [spec], "frames_in_flight_max": 64, "message_bytes_max": 1 << 20}
        greeting = pb.StreamOpened(**agreed | changed).SerializeToString()  # type: ignore[arg-type]
        fds = [os.memfd_create("test") for _ in range(2)]
        for fd in fds:
            os.ftruncate(fd, 0x10000)
        self.area = mmap.mmap(fds[1], 0x10000)
        local_wire.ALIVE.pack_into(self.area, 0, 1)
        self.area[local_wire.HEAD_BYTES : local_wire.HEAD_BYTES + len(greeting)] = greeting
        fds.append(os.eventfd(0))
        head = local_wire.OPENED_HEAD.pack(local_wire.OPENED, local_wire.VERSION, len(greeting), 0x10000, 0x10000)
        socket.send_fds(self.connection, [head], fds)
        for fd in fds:
            os.close(fd)


def outcome(frame_id: int = 1, outputs: bytes = b"", count: int = 0, texts: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    head = local_wire.OUTCOMES_HEAD.pack(local_wire.OUTCOMES, 1, 0, 64)
    return head + local_wire.OUTCOME.pack(frame_id, *[0] * 8, 1, 1, count, *texts, 0) + outputs


def output(offset: int = 64, size_bytes: int = 16, index: int = 0, kind: int = 11, dimensions: int = 1) -> bytes:
    return local_wire.TENSOR.pack(offset, size_bytes, index, kind, dimensions, 4, *[0] * 7)


@asynccontextmanager
async def streaming(script: Callable[[Server], None]) -> AsyncIterator[Stream]:
    """A stream whose server has done as scripted once the first frame was sent."""
    with (
        tempfile.TemporaryDirectory(prefix="duly-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening,
    ):
        listening.bind(f"{folder}/s")
        listening.listen()
        listening.setblocking(False)
        loop = asyncio.get_running_loop()
        async with Client(f"local:{folder}/s", reconnect=False) as client:
            opening = asyncio.ensure_future(client.stream("m").__aenter__())
            connection, _ = await loop.sock_accept(listening)
            with connection:
                await loop.sock_recv(connection, 1000)
                server = Server(connection)
                server.greet()
                stream = await opening
                await stream.send(np.zeros(4, np.float32))
                await loop.sock_recv(connection, 1000)
                script(server)
                yield stream
                await stream.close()


LIES = {
    "a kind that there is not": bytes([99]),
    "no outcomes": bytes([local_wire.OUTCOMES]),
    "an outcome that is cut off": outcome()[:-4],
    "a frame that is not in flight": outcome(7),
    "an output beyond the memory": outcome(outputs=output(offset=0x10000 - 8), count=1),
    "an output that overflows": outcome(outputs=output(offset=2**64 - 8), count=1),
    "an output that is none": outcome(outputs=output(index=5), count=1),
    "a text beyond the message": outcome(texts=(0, 0, 9999)),
    "a text that is none": outcome(texts=(2, 0, 0), outputs=b"\xff\xff" + bytes(6)),
    "advice that is none": bytes([local_wire.RESPONSE]) + b"\xff\xff",
    "outputs that are none": bytes([local_wire.OUTPUTS]) + b"\xff\xff",
    "a part that is cut off": bytes([local_wire.PART]),
    "a part beyond the memory": local_wire.PART_WHOLE.pack(local_wire.PART, 0xFFFF, 64, 0),
    "an end that is none": bytes([local_wire.END]) + b"{",
    "an end that is a list": bytes([local_wire.END]) + b"[]",
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_server_that_lies(lie: str) -> None:
    async with streaming(lambda server: server.connection.send(LIES[lie])) as stream:
        outcome = await anext(stream)
        assert outcome.status.name == "CANCELLED"
        with pytest.raises(ProtocolError):
            await anext(stream)


async def test_an_output_that_does_not_fill_its_shape() -> None:
    async with streaming(
        lambda server: server.connection.send(outcome(outputs=output(size_bytes=12), count=1))
    ) as stream:
        got = await anext(stream)
        with pytest.raises(ProtocolError, match="12 bytes do not fill"):
            _ = got.outputs


async def test_a_server_that_is_gone() -> None:
    async with streaming(lambda server: server.connection.close()) as stream:
        assert "connection lost" in (await anext(stream)).reason
        with pytest.raises(ServerUnavailable):
            await anext(stream)


async def test_an_end_of_a_reason_that_is_not_known() -> None:
    end = bytes([local_wire.END]) + b'{"reason": "NEW", "text": "something new", "metadata": {"a": 1}}'
    async with streaming(lambda server: server.connection.send(end)) as stream:
        await anext(stream)
        with pytest.raises(DulyError, match="something new") as ended:
            await anext(stream)
        assert (ended.value.reason, ended.value.metadata) == ("NEW", {"a": "1"})
