"""A client that speaks the protocol by hand, so that tests can also send what no well-behaved client would."""

from types import TracebackType
from typing import Any

import grpc
import numpy as np

from duly.v1 import inference_pb2 as pb
from duly.v1 import inference_pb2_grpc, tensor_pb2

Status = pb.OutcomeStatus
ON_TIME, LATE, EXPIRED, SUPERSEDED, SHED, SKIPPED, INVALID, CANCELLED, FAILED = range(1, 10)


def tensor(values: Any, name: str = "x") -> tensor_pb2.Tensor:
    array = np.asarray(values, dtype=np.float32)
    return tensor_pb2.Tensor(name=name, datatype=tensor_pb2.DATA_TYPE_FP32, shape=array.shape, data=array.tobytes())


def frame(frame_id: int, values: Any = (1, 2, 3, 4), **fields: Any) -> pb.Frame:
    return pb.Frame(frame_id=frame_id, **({"tensors": [tensor(values)]} | fields))


def array(outcome: pb.Outcome, nth: int = 0) -> np.ndarray:
    output = outcome.outputs[nth]
    return np.frombuffer(output.data, dtype=np.float32).reshape(output.shape)


class Wire:
    """One stream, used as `async with Wire(channel, model="double") as wire`."""

    def __init__(self, channel: grpc.aio.Channel, *, opened: bool = True, **open_: Any) -> None:
        self._call = inference_pb2_grpc.InferenceServiceStub(channel).Stream()
        self._open = pb.OpenStream(
            **({"backlog_policy": pb.BACKLOG_POLICY_ALL, "default_budget_nano": 5 * 10**9} | open_)
        )
        self._opened = opened
        self.outcomes: dict[int, pb.Outcome] = {}
        self.order: list[int] = []
        self.pongs: list[pb.ClockPong] = []
        self.advice: list[pb.StreamAdvice] = []

    async def __aenter__(self) -> "Wire":
        if self._opened:
            await self.write(pb.StreamRequest(open=self._open))
            response = await self._call.read()
            if response is grpc.aio.EOF:
                await self.error()
            self.terms = response.opened
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()

    async def write(self, request: pb.StreamRequest) -> None:
        await self._call.write(request)

    async def send(self, *frames: pb.Frame) -> None:
        await self.write(pb.StreamRequest(frames=pb.FrameBatch(frames=frames)))

    async def read(self) -> bool:
        """Reads one message. Returns False where the stream has ended."""
        response = await self._call.read()
        if response is grpc.aio.EOF:
            return False
        match response.WhichOneof("response"):
            case "outcomes":
                for outcome in response.outcomes.outcomes:
                    assert outcome.frame_id not in self.outcomes, f"frame {outcome.frame_id} was answered twice"
                    self.outcomes[outcome.frame_id] = outcome
                    self.order.append(outcome.frame_id)
            case "clock_pong":
                self.pongs.append(response.clock_pong)
            case "advice":
                self.advice.append(response.advice)
        return True

    async def outcome(self, frame_id: int) -> pb.Outcome:
        while frame_id not in self.outcomes:
            assert await self.read(), f"the stream ended before frame {frame_id} was answered"
        return self.outcomes[frame_id]

    async def ask(self, asked: pb.Frame) -> pb.Outcome:
        await self.send(asked)
        return await self.outcome(asked.frame_id)

    async def finish(self) -> None:
        """Half-closes the stream and reads all messages that still come."""
        await self._call.done_writing()
        while await self.read():
            pass

    async def error(self) -> grpc.aio.AioRpcError:
        """Reads up to the error that ends the stream, and returns it."""
        try:
            while await self.read():
                pass
        except grpc.aio.AioRpcError as error:
            return error
        code, details = await self._call.code(), await self._call.details()
        metadata = await self._call.trailing_metadata()
        assert code is not grpc.StatusCode.OK, "the stream ended well"
        return grpc.aio.AioRpcError(code, await self._call.initial_metadata(), metadata, details)

    def cancel(self) -> None:
        self._call.cancel()


def reason(error: grpc.aio.AioRpcError) -> str:
    """The reason in the ErrorInfo of that error; empty where it has none."""
    from google.rpc import error_details_pb2, status_pb2

    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            info = error_details_pb2.ErrorInfo()
            status_pb2.Status.FromString(value).details[0].Unpack(info)
            return info.reason
    return ""
