"""A real gRPC server of duly.v1 whose every answer a test scripts.

It runs no model: a script is a coroutine that holds one open stream and does with it what the test needs. What clients
sent is kept for the test to look at.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from duly.v1 import inference_pb2, model_pb2, server_pb2, tensor_pb2

HOUR_NS = 3600 * 10**9


async def refuse(
    context: Any, code: grpc.StatusCode, message: str, reason: str, metadata: dict[str, str] | None = None
) -> None:
    """Ends the call as a duly server does: a status with google.rpc.ErrorInfo."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="duly", metadata=metadata or {}))
    status = status_pb2.Status(code=code.value[0], message=message, details=[detail])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    await context.abort(code, message)


class OpenedStream:
    """The server's end of one stream."""

    def __init__(self, server: "ScriptedServer", context: Any, request: inference_pb2.OpenStream) -> None:
        self.server = server
        self.context = context
        self.request = request
        self.number = len(server.opens)

    async def greet(self, **terms: Any) -> None:
        agreed: dict[str, Any] = {
            "stream_id": self.number,
            "version": "3",
            "inputs": [tensor_pb2.TensorSpec(name="x", datatype=tensor_pb2.DATA_TYPE_FP32, shape=[4])],
            "outputs": [tensor_pb2.TensorSpec(name="y", datatype=tensor_pb2.DATA_TYPE_FP32, shape=[4])],
            "default_budget_nano": self.request.default_budget_nano or 100_000_000,
            "frames_in_flight_max": 64,
            "message_bytes_max": 1 << 22,
        }
        opened = inference_pb2.StreamOpened(**agreed | terms)
        await self.context.write(inference_pb2.StreamResponse(opened=opened))

    async def requests(self) -> AsyncIterator[inference_pb2.StreamRequest]:
        """What the client sends, until it half-closes. Pings are answered on the way, by the server's clock."""
        while (request := await self.context.read()) is not grpc.aio.EOF:
            if request.WhichOneof("request") != "clock_ping":
                yield request
                continue
            self.server.pings.append(request.clock_ping)
            now_ns = self.server.now_ns()
            pong = inference_pb2.ClockPong(
                ping_id=request.clock_ping.ping_id,
                client_send_unix_nano=request.clock_ping.client_send_unix_nano,
                server_receive_unix_nano=now_ns,
                server_send_unix_nano=now_ns,
            )
            await self.context.write(inference_pb2.StreamResponse(clock_pong=pong))
            self.server.changed()

    async def frames(self) -> AsyncIterator[inference_pb2.Frame]:
        """The frames among the requests; cancels are kept by the server."""
        async for request in self.requests():
            if request.WhichOneof("request") == "cancel":
                self.server.cancelled.extend(request.cancel.frame_ids)
                self.server.changed()
            for frame in request.frames.frames:
                self.server.frames.append(frame)
                self.server.changed()
                yield frame

    async def answer(self, *outcomes: inference_pb2.Outcome) -> None:
        batch = inference_pb2.OutcomeBatch(outcomes=outcomes)
        await self.context.write(inference_pb2.StreamResponse(outcomes=batch))

    async def advise(self, **advice: Any) -> None:
        await self.context.write(inference_pb2.StreamResponse(advice=inference_pb2.StreamAdvice(**advice)))

    async def fail(self, code: grpc.StatusCode, message: str, reason: str) -> None:
        await refuse(self.context, code, message, reason)


def on_time(frame: inference_pb2.Frame) -> inference_pb2.Outcome:
    """The frame's tensors come back as outputs."""
    outputs = [tensor_pb2.Tensor(name="y", datatype=t.datatype, shape=t.shape, data=t.data) for t in frame.tensors]
    timing = inference_pb2.Timing(received_unix_nano=7, dispatched_nano=1, started_nano=2, finished_nano=3, sent_nano=4)
    return inference_pb2.Outcome(
        frame_id=frame.frame_id,
        status=inference_pb2.OUTCOME_STATUS_ON_TIME,
        outputs=outputs,
        timing=timing,
        version="3",
        variant="fp32",
        batch_size=2,
        slack_nano=5,
    )


async def echo(stream: OpenedStream) -> None:
    """Answers every frame at once."""
    await stream.greet()
    await echo_frames(stream)


async def echo_frames(stream: OpenedStream) -> None:
    async for frame in stream.frames():
        await stream.answer(on_time(frame))


Script = Callable[[OpenedStream], Awaitable[None]]


class ScriptedServer:
    """Runs `scripts` for the streams that open, one after the other; the last one for all further streams."""

    def __init__(self, *scripts: Script, clock_ahead_ns: int = 0) -> None:
        self.scripts = list(scripts) or [echo]
        self.now_ns = lambda: time.time_ns() + clock_ahead_ns
        """The server's wall clock."""
        self.opens: list[inference_pb2.OpenStream] = []
        self.frames: list[inference_pb2.Frame] = []
        self.pings: list[inference_pb2.ClockPing] = []
        self.cancelled: list[int] = []
        self.calls: list[Any] = []
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()

    async def until(self, happened: Callable[[], bool]) -> None:
        """Waits until something that clients sent makes it true."""
        while not happened():
            self._changed.clear()
            await self._changed.wait()

    async def stream(self, _: Any, context: Any) -> None:
        request = await context.read()
        assert request.WhichOneof("request") == "open"
        script = self.scripts[min(len(self.opens), len(self.scripts) - 1)]
        self.opens.append(request.open)
        self.changed()
        await script(OpenedStream(self, context, request.open))

    async def infer(self, request: inference_pb2.InferRequest, _: Any) -> inference_pb2.InferResponse:
        self.calls.append(request)
        return inference_pb2.InferResponse(outcome=on_time(request.frame))

    async def get_model(self, request: model_pb2.GetModelRequest, context: Any) -> model_pb2.GetModelResponse:
        if request.name != "echo":
            await refuse(context, grpc.StatusCode.NOT_FOUND, f"no model {request.name!r}", "MODEL_NOT_FOUND")
        return model_pb2.GetModelResponse(model=model_pb2.Model(name="echo", active_version="3"))

    def kept(self, response: Any) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(request: Any, _: Any) -> Any:
            self.calls.append(request)
            return response

        return answer


@asynccontextmanager
async def serving(server: ScriptedServer, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """The target under which `server` listens."""
    grpc_server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    inference, model, info = inference_pb2, model_pb2, server_pb2
    echoed = model_pb2.Model(name="echo", active_version="3")

    def unary(handler: Any, request: Any, response: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(handler, request.FromString, response.SerializeToString)

    stream = grpc.stream_stream_rpc_method_handler(
        server.stream, inference.StreamRequest.FromString, inference.StreamResponse.SerializeToString
    )
    kept = server.kept
    services: dict[str, dict[str, Any]] = {
        "InferenceService": {
            "Stream": stream,
            "Infer": unary(server.infer, inference.InferRequest, inference.InferResponse),
        },
        "ModelService": {
            "ListModels": unary(
                kept(model.ListModelsResponse(models=[echoed])), model.ListModelsRequest, model.ListModelsResponse
            ),
            "GetModel": unary(server.get_model, model.GetModelRequest, model.GetModelResponse),
            "LoadModel": unary(
                kept(model.LoadModelResponse(model=echoed)), model.LoadModelRequest, model.LoadModelResponse
            ),
            "UnloadModel": unary(
                kept(model.UnloadModelResponse()), model.UnloadModelRequest, model.UnloadModelResponse
            ),
            "ActivateVersion": unary(
                kept(model.ActivateVersionResponse(model=echoed)),
                model.ActivateVersionRequest,
                model.ActivateVersionResponse,
            ),
        },
        "ServerService": {
            "GetServerInfo": unary(
                kept(info.GetServerInfoResponse(server_version="9")),
                info.GetServerInfoRequest,
                info.GetServerInfoResponse,
            ),
            "GetStatistics": unary(
                kept(info.GetStatisticsResponse(statistics=info.Statistics(streams_open=5))),
                info.GetStatisticsRequest,
                info.GetStatisticsResponse,
            ),
            "Drain": unary(kept(info.DrainResponse()), info.DrainRequest, info.DrainResponse),
        },
    }
    grpc_server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(f"duly.v1.{name}", methods) for name, methods in services.items())
    )
    port = grpc_server.add_insecure_port(address)
    await grpc_server.start()
    try:
        yield address.replace(":0", f":{port}")
    finally:
        await grpc_server.stop(0)
