"""grpc.health.v1 says what is true at every moment, to everybody, whoever else watches."""

import asyncio
import os
import signal
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from duly.app import App
from duly.rpc.call_limits import WATCHERS_BESIDE_STREAMS
from tests.e2e.raw_http2 import ShutWindow
from tests.e2e.serving import serving

Answer = health_pb2.HealthCheckResponse
SERVING, NOT_SERVING, UNKNOWN = Answer.SERVING, Answer.NOT_SERVING, Answer.SERVICE_UNKNOWN
SERVER, INFERENCE = "duly.v1.ServerService", "duly.v1.InferenceService"
NAMES = ("", INFERENCE, "duly.v1.ModelService", SERVER, "double", "sum", "inference.GRPCInferenceService")


class Watch:
    def __init__(self, stub: health_pb2_grpc.HealthStub, service: str) -> None:
        self._call = stub.Watch(health_pb2.HealthCheckRequest(service=service))

    async def next(self) -> int:
        answer = await self._call.read()
        assert answer is not grpc.aio.EOF
        return int(answer.status)


async def check(stub: health_pb2_grpc.HealthStub, service: str) -> int:
    """The status, or UNKNOWN where the service is not found."""
    try:
        return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return int(UNKNOWN)


async def listed(stub: health_pb2_grpc.HealthStub) -> dict[str, int]:
    statuses = (await stub.List(health_pb2.HealthListRequest())).statuses
    return {name: answer.status for name, answer in statuses.items()}


async def kill_workers(app: App, name: str) -> None:
    for loaded in app.catalogue.versions(name):
        for worker in loaded.workers.values():
            os.kill(worker.pid, signal.SIGKILL)


async def test_whoever_watches_without_reading_holds_up_nobody(repository: Path) -> None:
    async with serving(repository) as app, grpc.aio.insecure_channel(app.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        stuck = await ShutWindow.connect(app.address)
        for service in ("", "", "double", "nothing"):
            request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
            await stuck.call(app.address, "/grpc.health.v1.Health/Watch", request)
        whole, double, later = Watch(stub, ""), Watch(stub, "double"), Watch(stub, "later")
        assert [await whole.next(), await double.next(), await later.next()] == [SERVING, SERVING, UNKNOWN]
        assert await listed(stub) == dict.fromkeys(NAMES, SERVING)
        await kill_workers(app, "double")
        assert await double.next() == NOT_SERVING
        assert await double.next() == SERVING, "another worker has come"
        await app.host.unload("double", "")
        assert await double.next() == UNKNOWN
        assert [await check(stub, name) for name in ("", INFERENCE, "double")] == [SERVING, SERVING, UNKNOWN]
        await app.host.unload("sum", "")
        assert await whole.next() == NOT_SERVING
        expected = {"": NOT_SERVING, INFERENCE: NOT_SERVING, "double": UNKNOWN, SERVER: SERVING}
        assert {name: await check(stub, name) for name in expected} == expected
        await app.host.load("double", "")
        assert await double.next() == NOT_SERVING, "it is being loaded"
        assert [await whole.next(), await double.next()] == [SERVING, SERVING]
        async with asyncio.timeout(20):
            await app.drain()
            assert [await whole.next(), await double.next()] == [NOT_SERVING, NOT_SERVING]
            await app.close()
        await stuck.close()


async def test_all_workers_dead_and_none_can_be_replaced(repository: Path) -> None:
    async with serving(repository) as app, grpc.aio.insecure_channel(app.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        whole, double, total = Watch(stub, ""), Watch(stub, "double"), Watch(stub, "sum")
        for watch in (whole, double, total):
            assert await watch.next() == SERVING
        os.rename(repository, repository.with_name("removed"))
        for child in psutil.Process(os.getpid()).children():
            if "duly.worker.main" in child.cmdline():
                child.kill()
        for watch in (double, total, whole):
            assert await watch.next() == NOT_SERVING
        assert await listed(stub) == dict.fromkeys(NAMES, NOT_SERVING) | {SERVER: SERVING, NAMES[2]: SERVING}


async def test_watchers_are_bounded_and_give_their_places_back(repository: Path) -> None:
    """The oldest ends for a new one."""
    async with serving(repository, streams_max=1) as app:
        async with grpc.aio.insecure_channel(app.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watches = []
            for _ in range(1 + WATCHERS_BESIDE_STREAMS):
                watches.append(Watch(stub, ""))
                assert await watches[-1].next() == SERVING
            assert await Watch(stub, "").next() == SERVING
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await watches[0].next()
            assert ended.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await check(stub, "") == SERVING
        async with grpc.aio.insecure_channel(app.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                try:
                    assert await Watch(stub, "").next() == SERVING
                    break
                except grpc.aio.AioRpcError as error:  # the server does not know yet that the others have gone
                    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise
