"""A client that speaks the local transport by hand, so that tests can also do what no well-behaved client would."""

import asyncio
import json
import mmap
import os
import socket
from types import TracebackType
from typing import Any

import numpy as np

from duly.rpc.local import layout
from duly.v1 import inference_pb2 as pb
from duly.v1 import tensor_pb2
from duly_client import local_wire
from tests.e2e.wire import Status


class LocalWire:
    """One stream, used as `async with LocalWire(path, model="double") as wire`."""

    def __init__(self, path: str, *, opened: bool = True, memory_bytes: int = 0, token: str = "", **open_: Any) -> None:
        self.path = path
        self._opened = opened
        self._memory_bytes = memory_bytes
        self._token = token
        self._open = pb.OpenStream(
            **({"backlog_policy": pb.BACKLOG_POLICY_ALL, "default_budget_nano": 5 * 10**9} | open_)
        )
        self.outcomes: dict[int, local_wire.LocalOutcome] = {}
        self.order: list[int] = []
        self.responses: list[pb.StreamResponse] = []
        self.messages = 0
        self.end: dict[str, Any] | None = None
        self.fds: list[int] = []
        self.next_offset = 0

    async def __aenter__(self) -> "LocalWire":
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setblocking(False)
        self.socket.connect(self.path)
        if self._opened:
            await self.write(self.open_message())
            await self.greeting()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()
        if self.fds:
            self.frames.close()
            self.area.release()
        while self.fds:
            os.close(self.fds.pop())

    def open_message(self, version: int = layout.VERSION) -> bytes:
        shown = self._token.encode()
        head = layout.OPEN_HEAD.pack(layout.OPEN, version, len(shown), 0, self._memory_bytes)
        return head + shown + self._open.SerializeToString()

    async def write(self, message: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, message)

    async def greeting(self) -> None:
        """Takes the first message of the server, which is OPENED or END."""
        await self._readable()
        try:
            message, self.fds, _, _ = socket.recv_fds(self.socket, layout.MESSAGE_BYTES_MAX, 3)
        except ConnectionResetError:  # what came before can still be read
            message, self.fds, _, _ = socket.recv_fds(self.socket, layout.MESSAGE_BYTES_MAX, 3)
        if not message or message[0] == layout.END:
            self.end = json.loads(message[1:]) if message else {}
            return
        kind, _, greeting_bytes, self.frame_bytes, self.outcome_bytes = layout.OPENED_HEAD.unpack(message)
        assert kind == layout.OPENED
        self.frames = mmap.mmap(self.fds[0], self.frame_bytes)
        self.area = memoryview(mmap.mmap(self.fds[1], self.outcome_bytes, access=mmap.ACCESS_READ))
        self.terms = pb.StreamOpened.FromString(bytes(self.area[layout.HEAD_BYTES :][:greeting_bytes]))
        self.reader = local_wire.OutcomeReader(self.area, self.terms)
        self.told = 0

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        there = loop.create_future()
        loop.add_reader(self.socket.fileno(), lambda: None if there.done() else there.set_result(None))
        try:
            await there
        finally:
            loop.remove_reader(self.socket.fileno())

    # ---- frames ----

    def put(self, data: bytes) -> int:
        """Writes data into the memory for frames, one after the other, and returns its offset."""
        size = -(-len(data) // 64) * 64
        offset = self.next_offset if self.next_offset + size <= self.frame_bytes else 0
        self.next_offset = offset + size
        self.frames[offset : offset + len(data)] = data
        return offset

    def described(
        self, frame_id: int, values: Any = (1, 2, 3, 4), *, captured_ns: int = 0, budget_ns: int = 0, flags: int = 0
    ) -> bytes:
        """Puts the values of the one input into memory and returns what to say of the frame."""
        data = np.asarray(values, np.float32).tobytes()
        tensor = layout.TENSOR.pack(self.put(data), len(data), 0, 0, 0, *[0] * layout.EXTENTS)
        return layout.FRAME.pack(frame_id, captured_ns, budget_ns, flags, 1, 0) + tensor

    async def send(self, *described: bytes) -> None:
        await self.write(frames_message(*described))

    async def ask(self, frame_id: int, values: Any = (1, 2, 3, 4), **fields: Any) -> local_wire.LocalOutcome:
        await self.send(self.described(frame_id, values, **fields))
        return await self.outcome(frame_id)

    async def cancel(self, *frame_ids: int) -> None:
        request = pb.StreamRequest(cancel=pb.CancelFrames(frame_ids=frame_ids))
        await self.write(bytes([layout.REQUEST]) + request.SerializeToString())

    # ---- outcomes ----

    async def read(self, *, tell: bool = True) -> bool:
        """Reads one message. Returns False where the stream has ended."""
        while True:
            try:
                message = self.socket.recv(layout.MESSAGE_BYTES_MAX)
                break
            except BlockingIOError:
                await self._readable()
            except ConnectionResetError:
                continue
        if not message:
            return False
        self.messages += 1
        match message[0]:
            case layout.OUTCOMES:
                for outcome in self.reader.outcomes(message):
                    assert outcome.frame_id not in self.outcomes, f"frame {outcome.frame_id} was answered twice"
                    self.outcomes[outcome.frame_id] = outcome
                    self.order.append(outcome.frame_id)
            case layout.PART:
                self.reader.part(message)
            case layout.RESPONSE:
                self.responses.append(pb.StreamResponse.FromString(message[1:]))
            case layout.OUTPUTS:
                self.reader.name_outputs(pb.StreamOpened.FromString(message[1:]))
            case layout.END:
                self.end = json.loads(message[1:])
                return False
            case kind:
                raise AssertionError(f"a message of kind {kind}")
        if tell and self.reader.position > self.told:
            os.eventfd_write(self.fds[2], self.reader.position - self.told)
            self.told = self.reader.position
        return True

    async def outcome(self, frame_id: int) -> local_wire.LocalOutcome:
        while frame_id not in self.outcomes:
            assert await self.read(), f"the stream ended before frame {frame_id} was answered: {self.end}"
        return self.outcomes[frame_id]

    async def finish(self) -> None:
        """Half-closes the stream and reads all messages that still come."""
        await self.write(bytes([layout.FINISH]))
        while await self.read():
            pass

    async def ended(self) -> str:
        """Reads up to the end of the stream, and returns its reason."""
        while await self.read():
            pass
        assert self.end is not None, "the connection was closed without an END"
        return str(self.end["reason"])


def frames_message(*described: bytes, count: int | None = None) -> bytes:
    return layout.FRAMES_HEAD.pack(layout.FRAMES, len(described) if count is None else count, 0) + b"".join(described)


def array(outcome: local_wire.LocalOutcome, nth: int = 0) -> np.ndarray:
    output = outcome.outputs[nth]
    assert output.datatype == tensor_pb2.DATA_TYPE_FP32
    return np.frombuffer(output.data, dtype=np.float32).reshape(output.shape)


def status(outcome: local_wire.LocalOutcome) -> str:
    return str(Status.Name(outcome.status)).removeprefix("OUTCOME_STATUS_")  # type: ignore[arg-type]
