"""What an address alone allows: admin acts from this machine or at an address of their own, and who may connect to a
UNIX socket."""

import asyncio
import grp
import os
import stat
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from duly.access.tokens import new_token, policy_lines
from duly.app import App
from duly.config import ServerConfig
from duly.config_sources import ConfigError, load_config
from duly.start_error import StartError
from duly.v1 import model_pb2, model_pb2_grpc
from duly_client import Client, DulyError, NotAllowed, Status
from tests import graphs
from tests.access.credentials import issue, write_pair
from tests.e2e.serving import serving

FRAME = np.ones(4, np.float32)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    graphs.save(tmp_path / "models", "double", graphs.doubling(), toml="batch_sizes = [1]\n")
    return tmp_path / "models"


async def may_act(address: str) -> str:
    """Tries to unload a model that is not there; returns the code."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = model_pb2_grpc.ModelServiceStub(channel).UnloadModel(model_pb2.UnloadModelRequest(name="none"))
        return (await call.code()).name + " " + await call.details()


async def test_without_a_policy_admin_acts_are_refused_where_others_can_connect(
    models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serving(models, listen="0.0.0.0:0") as app:
        port = app.address.rpartition(":")[2]
        told = await may_act(f"127.0.0.1:{port}")
        assert told.startswith("PERMISSION_DENIED")
        assert "start the server with admin_listen" in told
        async with Client(f"127.0.0.1:{port}") as client:
            assert await client.models()
    assert "anybody who can reach 0.0.0.0:0 may use every model" in "".join(capfd.readouterr())


async def test_the_kernel_says_who_is_at_a_unix_socket_and_admin_acts_have_their_own(
    models: Path, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    named = (
        f'[[principal]]\nname = "me"\nmay = ["infer", "read", "unload", "drain"]\nunix = [{{ uid = {os.getuid()} }}]\n'
    )
    policy.write_text(named, "utf-8")
    path, admin = tmp_path / "duly.sock", f"unix:{tmp_path}/admin.sock"
    settings: dict[str, Any] = {
        "listen": f"unix:{path}",
        "socket_mode": "0660",
        "socket_group": grp.getgrgid(os.getgid()).gr_name,
    }
    async with serving(models, policy=policy, admin_listen=admin, **settings) as app:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert stat.S_IMODE((tmp_path / "admin.sock").stat().st_mode) == 0o600
        assert (await may_act(admin)).startswith("NOT_FOUND")
        assert "at the server's admin address alone (admin_listen)" in await may_act(app.address)
        async with Client(app.address) as client, client.stream("double", budget_ms=5000) as stream:
            for _ in range(3):
                await stream.send(FRAME)
                assert (await anext(stream)).status is Status.ON_TIME
            assert [stream.principal for stream in app.streams._open] == ["me"]
            policy.write_text(named.replace(f"uid = {os.getuid()}", "uid = 4242"), "utf-8")
            await app._doors.gate.look()
            with pytest.raises(NotAllowed, match="no credential was sent"):
                await anext(stream)
        policy.write_text(named, "utf-8")
        await app._doors.gate.look()
        async with Client(admin) as client:
            assert [model.name for model in await client.models()] == ["double"]
            with pytest.raises(DulyError, match=r"(?i)method not found"):
                await client.infer("double", FRAME)
            await client.drain()
        await app.run()
        folder = Path(app._doors._relays[app.address].inner.removeprefix("unix:")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not path.exists()
    assert not folder.exists()


def test_settings_that_protect_nothing_are_refused(models: Path, tmp_path: Path) -> None:
    def problem(**settings: Any) -> str:
        with pytest.raises(ConfigError) as refused:
            load_config({"models": str(models), **settings}, None, {})
        return str(refused.value)

    assert problem(tls_cert="a.pem") == "tls_cert and tls_key: should be set both or neither"
    assert problem(tls_client_ca="a.pem") == "tls_client_ca: needs tls_cert and tls_key, too"
    assert "0.0.0.0:1 can be reached from elsewhere" in problem(admin_listen="0.0.0.0:1")
    assert "need a UNIX socket at listen" in problem(socket_mode="0600")
    assert "should be another address than listen" in problem(admin_listen="127.0.0.1:8500")
    assert "--socket-mode" in problem(listen="unix:/x", socket_mode="0999")


def started(models: Path, **settings: Any) -> str:
    with pytest.raises(StartError) as refused:
        App(ServerConfig(models=models, **settings))
    return str(refused.value)


async def test_files_that_protect_nothing_stop_the_start(models: Path, tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path, issue("ca", "localhost"))
    _, other_key = write_pair(tmp_path, issue("ca", "localhost"), "other")
    old, old_key = write_pair(tmp_path, issue("ca", "localhost", expired=True), "old")
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing", "utf-8")
    assert started(models, tls_cert=cert, tls_key=other_key) == (
        f"{other_key}: is not the key of the first certificate in {cert}"
    )
    assert "old.pem: has expired on 2020-01-01 00:00 UTC" in started(models, tls_cert=old, tls_key=old_key)
    assert "holds no certificates in PEM" in started(models, tls_cert=nothing, tls_key=key)
    assert "holds no private key in PEM" in started(models, tls_cert=cert, tls_key=nothing)
    assert "holds no certificates in PEM" in started(models, tls_cert=cert, tls_key=key, tls_client_ca=nothing)
    assert "away: there is no such file" in started(models, tls_cert=cert, tls_key=key, tls_client_ca=tmp_path / "away")
    os.mkfifo(tmp_path / "fifo")
    assert "fifo: is no ordinary file" in started(models, policy=tmp_path / "fifo")
    assert "should be a" in started(models, audit_log=tmp_path / "fifo")
    policy = tmp_path / "policy.toml"
    policy.write_text(f"[[principal]]\nname = 'a'\n{policy_lines(new_token())}\nrights = 1\n", "utf-8")
    assert "principal[0] 'a'.token[0].rights: there is no such key" in started(models, policy=policy)


async def test_who_keeps_a_connection_that_is_over_keeps_no_place(models: Path, tmp_path: Path) -> None:
    policy, path = tmp_path / "policy.toml", tmp_path / "duly.sock"
    policy.write_text(f'[[principal]]\nname = "me"\nunix = [{{ uid = {os.getuid()} }}]\n', "utf-8")
    async with serving(models, policy=policy, listen=f"unix:{path}") as app:
        relay = app._doors._relays[app.address]
        kept = [await asyncio.open_unix_connection(path) for _ in range(8)]
        for _, writer in kept:
            writer.write(b"no HTTP/2\r\n\r\n" * 8)
        async with asyncio.timeout(5):
            for reader, _ in kept:
                await reader.read()
            await asyncio.gather(*relay._carrying)
        for _, writer in kept:
            writer.close()
