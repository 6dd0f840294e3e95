"""KServe's protocol keeps to the same policy: who sees which models, and who may load and unload them, and where."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from duly.rpc.kserve import messages as ks
from tests import graphs
from tests.access.credentials import RIGHT, policy, signed
from tests.e2e.serving import serving

SERVICE = "/inference.GRPCInferenceService"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("double", "lane"):
        graphs.save(tmp_path / "models", name, graphs.scaling(), toml="batch_sizes = [1]\n")
    return tmp_path / "models"


async def ask(channel: grpc.aio.Channel, rpc: str, token: str = "", **fields: Any) -> Any:
    """The answer, or the code and the text with which the call ends."""
    asked, answer = getattr(ks, f"{rpc}Request"), getattr(ks, f"{rpc}Response")
    call = channel.unary_unary(f"{SERVICE}/{rpc}", asked.SerializeToString, answer.FromString)
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    try:
        return await call(asked(**fields), metadata=metadata, timeout=10)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {error.details()}"


async def test_who_may_use_some_models_hears_of_no_others(models: Path, tmp_path: Path) -> None:
    camera = signed(sub="camera-7")
    async with (
        serving(models, policy=policy(tmp_path)) as app,
        grpc.aio.insecure_channel(app.address) as channel,
    ):
        for rpc in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
            there, nowhere = [await ask(channel, rpc, camera, name=name) for name in ("lane", "none")]
            assert there.startswith("PERMISSION_DENIED"), rpc
            assert there.replace("lane", "none") == nowhere
            assert not isinstance(await ask(channel, rpc, camera, name="double"), str), rpc
        told = await ask(channel, "TraceSetting", camera, model_name="lane")
        assert told.startswith("PERMISSION_DENIED")
        unknown = "there is no model 'dour'; there are: double"
        assert await ask(channel, "ModelMetadata", camera, name="dour") == f"NOT_FOUND {unknown}"
        assert await ask(channel, "ModelMetadata", RIGHT, name="dour") == f"NOT_FOUND {unknown}, lane"
        assert await ask(channel, "ModelStatistics", camera, name="dour") == f"INVALID_ARGUMENT {unknown}"
        everyone = (camera, ["double"]), (RIGHT, ["double", "lane"])
        for token, names in everyone:
            assert [each.name for each in (await ask(channel, "ModelStatistics", token)).model_stats] == names
            assert [each.name for each in (await ask(channel, "RepositoryIndex", token)).models] == names
        await ask(channel, "RepositoryModelUnload", RIGHT, model_name="lane")
        for token, names in everyone:
            assert [each.name for each in (await ask(channel, "RepositoryIndex", token)).models] == names


async def test_anybody_may_ask_whether_the_server_is_there_and_nothing_else(models: Path, tmp_path: Path) -> None:
    async with (
        serving(models, policy=policy(tmp_path)) as app,
        grpc.aio.insecure_channel(app.address) as channel,
    ):
        assert (await ask(channel, "ServerLive")).live
        assert (await ask(channel, "ServerReady", "wrong")).ready
        for rpc in ("ServerMetadata", "ModelReady", "RepositoryIndex", "LogSettings"):
            assert (await ask(channel, rpc)).startswith("UNAUTHENTICATED"), rpc


async def test_regions_of_shared_memory_are_not_judged_as_models(models: Path, tmp_path: Path) -> None:
    camera = signed(sub="camera-7")
    async with (
        serving(models, policy=policy(tmp_path)) as app,
        grpc.aio.insecure_channel(app.address) as channel,
    ):
        for rpc in ("SystemSharedMemoryStatus", "SystemSharedMemoryUnregister", "CudaSharedMemoryStatus"):
            told = await ask(channel, rpc, camera, name="lane")
            assert not isinstance(told, str) or "PERMISSION_DENIED" not in told, rpc


async def test_loading_needs_its_rights_and_the_audit_log_names_the_acts(models: Path, tmp_path: Path) -> None:
    more = """
[[principal]]
name = "loader"
may = ["read", "load"]
models = ["lane"]
jwt = [{ subject = "loader" }]
"""
    camera, loader, audit = signed(sub="camera-7"), signed(sub="loader"), tmp_path / "audit.log"
    async with (
        serving(models, policy=policy(tmp_path, more=more), audit_log=audit) as app,
        grpc.aio.insecure_channel(app.address) as channel,
    ):
        for rpc in ("RepositoryModelLoad", "RepositoryModelUnload"):
            assert (await ask(channel, rpc, camera, model_name="double")).startswith("PERMISSION_DENIED")
        assert (await ask(channel, "RepositoryModelUnload", loader, model_name="lane")).startswith("PERMISSION_DENIED")
        assert (await ask(channel, "RepositoryModelLoad", loader, model_name="double")).startswith("PERMISSION_DENIED")
        assert (await ask(channel, "ModelReady", RIGHT, name="double")).ready
        graphs.save(models, "lane", graphs.scaling(factor=3), version=2)
        told = await ask(channel, "RepositoryModelLoad", loader, model_name="lane")
        assert told == "PERMISSION_DENIED lane/2 is loaded, but 'loader' has no right to activate it"
        assert not isinstance(await ask(channel, "RepositoryModelLoad", RIGHT, model_name="lane"), str)
        assert not isinstance(await ask(channel, "RepositoryModelUnload", RIGHT, model_name="double"), str)
        value = ks.LogSettingsRequest.SettingValue(bool_param=True)
        told = await ask(channel, "LogSettings", camera, settings={"log_error": value})
        assert told == "PERMISSION_DENIED 'camera' has no right to log here"
        assert not isinstance(await ask(channel, "LogSettings", camera), str)
    acts = [json.loads(line) for line in audit.read_text("utf-8").splitlines()]
    done = [(act["who"], act["act"], act["target"]) for act in acts if act["event"] == "admin act"]
    assert ("right", "GRPCInferenceService/RepositoryModelLoad", "lane") in done
    assert ("right", "GRPCInferenceService/RepositoryModelUnload", "double") in done
    refused = {(act["who"], act["act"]) for act in acts if act["event"] == "refused"}
    assert ("camera", "GRPCInferenceService/RepositoryModelLoad") in refused
    assert ("camera", "GRPCInferenceService/LogSettings") in refused


async def test_models_are_loaded_at_the_admin_address_alone_where_there_is_one(models: Path, tmp_path: Path) -> None:
    admin = f"unix:{tmp_path}/admin.sock"
    async with (
        serving(models, admin_listen=admin) as app,
        grpc.aio.insecure_channel(app.address) as public,
        grpc.aio.insecure_channel(admin) as private,
    ):
        value = ks.LogSettingsRequest.SettingValue(bool_param=True)
        for rpc, fields in (
            ("RepositoryModelUnload", {"model_name": "lane"}),
            ("RepositoryModelLoad", {"model_name": "lane"}),
            ("LogSettings", {"settings": {"log_error": value}}),
        ):
            told = await ask(public, rpc, **fields)
            assert told.startswith("PERMISSION_DENIED"), rpc
            assert told.endswith("admin acts are taken at the server's admin address alone (admin_listen)")
        assert (await ask(public, "ModelReady", name="lane")).ready
        assert not isinstance(await ask(private, "RepositoryModelUnload", model_name="lane"), str)
        states = {each.name: each.state for each in (await ask(private, "RepositoryIndex")).models}
        assert states == {"double": "READY", "lane": "UNAVAILABLE"}
        assert not isinstance(await ask(private, "RepositoryModelLoad", model_name="lane"), str)
        assert (await ask(private, "ServerReady")).ready
        told = await private.unary_unary(f"{SERVICE}/ModelInfer")(b"").code()
        assert told is grpc.StatusCode.UNIMPLEMENTED
