"""A server on a machine that tells what energy it takes: by Prometheus and over the wire, from its start on."""

import asyncio
import urllib.request
from pathlib import Path

import grpc
import pytest

from duly.energy import watch
from duly.energy.rapl import Rapl
from duly.runtime import samplers
from duly.v1 import server_pb2, server_pb2_grpc
from tests.e2e.serving import serving
from tests.e2e.waiting import until
from tests.energy.powercap import server_of_two_sockets


async def test_joules_are_told_over_the_wire_and_to_prometheus(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    powercap = server_of_two_sockets(tmp_path / "machine")
    monkeypatch.setattr(samplers, "sources", lambda library: [Rapl(powercap.classes)])
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.01)
    async with (
        serving(repository, metrics="127.0.0.1:0") as app,
        grpc.aio.insecure_channel(app.address) as channel,
    ):
        stub = server_pb2_grpc.ServerServiceStub(channel)

        async def told() -> dict[str, float]:
            statistics = (await stub.GetStatistics(server_pb2.GetStatisticsRequest())).statistics
            return {each.device: each.joules for each in statistics.energy}

        devices = {"package-0", "package-1", "dram-0", "dram-1", "psys"}

        async def begun() -> bool:
            return await told() == dict.fromkeys(devices, 0.0)

        async def counted() -> bool:
            return (await told())["package-1"] == 1.5

        await until(begun, "the counters were read once")
        powercap.count("intel-rapl:1", 2_000_000 + 1_500_000)
        await until(counted, "1.5 J more were read")
        with await asyncio.to_thread(urllib.request.urlopen, f"http://{app.metrics_address}/metrics") as answer:
            text = answer.read().decode()
    assert 'duly_energy_joules_total{device="package-1"} 1.5' in text
    assert 'duly_energy_joules_total{device="dram-0"} 0.0' in text
