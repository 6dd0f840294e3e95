"""Streams of duly.v1 that are open and send nothing, not even the pings with which duly's client follows the clock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from duly.v1 import inference_pb2, inference_pb2_grpc
from duly_client.proxy import channel_options


@asynccontextmanager
async def idle_streams(endpoint: str, model: str, streams: int) -> AsyncIterator[None]:
    """Holds so many streams open over one connection. Raises RuntimeError where the server does not let one in."""
    async with grpc.aio.insecure_channel(endpoint, channel_options(endpoint)) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        calls = [stub.Stream() for _ in range(streams)]
        for call in calls:
            await call.write(inference_pb2.StreamRequest(open=inference_pb2.OpenStream(model=model)))
            response = await call.read()
            if response is grpc.aio.EOF or not response.HasField("opened"):
                raise RuntimeError(f"a stream of {model} was not opened: {await call.details()}")
        yield
