"""Clients of the local transport that die, lie, scribble and hoard: each harms itself alone."""

import asyncio
import contextlib
import fcntl
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duly.app import App
from duly.rpc.local import layout
from duly.rpc.local.areas import OutcomeArea
from duly.rpc.local.listener import OPENING_MAX, SO_PASSRIGHTS
from duly.rpc.local.packets import SO_PEERPIDFD
from duly.v1 import inference_pb2 as pb
from duly_client import Client, Status
from tests import graphs
from tests.e2e import dying_client
from tests.e2e.local_wire import LocalWire, array, frames_message, status
from tests.e2e.serving import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

NO_EXTENTS = [0] * layout.EXTENTS


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="duly-") as name:
        yield Path(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(folder: Path) -> AsyncIterator[App]:
    root = folder / "models"
    graphs.save(root, "double", graphs.scaling())
    graphs.save(root, "large", graphs.copying(("N", 480, 640, 3), graphs.UINT8), toml="batch_sizes = [1, 2]\n")
    async with serving(root, local=str(folder / "local.sock"), slow_reader_timeout_s=2.0) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="module")
async def bystander(server: App) -> AsyncIterator["Bystander"]:
    """A client beside the bad one, which must be served all the time; nothing of the bad one is left in the end."""
    before = descriptors()
    async with LocalWire(server.local_path, model="double", default_budget_nano=60 * 10**9) as wire:
        yield Bystander(wire)
        await Bystander(wire, 10_000).is_served()
    await nothing_left(server, before)


class Bystander:
    def __init__(self, wire: LocalWire, frame_id: int = 0) -> None:
        self._wire = wire
        self._frame_id = frame_id

    async def is_served(self) -> None:
        self._frame_id += 1
        outcome = await self._wire.ask(self._frame_id, [self._frame_id, 1, 2, 3])
        assert (status(outcome), array(outcome).tolist()) == ("ON_TIME", [2 * self._frame_id, 2, 4, 6])


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def nothing_left(app: App, descriptors_before: int) -> None:
    memory = app.streams.host.memory
    while (
        len(app.streams)
        or memory.shared_bytes
        or len(app.driver.held)
        or memory.outcomes
        or memory.result_bytes
        or descriptors() > descriptors_before
    ):
        await asyncio.sleep(0)


@pytest.mark.parametrize("step", dying_client.STEPS)
async def test_a_client_that_is_killed(server: App, bystander: Bystander, step: str) -> None:
    process = await asyncio.to_thread(_start, server.local_path, step)
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert await asyncio.to_thread(process.wait) == -signal.SIGKILL
        if step == "its child opens":
            process.stdin.write(b"x")
            process.stdin.flush()
            assert await asyncio.to_thread(process.stdout.readline) == b"ended\n"
        while len(server.streams) > 1:
            await bystander.is_served()


@pytest.mark.parametrize("option", [SO_PEERPIDFD, 9999], ids=["new kernel", "old kernel"])
@pytest.mark.parametrize("step", [step for step in dying_client.STEPS if step.startswith("its child")])
async def test_a_child_keeps_nothing_of_a_client_that_is_killed(
    server: App, folder: Path, monkeypatch: pytest.MonkeyPatch, step: str, option: int
) -> None:
    """However long clients may take nothing. `option`: what a kernel does not know, it says so of."""
    monkeypatch.setattr("duly.rpc.local.packets.SO_PEERPIDFD", option)
    async with serving(folder / "models", local=str(folder / "patient.sock"), slow_reader_timeout_s=3600) as app:
        before = descriptors()
        process = await asyncio.to_thread(_start, app.local_path, step)
        with process:
            assert process.stdin is not None
            assert await asyncio.to_thread(process.wait) == -signal.SIGKILL
            process.stdin.write(b"x")
            process.stdin.flush()
            while len(app.streams) or app.streams.host.memory.shared_bytes:
                await asyncio.sleep(0)
        await nothing_left(app, before)


def _start(path: str, step: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.e2e.dying_client", path, step]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def frame(
    frame_id: int = 1,
    offset: int = 0,
    size_bytes: int = 16,
    index: int = 0,
    kind: int = 0,
    dimensions: int = 0,
    extents: Any = NO_EXTENTS,
    inputs: int = 1,
) -> bytes:
    tensor = layout.TENSOR.pack(offset, size_bytes, index, kind, dimensions, *extents)
    return layout.FRAME.pack(frame_id, 0, 0, 0, inputs, 0) + tensor


U64 = 2**64 - 1
LIES = {
    "no message": b"\0",
    "a kind of the server's": bytes([layout.OUTCOMES]) + bytes(15),
    "no frames": frames_message(count=0),
    "more frames than there are": frames_message(frame(), count=2),
    "fewer frames than there are": frames_message(frame(1), frame(2), count=1),
    "too many frames": frames_message(*[frame(n) for n in range(1, layout.FRAMES_MAX + 2)]),
    "a frame that is cut off": frames_message(frame())[:-1],
    "more inputs than there are": frames_message(frame(inputs=2)),
    "65,535 inputs": frames_message(frame(inputs=0xFFFF)),
    "an offset beyond the end": frames_message(frame(offset=1 << 30)),
    "an offset that overflows": frames_message(frame(offset=U64 - 8)),
    "a length beyond the end": frames_message(frame(size_bytes=0xFFFF_FFFF)),
    "nine dimensions": frames_message(frame(dimensions=9)),
    "255 dimensions": frames_message(frame(dimensions=255)),
    "an id again": frames_message(frame(1), frame(1)),
    "a request that is none": bytes([layout.REQUEST]) + b"\xff\xff",
    "a request of nothing": bytes([layout.REQUEST]),
    "frames of gRPC": bytes([layout.REQUEST])
    + pb.StreamRequest(frames=pb.FrameBatch(frames=[pb.Frame(frame_id=1)])).SerializeToString(),
    "opened again": bytes([layout.REQUEST]) + pb.StreamRequest(open=pb.OpenStream(model="double")).SerializeToString(),
    "a longer FINISH": bytes([layout.FINISH, 0]),
}
REASONS = {"an id again": "FRAME_ID_NOT_INCREASING", "opened again": "STREAM_OPENED_TWICE"}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_ends_its_own_stream(server: App, bystander: Bystander, lie: str) -> None:
    async with LocalWire(server.local_path, model="double") as wire:
        await wire.ask(0)
        await wire.write(LIES[lie])
        await bystander.is_served()
        assert await wire.ended() == REASONS.get(lie, "MESSAGE_MALFORMED")
        assert wire.end is not None
        assert "/" not in wire.end["text"]


async def test_inputs_that_the_model_does_not_take(server: App, bystander: Bystander) -> None:
    """They are the frame's fault, as over gRPC, and the stream goes on."""
    async with LocalWire(server.local_path, model="double") as wire:
        tensor = layout.TENSOR.pack(0, 16, 0, 0, 0, *NO_EXTENTS)
        many = [layout.FRAME.pack(3, 0, 0, 0, 2000, 0) + 2000 * tensor]
        await wire.write(frames_message(frame(1, index=1), frame(2, index=0xFFFF)))
        await wire.write(frames_message(*many))
        reasons = [(await wire.outcome(frame_id)).reason for frame_id in (1, 2, 3)]
        assert reasons[0] == "there is no input 'number 1'; the model takes 'x'"
        assert reasons[1] == "there is no input 'number 65535'; the model takes 'x'"
        assert "there twice" in reasons[2]
        assert {status(outcome) for outcome in wire.outcomes.values()} == {"INVALID"}
        await bystander.is_served()
        assert status(await wire.ask(4)) == "ON_TIME"


@pytest.mark.parametrize("number", [0, 1, -1, 2**63 - 1, -(2**63)])
async def test_times_that_cannot_be(server: App, bystander: Bystander, number: int) -> None:
    async with LocalWire(server.local_path, model="double", clock=pb.ClockEstimate(uncertainty_nano=1)) as wire:
        await wire.ask(1, captured_ns=number)
        await wire.ask(2, budget_ns=number)
        await wire.ask(3, captured_ns=number, budget_ns=-number - 1)
        await bystander.is_served()
        assert status(await wire.ask(4)) == "ON_TIME"


async def test_a_message_that_is_too_long(server: App, bystander: Bystander) -> None:
    async with LocalWire(server.local_path, model="double") as wire:
        await wire.write(frames_message(*[frame(n) for n in range(1, 3000)], count=64)[: layout.MESSAGE_BYTES_MAX + 1])
        assert await wire.ended() == "MESSAGE_MALFORMED"
        await bystander.is_served()


WRONG_OPENS = {
    "nothing": (b"", None),
    "one byte": (b"\x01", "MESSAGE_MALFORMED"),
    "frames": (frames_message(frame()), "FIRST_MESSAGE_NOT_OPEN"),
    "another version": (layout.OPEN_HEAD.pack(layout.OPEN, 99, 0, 0, 0), "MESSAGE_MALFORMED"),
    "a token that is longer than all": (layout.OPEN_HEAD.pack(layout.OPEN, 1, 9999, 0, 0), "MODEL_NOT_FOUND"),
    "a token of no letters": (layout.OPEN_HEAD.pack(layout.OPEN, 1, 2, 0, 0) + b"\xff\xff", "MESSAGE_MALFORMED"),
    "no OpenStream": (layout.OPEN_HEAD.pack(layout.OPEN, 1, 0, 0, 0) + b"\xff\xff", "MESSAGE_MALFORMED"),
    "no model": (layout.OPEN_HEAD.pack(layout.OPEN, 1, 0, 0, 0), "MODEL_NOT_FOUND"),
}


@pytest.mark.parametrize("kind", WRONG_OPENS)
async def test_a_wrong_beginning(server: App, bystander: Bystander, kind: str) -> None:
    message, reason = WRONG_OPENS[kind]
    async with LocalWire(server.local_path, opened=False) as wire:
        if message:
            await wire.write(message)
        else:
            wire.socket.send(b"")  # which cannot be told from the end
        await wire.greeting()
        assert wire.end is not None
        assert wire.end.get("reason") == reason
        await bystander.is_served()


async def test_more_memory_than_a_stream_may_have(server: App, bystander: Bystander) -> None:
    async with LocalWire(server.local_path, model="double", memory_bytes=U64) as wire:
        assert wire.frame_bytes == server.streams.limits.stream.bytes_in_flight_max
        assert status(await wire.ask(1)) == "ON_TIME"
    await bystander.is_served()


async def test_memory_can_neither_be_written_nor_cut_off(server: App, bystander: Bystander) -> None:
    async with LocalWire(server.local_path, model="double") as wire:
        frames, outcomes, _ = wire.fds
        for fd in (frames, outcomes):
            for size in (0, 1 << 40):
                with pytest.raises(OSError, match=r"."):
                    os.ftruncate(fd, size)
            with pytest.raises(OSError, match=r"."):
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        with pytest.raises(OSError, match=r"."):
            mmap.mmap(outcomes, wire.outcome_bytes)
        with pytest.raises(OSError, match=r"."):
            os.write(outcomes, b"x")
        with pytest.raises(OSError, match=r"."):
            fcntl.fcntl(outcomes, fcntl.F_SETFL, os.O_RDWR) or os.write(outcomes, b"x")
        await bystander.is_served()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
async def test_another_user_cannot_open_its_memory_to_write(server: App, bystander: Bystander) -> None:
    async with LocalWire(server.local_path, model="double") as wire:
        os.set_inheritable(wire.fds[1], True)
        script = f"import os; os.setuid(65534); os.open('/proc/self/fd/{wire.fds[1]}', os.O_RDWR)"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-S", "-c", script, pass_fds=[wire.fds[1]], stderr=subprocess.PIPE
        )
        _, error = await process.communicate()
        assert b"Permission denied" in error
        await bystander.is_served()


async def test_a_client_that_scribbles_over_its_memory(server: App, bystander: Bystander) -> None:
    """Frames of any size that change all the time have results of some values, and nobody else's do."""
    stop = threading.Event()
    async with (
        LocalWire(server.local_path, model="double") as small,
        LocalWire(server.local_path, model="large") as large,
    ):

        def scribble() -> None:
            random = np.random.default_rng(3)
            while not stop.is_set():
                for area in (small.frames, large.frames):
                    at = int(random.integers(0, len(area) - 4096))
                    area[at : at + 4096] = random.bytes(4096)
                small.frames[:4096] = random.bytes(4096)

        scribbler = threading.Thread(target=scribble)
        scribbler.start()
        try:
            for frame_id in range(1, 101):
                await small.write(frames_message(frame(frame_id, offset=int(frame_id) * 16)))
                if frame_id % 10 == 0:
                    await large.write(frames_message(frame(frame_id, offset=frame_id, size_bytes=921_600)))
                await bystander.is_served()
        finally:
            stop.set()
            scribbler.join()
        await small.finish()
        await large.finish()
        assert len(small.outcomes) == 100
        assert {status(outcome) for outcome in small.outcomes.values()} <= {"ON_TIME", "INVALID", "FAILED"}
        assert {status(outcome) for outcome in large.outcomes.values()} == {"ON_TIME"}


async def test_memory_that_is_freed_behind_the_server_reads_as_zeros(server: App, bystander: Bystander) -> None:
    async with LocalWire(server.local_path, model="large") as wire:
        wire.frames[:921_600] = b"\x07" * 921_600
        wire.frames.madvise(mmap.MADV_REMOVE)
        await wire.write(frames_message(frame(1, size_bytes=921_600)))
        outcome = await wire.outcome(1)
        assert outcome.outputs[0].data == bytes(921_600)
        await bystander.is_served()


async def test_a_client_that_frees_no_results(server: App, bystander: Bystander) -> None:
    """It reads its messages, but never says so: when its memory is full, it gets nothing more, and ends."""
    async with LocalWire(server.local_path, model="large") as wire:
        for frame_id in range(1, 13):
            await wire.write(frames_message(frame(frame_id, size_bytes=921_600)))
        reading = asyncio.ensure_future(wire.ended())
        wire.read = _telling_nothing(wire)  # type: ignore[method-assign]
        while not reading.done():
            await bystander.is_served()
        assert reading.result() == "CLIENT_TOO_SLOW"
        assert 0 < len(wire.outcomes) < 12


def _telling_nothing(wire: LocalWire) -> Any:
    read = wire.read
    return lambda: read(tell=False)


async def test_a_client_that_has_read_more_than_there_was(server: App, bystander: Bystander) -> None:
    async with LocalWire(server.local_path, model="large") as wire:
        os.eventfd_write(wire.fds[2], 1 << 62)
        for frame_id in range(1, 13):
            await wire.write(frames_message(frame(frame_id, size_bytes=921_600)))
        assert await wire.ended() == "MESSAGE_MALFORMED"
        await bystander.is_served()


async def test_a_client_whose_eventfd_would_wait(server: App, bystander: Bystander) -> None:
    """The flags of a descriptor are those of everybody who has it; the server must not wait for what a client says."""
    async with LocalWire(server.local_path, model="large") as wire:
        fcntl.fcntl(wire.fds[2], fcntl.F_SETFL, 0)
        area = OutcomeArea(mmap.PAGESIZE)  # and nothing is there to be read, as where the client was faster
        try:
            fcntl.fcntl(area.read_fd, fcntl.F_SETFL, 0)
            area.hear()
        finally:
            area.close()
        for frame_id in range(1, 13):
            await wire.write(frames_message(frame(frame_id, size_bytes=921_600)))
        for frame_id in range(1, 13):
            await bystander.is_served()
            assert status(await wire.outcome(frame_id)) == "ON_TIME"


async def test_a_client_that_sends_descriptors(server: App, bystander: Bystander) -> None:
    """Whoever receives them closes them, which may take long: where the system can refuse them, it does."""
    async with LocalWire(server.local_path, model="double") as wire:
        with socket.create_server(("127.0.0.1", 0)) as sent:
            try:
                wire.socket.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS)
            except OSError:  # a system that cannot refuse them
                socket.send_fds(wire.socket, [frames_message(wire.described(1))], [sent.fileno()])
                assert status(await wire.outcome(1)) == "ON_TIME"
            else:
                with pytest.raises(PermissionError):
                    socket.send_fds(wire.socket, [frames_message(wire.described(1))], [sent.fileno()])
        await bystander.is_served()
        assert status(await wire.ask(2)) == "ON_TIME"


async def test_connections_that_say_nothing_leave_room_for_others(server: App, bystander: Bystander) -> None:
    silent = []
    for _ in range(3 * OPENING_MAX):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        while connection.connect_ex(server.local_path):
            await asyncio.sleep(0)
        silent.append(connection)
    try:
        await bystander.is_served()
        async with LocalWire(server.local_path, model="double") as wire:
            assert status(await wire.ask(1)) == "ON_TIME"
        assert server._local is not None
        assert len(server._local._opening) <= OPENING_MAX
    finally:
        for connection in silent:
            connection.close()


async def test_where_all_connections_are_taken_clients_go_over_grpc(folder: Path) -> None:
    async with serving(folder / "models", local=str(folder / "full.sock")) as app:
        assert app._local is not None
        app._local._streams_max = 1  # as where descriptors are few
        async with LocalWire(app.local_path, model="double"):
            async with LocalWire(app.local_path, model="double") as wire:
                assert wire.end is not None
                assert (wire.end["reason"], wire.end["metadata"]) == ("STREAMS_EXHAUSTED", {"transport": "grpc"})
            async with Client(app.address) as client, client.stream("double", budget_ms=60_000) as stream:
                await stream.send(np.float32([1, 2, 3, 4]))
                assert (await anext(stream)).status is Status.ON_TIME


async def test_a_flood_of_frames_that_do_not_fit_waits_for_its_turn(server: App, bystander: Bystander) -> None:
    async with LocalWire(server.local_path, model="double") as wire:
        sent = 0
        loop = asyncio.get_running_loop()
        until_s = loop.time() + 1
        while loop.time() < until_s:
            with contextlib.suppress(BlockingIOError):
                wire.socket.send(frames_message(*[frame(sent + n, size_bytes=4) for n in range(1, 65)]))
                sent += 64
            await bystander.is_served()


MESSAGES = st.lists(
    st.one_of(
        st.binary(max_size=200),
        st.tuples(st.sampled_from(sorted(LIES)), st.integers(0, 300), st.integers(0, 255)),
        st.builds(
            frame,
            st.integers(1, 9),
            st.integers(0, U64),
            st.integers(0, 2**32 - 1),
            st.integers(0, 3),
            st.integers(0, 255),
            st.integers(0, 255),
            st.lists(st.integers(-(2**31), 2**31 - 1), min_size=8, max_size=8),
            st.integers(0, 3),
        ),
    ),
    max_size=6,
)


def _changed(lie: str, at: int, value: int) -> bytes:
    message = bytearray(LIES[lie])
    message[at % len(message)] = value
    return bytes(message)


async def test_messages_of_any_bytes(server: App, bystander: Bystander) -> None:
    """Whatever comes, the stream ends with a reason that is the client's fault, or all its frames have an outcome."""
    loop = asyncio.get_running_loop()
    tried = 0

    async def tell(messages: list[Any]) -> None:
        async with LocalWire(server.local_path, model="double") as wire:
            for message in messages:
                if isinstance(message, tuple):
                    message = _changed(*message)
                elif message[:1] not in (b"\x02", b"\x03", b"\x04"):
                    message = frames_message(message)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    await wire.write(message)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                await wire.write(bytes([layout.FINISH]))
            while await wire.read():
                pass
            assert wire.end is not None
            reason = str(wire.end["reason"])
            assert reason in ("", "MESSAGE_MALFORMED", "FRAME_ID_NOT_INCREASING", "STREAM_OPENED_TWICE", "INVALID_OPEN")
        await bystander.is_served()

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(MESSAGES)
    def each(messages: list[Any]) -> None:
        nonlocal tried
        tried += 1
        asyncio.run_coroutine_threadsafe(tell(messages), loop).result(60)

    await asyncio.to_thread(each)
    assert tried >= 100
