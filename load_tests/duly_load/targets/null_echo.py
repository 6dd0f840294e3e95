"""The floor: a server of `duly.v1` and of the KServe v2 protocol that runs no model.

It reads every frame, as a real server must, and answers it at once with 64 bytes. What a server takes beyond this is
its own; what this takes is gRPC's, protobuf's and Python's. Over KServe it has any model that it is asked for, and
does not say what those take: anything. Both the handler style and the event loop are those of
the server: `read()`/`write()` on grpc.aio under uvloop.

    python -m duly_load.targets.null_echo --listen unix:/tmp/echo.sock
"""

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any

import click
import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from duly.v1 import inference_pb2, inference_pb2_grpc
from duly_load.protocols import kserve_proto

MESSAGE_BYTES_MAX = 64 << 20
REPLY = bytes(64)
TERMS = inference_pb2.StreamOpened(version="1", frames_in_flight_max=256, message_bytes_max=MESSAGE_BYTES_MAX)
"""Without the number of frames in flight, clients would think that they may have none."""
STOP_GRACE_S = 1.0


class NullEcho(inference_pb2_grpc.InferenceServiceServicer):
    """Answers every frame ON_TIME with one output named `reply` of 64 bytes."""

    async def Stream(self, request_iterator: Any, context: Any) -> None:
        """Serves one stream until the client half-closes it."""
        while (message := await context.read()) is not grpc.aio.EOF:
            kind = message.WhichOneof("request")
            if kind == "frames":
                await context.write(_outcomes(message.frames))
            elif kind == "open":
                await context.write(inference_pb2.StreamResponse(opened=TERMS))
            elif kind == "clock_ping":
                await context.write(_pong(message.clock_ping))
            else:
                known = "open, frames and clock pings"
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"the null echo takes {known}, got {kind}")


def _pong(ping: inference_pb2.ClockPing) -> inference_pb2.StreamResponse:
    now_ns = time.time_ns()
    pong = inference_pb2.ClockPong(
        ping_id=ping.ping_id,
        client_send_unix_nano=ping.client_send_unix_nano,
        server_receive_unix_nano=now_ns,
        server_send_unix_nano=now_ns,
    )
    return inference_pb2.StreamResponse(clock_pong=pong)


def _outcomes(batch: inference_pb2.FrameBatch) -> inference_pb2.StreamResponse:
    response = inference_pb2.StreamResponse()
    for frame in batch.frames:
        outcome = response.outcomes.outcomes.add()
        outcome.frame_id = frame.frame_id
        outcome.status = inference_pb2.OUTCOME_STATUS_ON_TIME
        output = outcome.outputs.add()
        output.name = "reply"
        output.data = REPLY
    return response


def _kserve() -> grpc.GenericRpcHandler:
    """inference.GRPCInferenceService, of which it has what a client needs to send frames."""

    def asked(request: Any, answer: Callable[[Any], Any]) -> "grpc.RpcMethodHandler[Any, Any]":
        async def handle(message: Any, _: Any) -> Any:
            return answer(message)

        return grpc.unary_unary_rpc_method_handler(handle, request.FromString, lambda reply: reply.SerializeToString())

    return grpc.method_handlers_generic_handler(
        kserve_proto.SERVICE,
        {
            "ServerLive": asked(kserve_proto.ServerLiveRequest, lambda _: kserve_proto.ServerLiveResponse(live=True)),
            "ServerReady": asked(
                kserve_proto.ServerReadyRequest, lambda _: kserve_proto.ServerReadyResponse(ready=True)
            ),
            "ModelReady": asked(kserve_proto.ModelReadyRequest, lambda _: kserve_proto.ModelReadyResponse(ready=True)),
            "ModelMetadata": asked(kserve_proto.ModelMetadataRequest, _metadata),
            "ModelInfer": asked(kserve_proto.ModelInferRequest, _result),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
                _results,
                kserve_proto.ModelInferRequest.FromString,
                kserve_proto.ModelStreamInferResponse.SerializeToString,
            ),
        },
    )


def _metadata(request: Any) -> Any:
    return kserve_proto.ModelMetadataResponse(name=request.name, versions=["1"], platform="null")


def _result(request: Any) -> Any:
    result = kserve_proto.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    result.outputs.add(name="reply", datatype="UINT8", shape=(1, len(REPLY)))
    result.raw_output_contents.append(REPLY)
    return result


async def _results(_: Any, context: Any) -> None:
    """Serves one stream until the client half-closes it."""
    while (request := await context.read()) is not grpc.aio.EOF:
        await context.write(kserve_proto.ModelStreamInferResponse(infer_response=_result(request)))


async def start(listen: str) -> tuple[grpc.aio.Server, int]:
    """Starts the echo on `HOST:PORT` or `unix:PATH`. Returns the server and its port (1 for a UNIX socket).

    Raises OSError where the address can't be bound.
    """
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", MESSAGE_BYTES_MAX), ("grpc.so_reuseport", 0)],
    )
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(NullEcho(), server)
    server.add_generic_rpc_handlers((_kserve(),))
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise OSError(f"{listen}: cannot listen there ({error}); give HOST:PORT or unix:PATH") from error
    await server.start()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    return server, port


async def _serve(listen: str) -> None:
    server, _ = await start(listen)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    await server.stop(STOP_GRACE_S)


@click.command()
@click.option("--listen", required=True, help="HOST:PORT or unix:PATH")
def main(listen: str) -> None:
    """Serve duly.v1 and KServe v2 without a model, as the floor to measure servers against."""
    try:
        uvloop.run(_serve(listen))
    except OSError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
