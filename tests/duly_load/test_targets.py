"""Targets by name: what is refused before anything starts, and when one counts as warm and idle."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from duly.v1 import inference_pb2, inference_pb2_grpc
from duly_load.payloads.served_inputs import inputs_of
from duly_load.protocols.address import Address
from duly_load.protocols.connection import TargetError
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.scenario import Scenario, parse_scenario
from duly_load.targets import null_echo
from duly_load.targets import opened as targets
from duly_load.targets.opened import OpenTarget, TargetNameError, check_names, opened, settle
from duly_load.targets.peer import PeerError


def scenario(**changes: Any) -> Scenario:
    stream = {"name": "s", "model": "m", "budget_ms": 5000, "arrivals": {"kind": "periodic", "rate_hz": 50}}
    served = {"model": [{"name": "m", "dense": {"width": 4}}]} | changes.pop("serve", {})
    content = {"name": "small", "duration_s": 1, "serve": served, "stream": [stream]}
    return parse_scenario(content | changes, "small", Path())


# ---- names ----


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (
            "nginx",
            "'nginx': should be duly, duly-kserve, floor, floor-kserve, triton, triton-timeouts or mlserver, or an "
            "address",
        ),
        ("triton?timeout=budget", "options are for addresses; should be one of the peers duly, duly-kserve, floor"),
        ("duly://nowhere", "should be HOST:PORT after ://"),
    ],
)
def test_a_wrong_name_is_told_with_those_that_are_right(name: str, why: str) -> None:
    with pytest.raises(TargetNameError) as caught:
        check_names([name], scenario())
    assert why in str(caught.value)


def test_a_peer_needs_the_scenarios_models_and_faults_need_a_duly_of_ours() -> None:
    with pytest.raises(ScenarioError, match=r"small: serve\.model: is required, or floor does not know what to serve"):
        check_names(["floor"], scenario(serve={"model": []}))
    faulty = scenario(serve={"fault": [{"lane": "cpu:0", "kind": "die", "at_s": 0.5}]})
    check_names(["duly"], faulty)
    for name in ("floor", "unix:/run/duly.sock"):
        with pytest.raises(ScenarioError, match=f"fault: is for a duly that duly-load starts itself, {name} is none"):
            check_names([name], faulty)


def test_a_peer_that_is_not_installed_is_told_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DULY_CACHE_DIR", str(tmp_path))
    with (
        pytest.raises(PeerError, match="duly-load peers install triton"),
        opened(["triton"], scenario(), tmp_path, lambda text: None),
    ):
        pass


def test_targets_that_say_nothing_get_what_the_scenarios_models_take() -> None:
    models = [{"name": "a", "graph": "squeezenet"}, {"name": "b", "dense": {"width": 7}}, {"name": "c", "folder": "x"}]
    stream = {"name": "s", "model": "a", "budget_ms": 5, "arrivals": {"kind": "periodic", "rate_hz": 50}}
    loaded = scenario(serve={"model": models}, stream=[stream])
    assert [[spec.shape for spec in inputs_of(loaded, name)] for name in ("a", "b", "c", "d")] == [
        [(3, 224, 224)],
        [(7,)],
        [],
        [],
    ]


# ---- settling ----


class Answering(inference_pb2_grpc.InferenceServiceServicer):
    """Answers frames with these words, the last of them again and again; none: never."""

    def __init__(self, *words: str) -> None:
        self.words = list(words)
        self.frames = 0

    async def Stream(self, request_iterator: Any, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            kind = message.WhichOneof("request")
            response = inference_pb2.StreamResponse()
            if kind == "open":
                response.opened.version = "1"
            elif kind == "clock_ping":
                response.clock_pong.ping_id = message.clock_ping.ping_id
                response.clock_pong.client_send_unix_nano = message.clock_ping.client_send_unix_nano
                response.clock_pong.server_receive_unix_nano = response.clock_pong.server_send_unix_nano = (
                    time.time_ns()
                )
            else:
                self.frames += 1
                if not self.words:
                    continue
                word = self.words.pop(0) if len(self.words) > 1 else self.words[0]
                outcome = response.outcomes.outcomes.add(frame_id=message.frames.frames[0].frame_id)
                outcome.status = inference_pb2.OutcomeStatus.Value(f"OUTCOME_STATUS_{word}")
                outcome.timing.received_unix_nano = time.time_ns()
            await context.write(response)


@asynccontextmanager
async def serving(answering: Answering) -> AsyncIterator[OpenTarget]:
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(answering, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield OpenTarget("it", Address("duly", f"127.0.0.1:{port}"), None, "")
    finally:
        await server.stop(None)


async def test_results_in_the_usual_time_are_what_settles_a_target() -> None:
    answering = Answering("FAILED", "SHED", "EXPIRED", "ON_TIME")
    async with serving(answering) as target:
        await asyncio.to_thread(settle, target, scenario(), 0)
    assert answering.frames >= 6, "the first three settled nothing"


async def test_a_target_that_answers_without_results_is_an_error_and_no_figure() -> None:
    async with serving(Answering("INVALID")) as target:
        with pytest.raises(TargetError, match="it: m answers single frames INVALID, not with a result"):
            await asyncio.to_thread(settle, target, scenario(), 0)


async def test_a_target_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "ANSWER_S", 0.05)
    async with serving(Answering()) as target:
        with pytest.raises(TargetError, match=r"it: m did not answer a single frame within 0\.05 s"):
            await asyncio.to_thread(settle, target, scenario(), 0)


async def test_the_floor_settles_over_either_protocol() -> None:
    server, port = await null_echo.start("127.0.0.1:0")
    try:
        for protocol in ("duly", "kserve"):
            address = Address("duly" if protocol == "duly" else "kserve", f"127.0.0.1:{port}")
            await asyncio.to_thread(settle, OpenTarget(protocol, address, None, ""), scenario(), 0)
    finally:
        await server.stop(None)
