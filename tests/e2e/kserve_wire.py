"""A client of KServe's protocol that speaks it by hand, so that tests can also send what no well-behaved one would."""

import asyncio
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import grpc

from duly.rpc.kserve import messages as ks

SERVICE = "/inference.GRPCInferenceService"
Value = int | bool | str | float | None
"""A parameter: an int is an int64, and None a parameter without a value."""


def put(parameters: object, **values: Value) -> None:
    """Sets parameters of a request, an input or an output."""
    for name, value in values.items():
        parameter = parameters[name]  # type: ignore[index]
        match value:
            case bool():
                parameter.bool_param = value
            case int():
                parameter.int64_param = value
            case str():
                parameter.string_param = value
            case float():
                parameter.double_param = value


def request(
    model: str, rows: Sequence[Sequence[float]], request_id: str = "r1", **parameters: Value
) -> ks.ModelInferRequest:
    asked = ks.ModelInferRequest(model_name=model, id=request_id)
    asked.inputs.add(name="x", datatype="FP32", shape=[len(rows), len(rows[0])])
    asked.raw_input_contents.append(b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows))
    put(asked.parameters, **parameters)
    return asked


def numbers(reply: ks.ModelInferResponse, nth: int = 0) -> list[float]:
    """Returns the elements of an output of FP32."""
    raw = reply.raw_output_contents[nth]
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def _as_is(message: bytes | ks.ModelInferRequest) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


def infer(
    channel: grpc.aio.Channel, asked: bytes | ks.ModelInferRequest, **options: Any
) -> "grpc.aio.UnaryUnaryCall[object, ks.ModelInferResponse]":
    """Begins a call of ModelInfer, which is awaited for its reply."""
    return channel.unary_unary(f"{SERVICE}/ModelInfer", _as_is, ks.ModelInferResponse.FromString)(asked, **options)


async def refused(call: object) -> grpc.aio.AioRpcError:
    """Returns the error with which a call ends."""
    try:
        reply = await call  # type: ignore[misc]
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"the call was answered: {str(reply)[:200]}")


class StreamWire:
    """One call of ModelStreamInfer, used as `async with StreamWire(channel) as wire`."""

    def __init__(self, channel: grpc.aio.Channel, **options: Any) -> None:
        self.call = channel.stream_stream(
            f"{SERVICE}/ModelStreamInfer", _as_is, ks.ModelStreamInferResponse.FromString
        )(**options)
        self.replies: dict[str, list[ks.ModelStreamInferResponse]] = {}
        """Those that came, by the id of their request."""

    async def __aenter__(self) -> "StreamWire":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call.cancel()

    async def send(self, *asked: bytes | ks.ModelInferRequest) -> None:
        for each in asked:
            await self.call.write(each)

    async def read(self) -> bool:
        """Reads a reply. Returns False where the call has ended."""
        try:
            reply = await self.call.read()
        except grpc.aio.AioRpcError:
            return False
        if reply is grpc.aio.EOF:
            return False
        self.replies.setdefault(reply.infer_response.id, []).append(reply)
        return True

    async def reply(self, request_id: str) -> ks.ModelStreamInferResponse:
        """Returns the one reply to a request."""
        while request_id not in self.replies:
            assert await self.read(), f"the call ended without a reply to {request_id}: {await self.status()}"
        (reply,) = self.replies[request_id]
        return reply

    async def read_until(self, request_id: str) -> None:
        """Reads until a request has a reply, or the call has ended."""
        while request_id not in self.replies and await self.read():
            pass

    async def finish(self) -> None:
        """Sends no more, and reads until the call ends."""
        await self.call.done_writing()
        while await self.read():
            pass

    async def status(self) -> tuple[grpc.StatusCode, str]:
        """Waits for the end of the call. Returns its status and what that says."""
        return await self.call.code(), await self.call.details()


async def until(holds: object) -> None:
    """Lets the loop run until something holds, which a server in the same loop brings about."""
    async with asyncio.timeout(20):
        while not holds():  # type: ignore[operator]
            await asyncio.sleep(0.001)
