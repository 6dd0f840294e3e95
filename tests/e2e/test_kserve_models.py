"""KServe's protocol says what the server and its models are, what became of requests, and loads and unloads models."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from duly.rpc.kserve import messages as ks
from duly.rpc.kserve.front_end import FrontEnd
from duly.rpc.kserve.models_service import KServeModels
from duly_client import Client
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.test_kserve import infer, request, stream_all

pytestmark = pytest.mark.asyncio(loop_scope="module")
SERVICE = "/inference.GRPCInferenceService"
FRAME = np.ones(4, np.float32)


async def ask(channel: grpc.aio.Channel, rpc: str, **fields: Any) -> Any:
    asked, answer = getattr(ks, f"{rpc}Request"), getattr(ks, f"{rpc}Response")
    return await channel.unary_unary(f"{SERVICE}/{rpc}", asked.SerializeToString, answer.FromString)(asked(**fields))


async def refusal(channel: grpc.aio.Channel, rpc: str, **fields: Any) -> str:
    """The code and the text with which the call ends."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(channel, rpc, **fields)
    return f"{refused.value.code().name} {refused.value.details()}"


async def index(channel: grpc.aio.Channel, **fields: Any) -> list[tuple[str, str, str, str]]:
    models = (await ask(channel, "RepositoryIndex", **fields)).models
    return [(each.name, each.version, each.state, each.reason) for each in models]


# ---- the server and its models ----


async def test_the_server_says_who_it_is(shared_channel: grpc.aio.Channel) -> None:
    assert (await ask(shared_channel, "ServerLive")).live
    assert (await ask(shared_channel, "ServerReady")).ready
    said = await ask(shared_channel, "ServerMetadata")
    assert said.name == "duly"
    assert said.version
    assert {"statistics", "model_configuration", "model_repository", "sequence", "classification"} <= set(
        said.extensions
    )
    assert not {"system_shared_memory", "cuda_shared_memory", "trace"} & set(said.extensions)


async def test_a_model_is_ready_or_not_and_a_version_is_a_number(shared_channel: grpc.aio.Channel) -> None:
    for name, version, ready in (
        ("double", "", True),
        ("double", "1", True),
        ("double", "2", False),
        ("nobody", "", False),
        ("", "", False),
    ):
        assert (await ask(shared_channel, "ModelReady", name=name, version=version)).ready is ready, (name, version)
    named = [("ModelInfer", {"model_name": "double"}, "model_version")]
    named += [
        (rpc, {"name": "double"}, "version")
        for rpc in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")
    ]
    for rpc, fields, field in named:
        for version in ("newest", "-1", "1.0", "٣", "9" * 19):
            told = await refusal(shared_channel, rpc, **fields, **{field: version})
            assert told.startswith("INVALID_ARGUMENT"), rpc
            assert "version: should be a number such as '1', or empty for the active one, got " in told


async def test_metadata_and_configuration_agree(shared_channel: grpc.aio.Channel) -> None:
    for name, width in (("double", 4), ("sum", 2)):
        said = await ask(shared_channel, "ModelMetadata", name=name)
        assert (said.name, list(said.versions), said.platform) == (name, ["1"], "onnxruntime_onnx")
        config = (await ask(shared_channel, "ModelConfig", name=name)).config
        assert (config.name, config.platform, config.backend) == (name, "onnxruntime_onnx", "onnxruntime")
        assert config.max_batch_size == 8
        for tensors, described in ((said.inputs, config.input), (said.outputs, config.output)):
            (tensor,), (entry,) = tensors, described
            assert (tensor.datatype, list(tensor.shape)) == ("FP32", [-1, width])
            assert (entry.name, entry.data_type, list(entry.dims)) == (tensor.name, ks.TYPE_FP32, [width])
        assert list(config.version_policy.specific.versions) == [1]
        (group,) = config.instance_group
        assert (group.name, group.count, group.kind) == (f"{name}_0", 1, ks.ModelInstanceGroup.KIND_CPU)
        assert config.HasField("model_transaction_policy")
        assert not config.model_transaction_policy.decoupled
        assert config.default_model_filename == "model.onnx"


async def test_the_configuration_says_how_requests_wait_and_share_batches(shared_channel: grpc.aio.Channel) -> None:
    double = (await ask(shared_channel, "ModelConfig", name="double")).config
    assert double.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert list(double.dynamic_batching.preferred_batch_size) == [1, 2, 4, 8]
    assert (double.dynamic_batching.priority_levels, double.dynamic_batching.default_priority_level) == (3, 2)
    policy = double.dynamic_batching.default_queue_policy
    assert policy.timeout_action == ks.ModelQueuePolicy.REJECT
    assert policy.allow_timeout_override
    assert policy.default_timeout_microseconds == 10_000_000
    total = (await ask(shared_channel, "ModelConfig", name="sum")).config
    assert total.WhichOneof("scheduling_choice") == "sequence_batching"
    (state,) = total.sequence_batching.state
    assert (state.input_name, state.output_name) == ("total", "total_next")
    assert (state.data_type, list(state.dims)) == (ks.TYPE_FP32, [2])
    assert [each.name for each in total.input] == ["x"], "its state is not its clients' affair"


async def test_a_model_without_batches_and_with_a_budget_of_its_own(tmp_path: Path) -> None:
    toml = "batched = false\ndefault_budget_ms = 40\ndefault_class = 'BEST_EFFORT'\n"
    graphs.save(tmp_path, "whole", graphs.doubling((2, 2)), toml=toml)
    toml = "batch_sizes = [1, 2]\ndefault_budget_ms = 40\ndefault_class = 'BEST_EFFORT'\n"
    graphs.save(tmp_path, "pairs", graphs.scaling(), toml=toml)
    async with serving(tmp_path) as app, grpc.aio.insecure_channel(app.address) as channel:
        whole = await ask(channel, "ModelMetadata", name="whole")
        assert list(whole.inputs[0].shape) == [2, 2]
        config = (await ask(channel, "ModelConfig", name="whole")).config
        assert (config.max_batch_size, list(config.input[0].dims)) == (0, [2, 2])
        assert config.WhichOneof("scheduling_choice") is None
        pairs = (await ask(channel, "ModelConfig", name="pairs")).config
        assert pairs.max_batch_size == 2
        assert pairs.dynamic_batching.default_priority_level == 3
        assert pairs.dynamic_batching.default_queue_policy.default_timeout_microseconds == 40_000


async def test_who_is_not_there_is_named_with_who_is(shared_channel: grpc.aio.Channel) -> None:
    for rpc in ("ModelMetadata", "ModelConfig"):
        there = "there is no model 'nobody'; there are: double, sum"
        assert await refusal(shared_channel, rpc, name="nobody") == f"NOT_FOUND {there}"
        assert (await refusal(shared_channel, rpc, name="double", version="9")).startswith(
            "NOT_FOUND model 'double' has no version '9' loaded"
        )
        assert (await refusal(shared_channel, rpc)).startswith("INVALID_ARGUMENT name: ")
    # Here alone Triton has this code.
    assert await refusal(shared_channel, "ModelStatistics", name="nobody") == f"INVALID_ARGUMENT {there}"


# ---- statistics ----


async def statistics(channel: grpc.aio.Channel, name: str) -> Any:
    (said,) = (await ask(channel, "ModelStatistics", name=name)).model_stats
    return said


async def test_statistics_rise_with_every_request_whatever_protocol_it_came_by(repository: Path) -> None:
    async with serving(repository) as server, grpc.aio.insecure_channel(server.address) as channel:
        told = await ask(channel, "ModelStatistics")
        assert [(each.name, each.version) for each in told.model_stats] == [("double", "1"), ("sum", "1")]
        double = await statistics(channel, "double")
        assert double.last_inference == 0
        for kind in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit"):
            assert double.inference_stats.HasField(kind), kind
            assert getattr(double.inference_stats, kind).count == 0
        counted = 0

        async def has_risen_by(results: int) -> None:
            nonlocal counted
            counted += results
            assert (await statistics(channel, "double")).inference_count == counted

        await infer(channel, request("double", [[1] * 4]))
        await has_risen_by(1)
        await infer(channel, request("double", [[1] * 4] * 3))
        await has_risen_by(3)
        await stream_all(channel, [request("double", [[1] * 4]), request("double", [[1] * 4] * 2)])
        await has_risen_by(3)
        async with Client(server.address) as client, client.stream("double", budget_ms=5000) as stream:
            await stream.send(FRAME)
            await anext(stream)
            await has_risen_by(1)
            await client.infer("double", FRAME)
            await has_risen_by(1)
        double = await statistics(channel, "double")
        stats = double.inference_stats
        parts = (stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output)
        assert [each.count for each in (stats.success, *parts)] == [9] * 5
        assert sum(part.ns for part in parts) == stats.success.ns
        assert all(part.ns > 0 for part in parts)
        assert abs(double.last_inference - server.streams.host.wall.now_ns() // 1_000_000) < 60_000
        sizes = {each.batch_size: each for each in double.batch_stats}
        assert sum(size * each.compute_infer.count for size, each in sizes.items()) == 9
        assert sum(each.compute_infer.count for each in sizes.values()) == double.execution_count
        assert all(each.compute_infer.ns > 0 for each in sizes.values())
        assert not (await statistics(channel, "sum")).inference_count


async def test_what_gets_no_result_counts_as_failed(repository: Path) -> None:
    async with serving(repository) as server, grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await infer(channel, request("double", [[1] * 5]))
        late = request("double", [[1] * 4], timeout=1)
        with pytest.raises(grpc.aio.AioRpcError):
            await infer(channel, late)
        stats = (await statistics(channel, "double")).inference_stats
        assert (stats.fail.count, stats.success.count) == (2, 0)
        assert stats.fail.ns > 0


# ---- the repository ----


async def test_models_come_and_go(repository: Path) -> None:
    async with serving(repository) as app, grpc.aio.insecure_channel(app.address) as channel:
        assert await index(channel) == [("double", "1", "READY", ""), ("sum", "1", "READY", "")]
        dependents = {"unload_dependents": ks.ModelRepositoryParameter(bool_param=True)}
        await ask(channel, "RepositoryModelUnload", model_name="double", parameters=dependents)
        assert not (await ask(channel, "ModelReady", name="double")).ready
        assert (await refusal(channel, "ModelMetadata", name="double")).startswith("NOT_FOUND")
        assert await index(channel) == [("double", "1", "UNAVAILABLE", "it is not loaded"), ("sum", "1", "READY", "")]
        assert await index(channel, ready=True) == [("sum", "1", "READY", "")]
        await ask(channel, "RepositoryModelUnload", model_name="double")  # as with Triton it is no error
        await ask(channel, "RepositoryModelUnload", model_name="nobody")
        for _ in range(2):
            await ask(channel, "RepositoryModelLoad", model_name="double")
            assert (await ask(channel, "ModelReady", name="double")).ready
        assert (await infer(channel, request("double", [[1] * 4]))).model_version == "1"
        there = "the repository holds no model 'nobody'; it holds: double, sum"
        assert await refusal(channel, "RepositoryModelLoad", model_name="nobody") == f"NOT_FOUND {there}"


async def test_a_load_serves_the_newest_version_and_makes_room_for_it(repository: Path) -> None:
    async with serving(repository, versions_max=3) as app, grpc.aio.insecure_channel(app.address) as channel:
        for version in (2, 3, 4):
            graphs.save(repository, "double", graphs.scaling(factor=version), version=version)
            await ask(channel, "RepositoryModelLoad", model_name="double")
            reply = await infer(channel, request("double", [[1] * 4]))
            assert reply.model_version == str(version)
            assert np.frombuffer(reply.raw_output_contents[0], np.float32)[0] == version
        assert [entry[:3] for entry in await index(channel)] == [
            ("double", "2", "READY"),
            ("double", "3", "READY"),
            ("double", "4", "READY"),
            ("sum", "1", "READY"),
        ]
        assert list((await ask(channel, "ModelMetadata", name="double")).versions) == ["2", "3", "4"]
        told = await ask(channel, "ModelStatistics", name="double")
        assert [(each.version, each.inference_count) for each in told.model_stats] == [("2", 1), ("3", 1), ("4", 1)]


async def test_what_cannot_be_loaded_says_why(repository: Path) -> None:
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"no graph")
    async with serving(repository) as app, grpc.aio.insecure_channel(app.address) as channel:
        assert (await refusal(channel, "RepositoryModelLoad", model_name="broken")).startswith("FAILED_PRECONDITION")
        assert not (await ask(channel, "ModelReady", name="broken")).ready
        assert (await refusal(channel, "ModelConfig", name="broken")).startswith("UNAVAILABLE model 'broken' is not")
        name, version, state, reason = (await index(channel))[0]
        assert (name, version, state) == ("broken", "1", "UNAVAILABLE")
        assert reason
        assert str(repository) not in reason
        graphs.save(repository, "fresh", graphs.scaling())
        (repository / "empty").mkdir()
        said = {entry[0]: entry[1:] for entry in await index(channel)}
        assert said["fresh"] == ("1", "UNAVAILABLE", "it is not loaded")
        assert said["empty"][:2] == ("", "UNAVAILABLE")
        assert "no version is there" in said["empty"][2]
        await ask(channel, "RepositoryModelLoad", model_name="fresh")
        assert (await ask(channel, "ModelReady", name="fresh", version="1")).ready


async def test_those_who_ask_at_once_for_an_index_have_the_repository_read_once(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(repository) as app, grpc.aio.insecure_channel(app.address) as channel:
        models = KServeModels(FrontEnd(app.streams, app.regions, 1), app.host, app.metrics)
        scan, scans = app.host._repository.scan, 0

        def counted() -> Any:
            nonlocal scans
            scans += 1
            return scan()

        monkeypatch.setattr(app.host._repository, "scan", counted)
        found = await asyncio.gather(*(models._not_loaded() for _ in range(20)))
        assert [len(entries) for entries in found] == [2] * 20
        assert scans == 1
        os.rename(repository, repository.with_name("away"))
        told = await refusal(channel, "RepositoryIndex")
        assert told == "FAILED_PRECONDITION the repository cannot be read; see the server's log"
        assert len(await index(channel, ready=True)) == 2, "which needs no disk"


async def test_requests_bring_neither_configurations_nor_files(shared_channel: grpc.aio.Channel) -> None:
    async def refused(rpc: str, **parameters: Any) -> str:
        values = {name: ks.ModelRepositoryParameter(**value) for name, value in parameters.items()}
        return await refusal(shared_channel, rpc, model_name="double", parameters=values)

    told = await refused("RepositoryModelLoad", config={"string_param": "{}"})
    assert told.startswith("INVALID_ARGUMENT parameter 'config' is not taken: a model is served as its folder")
    told = await refused("RepositoryModelLoad", **{"file:1/model.onnx": {"bytes_param": b"graph"}})
    assert told.startswith("INVALID_ARGUMENT parameter 'file:1/model.onnx' is not taken: files of models come into the")
    told = await refused("RepositoryModelLoad", **{"file:1/model.onnx": {"bytes_param": bytes(100_000)}})
    assert told.startswith("INVALID_ARGUMENT the request has 1000")
    assert told.endswith("files of models come into the repository by whoever runs the server, not by requests")
    told = await refused("RepositoryModelLoad", zz={"bool_param": True})
    assert told == "INVALID_ARGUMENT there is no parameter 'zz' of a load, nor any other"
    told = await refused("RepositoryModelUnload", unload_dependents={"string_param": "yes"})
    assert told == "INVALID_ARGUMENT parameter 'unload_dependents' should be a bool"
    told = await refused("RepositoryModelUnload", zz={"bool_param": True})
    assert told.startswith("INVALID_ARGUMENT there is no parameter 'zz' of an unload")
    for rpc in ("RepositoryModelLoad", "RepositoryModelUnload", "RepositoryIndex"):
        fields = {"model_name": "double"} if rpc != "RepositoryIndex" else {}
        told = await refusal(shared_channel, rpc, repository_name="other", **fields)
        assert told == "UNIMPLEMENTED repository_name: there is one repository, it should be empty"
        if fields:
            assert (await refusal(shared_channel, rpc)).startswith("INVALID_ARGUMENT model_name: ")
    assert (await ask(shared_channel, "ModelReady", name="double")).ready


async def test_nothing_is_ready_without_workers_nor_once_it_drains(repository: Path) -> None:
    async with serving(repository) as app, grpc.aio.insecure_channel(app.address) as channel:
        for loaded in app.catalogue.versions("double"):
            for worker in loaded.workers.values():
                os.kill(worker.pid, signal.SIGKILL)
        async for _ in app.catalogue.changes():
            if not app.catalogue.active("double").serves:  # type: ignore[union-attr]
                break
        assert not (await ask(channel, "ModelReady", name="double")).ready
        assert (await ask(channel, "ServerReady")).ready, "another model serves"
        assert ("double", "1", "UNAVAILABLE") in [entry[:3] for entry in await index(channel)]
        async for _ in app.catalogue.changes():
            if app.catalogue.active("double").serves:  # type: ignore[union-attr]
                break
        assert (await ask(channel, "ModelReady", name="double")).ready
        await app.drain()
        assert (await ask(channel, "ServerLive")).live
        assert not (await ask(channel, "ServerReady")).ready
        assert not (await ask(channel, "ModelReady", name="double")).ready


async def test_grpcs_own_health_knows_the_service(shared_channel: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(shared_channel)
    said = await stub.Check(health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService"))
    assert said.status == health_pb2.HealthCheckResponse.SERVING


# ---- settings ----


@contextlib.contextmanager
def log_kept() -> Iterator[None]:
    """Lets the log be as it was afterwards, as all tests share it."""
    before = structlog.get_config()["wrapper_class"]
    try:
        yield
    finally:
        structlog.configure(wrapper_class=before)


async def test_what_is_logged_is_read_and_changed(shared_channel: grpc.aio.Channel) -> None:
    async def settings(**wanted: Any) -> dict[str, Any]:
        values = {name: ks.LogSettingsRequest.SettingValue(**value) for name, value in wanted.items()}
        said = (await ask(shared_channel, "LogSettings", settings=values)).settings
        return {name: getattr(value, str(value.WhichOneof("parameter_choice"))) for name, value in said.items()}

    with log_kept():
        said = await settings(log_verbose_level={"uint32_param": 0})
        kept = {"log_error": True, "log_file": "", "log_format": "default"}
        assert said == kept | {"log_warning": True, "log_info": True, "log_verbose_level": 0}
        assert await settings() == said
        assert structlog.get_logger().get_effective_level() == 20
        assert (await settings(log_verbose_level={"uint32_param": 7}))["log_verbose_level"] == 1
        assert structlog.get_logger().get_effective_level() == 10
        said = await settings(log_info={"bool_param": False})
        assert said == kept | {"log_warning": True, "log_info": False, "log_verbose_level": 0}
        assert structlog.get_logger().get_effective_level() == 30
        said = await settings(log_warning={"bool_param": False}, log_format={"string_param": "default"})
        assert not said["log_warning"]
        assert structlog.get_logger().get_effective_level() == 40
        assert (await settings(log_info={"bool_param": True}))["log_warning"]


async def test_settings_that_can_not_be_are_refused_and_named(shared_channel: grpc.aio.Channel) -> None:
    async def told(**wanted: Any) -> str:
        values = {name: ks.LogSettingsRequest.SettingValue(**value) for name, value in wanted.items()}
        return await refusal(shared_channel, "LogSettings", settings=values)

    with log_kept():
        before = structlog.get_logger().get_effective_level()
        assert await told(log_info={"uint32_param": 1}) == "INVALID_ARGUMENT log_info: should be a bool"
        assert await told(log_verbose_level={"bool_param": True}) == (
            "INVALID_ARGUMENT log_verbose_level: should be a uint32"
        )
        assert (await told(log_error={"bool_param": False})).startswith(
            "INVALID_ARGUMENT settings: log_error False do not go together"
        )
        assert "do not go together" in await told(log_info={"bool_param": True}, log_warning={"bool_param": False})
        assert (await told(log_file={"string_param": "/x"})).startswith("UNIMPLEMENTED log_file: ")
        assert (await told(log_format={"string_param": "ISO8601"})).startswith("UNIMPLEMENTED log_format: ")
        assert (await told(log_file={})).startswith("INVALID_ARGUMENT log_file: should be a string")
        assert (await told(zz={"bool_param": True})).startswith("INVALID_ARGUMENT settings: there is no 'zz'")
        assert structlog.get_logger().get_effective_level() == before


async def test_nothing_is_traced_and_whoever_wants_it_hears_so(shared_channel: grpc.aio.Channel) -> None:
    said = (await ask(shared_channel, "TraceSetting", model_name="double")).settings
    assert {name: list(setting.value) for name, setting in said.items()} == {
        "trace_level": ["OFF"],
        "trace_rate": ["1000"],
        "trace_count": ["-1"],
        "log_frequency": ["0"],
        "trace_file": [""],
        "trace_mode": ["triton"],
    }
    setting = ks.TraceSettingRequest.SettingValue
    same = {"trace_level": setting(value=["OFF"]), "trace_rate": setting()}
    assert (await ask(shared_channel, "TraceSetting", settings=same)).settings == said
    told = await refusal(shared_channel, "TraceSetting", settings={"trace_level": setting(value=["TIMESTAMPS"])})
    assert told.startswith("UNIMPLEMENTED trace_level: should be 'OFF', as this server traces nothing")
    told = await refusal(shared_channel, "TraceSetting", settings={"zz": setting()})
    assert told.startswith("INVALID_ARGUMENT settings: there is no 'zz'")
    assert (await refusal(shared_channel, "TraceSetting", model_name="nobody")).startswith("NOT_FOUND")


# ---- reflection ----


async def test_reflection_describes_this_protocol_and_the_servers_own(shared_channel: grpc.aio.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(shared_channel)
    symbols = ("inference.GRPCInferenceService", "duly.v1.InferenceService", "google.rpc.ErrorInfo", "nothing.Of")
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    asked += [reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols]
    listed, *found = [answer async for answer in stub.ServerReflectionInfo(iter(asked))]
    names = {service.name for service in listed.list_services_response.service}
    assert {"inference.GRPCInferenceService", "duly.v1.InferenceService", "grpc.health.v1.Health"} <= names
    assert [bool(each.file_descriptor_response.file_descriptor_proto) for each in found] == [True, True, True, False]
    assert b"GRPCInferenceService" in found[0].file_descriptor_response.file_descriptor_proto[0]
