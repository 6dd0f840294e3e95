"""Calls that last: what happens to them when certificates are renewed or expire, and when the policy changes."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from duly.app import App
from duly_client import Client, NotAllowed, ServerUnavailable, Status, Tls
from tests import graphs
from tests.access.credentials import OTHER, RIGHT, ca, issue, policy, signed, token_table, write_pair
from tests.e2e.serving import serving

FRAME = np.ones(4, np.float32)
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lasting")
    graphs.save(root / "models", "double", graphs.doubling(), toml="batch_sizes = [1]\n")
    policy(root)
    write_pair(root, issue("ca", "localhost", "127.0.0.1"))
    write_pair(root, issue("ca", "spiffe://vehicle/camera/front"), "camera")
    for name in ("ca", "new ca"):
        (root / f"{name}.pem").write_bytes(ca(name).certificate)
    (root / "clients.pem").write_bytes(ca("ca").certificate)
    return root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(folder: Path) -> AsyncIterator[App]:
    tls = {"tls_cert": folder / "server.pem", "tls_key": folder / "server.key", "tls_client_ca": folder / "clients.pem"}
    async with serving(folder / "models", policy=folder / "policy.toml", audit_log=folder / "audit.log", **tls) as app:
        yield app


@pytest.fixture(autouse=True)
def as_before(folder: Path, app: App) -> None:
    policy(folder)
    app._doors.gate.judge = type(app._doors.gate.judge)(app._doors.gate.judge.policy)


def tls(folder: Path, client: str = "camera", server_ca: str = "ca") -> Tls:
    return Tls(folder / f"{server_ca}.pem", folder / f"{client}.pem", folder / f"{client}.key")


async def answered(stream: Any) -> None:
    await stream.send(FRAME)
    assert (await anext(stream)).status is Status.ON_TIME


async def test_a_stream_goes_on_while_every_file_of_tls_is_replaced(app: App, folder: Path) -> None:
    """Server certificate, its CA, and the CA of clients are all exchanged; who connects now needs the new ones."""
    async with Client(app.address, tls=tls(folder)) as client, client.stream("double", budget_ms=5000) as stream:
        await answered(stream)
        write_pair(folder, issue("new ca", "localhost", "127.0.0.1"))
        (folder / "clients.pem").write_bytes(ca("new ca").certificate)
        write_pair(folder, issue("new ca", "spiffe://vehicle/camera/front"), "fresh")
        await answered(stream)
        async with Client(app.address, tls=tls(folder, "fresh", "new ca")) as fresh:
            assert await fresh.infer("double", FRAME)
        with pytest.raises(ServerUnavailable, match="of a CA that this client does not trust"):
            async with Client(app.address, tls=tls(folder, "fresh")) as distrusts:
                await distrusts.server_info()
        with pytest.raises(ServerUnavailable, match="may ask for a client certificate"):
            async with Client(app.address, tls=tls(folder, "camera", "new ca")) as old:
                await old.server_info()
        await answered(stream)
        with pytest.raises(NotAllowed, match="of a CA that the server does not trust any more"):
            await client.models()  # over the connection that was made in time
        (folder / "server.key").write_text("half a ke", encoding="ascii")
        async with Client(app.address, tls=tls(folder, "fresh", "new ca")) as fresh:
            await fresh.server_info()  # what was read before stays in use
        write_pair(folder, issue("ca", "localhost", "127.0.0.1"))
        (folder / "clients.pem").write_bytes(ca("ca").certificate)
        await answered(stream)


async def test_a_client_uses_its_renewed_certificate_for_the_next_call(app: App, folder: Path) -> None:
    write_pair(folder, issue("ca", "other.test"), "renewed")
    async with Client(app.address, tls=tls(folder, "renewed")) as client:
        with pytest.raises(NotAllowed, match="'other' has no right to read here"):
            await client.server_info()
        write_pair(folder, issue("ca", "spiffe://vehicle/camera/left"), "renewed")
        async with client.stream("double", budget_ms=5000) as stream:
            await answered(stream)
            write_pair(folder, issue("ca", "other.test"), "renewed")
            with pytest.raises(NotAllowed):
                await client.models()
            await answered(stream)


async def test_a_stream_ends_when_the_certificate_of_its_client_expires(app: App, folder: Path) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    write_pair(folder, ca("ca").issue("spiffe://vehicle/camera/front", expires=soon), "short")
    gate = app._doors.gate
    async with (
        Client(app.address, tls=tls(folder, "short")) as client,
        client.stream("double", budget_ms=5000) as stream,
    ):
        await answered(stream)
        gate.now_unix_s = lambda: soon.timestamp() - 1
        await gate.look()
        await answered(stream)
        gate.now_unix_s = lambda: soon.timestamp() + 1
        await gate.look()
        with pytest.raises(NotAllowed, match="the credential with which the call began has expired"):
            await anext(stream)
        with pytest.raises(NotAllowed, match="the certificate has expired; connect with a new one"):
            await client.models()  # over the connection that was made in time


async def test_files_of_tls_that_do_not_fit_are_told_before_anybody_connects(app: App, folder: Path) -> None:
    key = (folder / "server.key").read_bytes()
    with capture_logs() as logs:
        (folder / "server.key").write_bytes(issue("ca", "localhost").key)
        await app._doors.reload()
        (folder / "server.key").write_bytes(key)
        app._doors.look()
    told = [log for log in logs if "TLS" in log["event"]]
    assert "is not the key of the first certificate" in told[0]["reason"]
    assert told[1]["event"] == "the files of TLS were read anew"


async def test_what_a_stream_may_do_follows_the_policy(app: App, folder: Path) -> None:
    gate = app._doors.gate
    async with Client(app.address, tls=tls(folder)) as client:
        async with client.stream("double", budget_ms=5000) as stream:
            (folder / "policy.toml").write_text("[[principal]]\nnam = 1\n", encoding="utf-8")
            assert not await gate.reload(), "it cannot be used"
            await answered(stream)
            text = policy(folder).read_text("utf-8")
            (folder / "policy.toml").write_text(text.replace('"dou*"', '"other"'), encoding="utf-8")
            assert await gate.reload()
            with pytest.raises(NotAllowed, match="has no right to use the model 'double'"):
                await anext(stream)
        policy(folder)
        await gate.look()  # which finds that the file has changed
        async with client.stream("double", budget_ms=5000) as stream:
            await answered(stream)
            (folder / "policy.toml").write_text(text.replace("spiffe://vehicle/camera/*", "spiffe://x"), "utf-8")
            await gate.look()
            with pytest.raises(NotAllowed, match="no principal of the policy has this certificate"):
                await anext(stream)
    async with asyncio.timeout(10):  # a thread writes the file
        while "no principal of the policy" not in (folder / "audit.log").read_text("utf-8"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_watcher_ends_with_its_right(app: App, folder: Path) -> None:
    async with Client(app.address, tls=tls(folder)) as client:
        channel = client._open_channels().channel()
        for method in ("ServerService/WatchStatistics", "ModelService/WatchModels"):
            policy(folder)
            await app._doors.gate.reload()
            call = channel.unary_stream(f"/duly.v1.{method}")(b"")
            await call.read()
            text = policy(folder).read_text("utf-8")
            (folder / "policy.toml").write_text(text.replace("spiffe://vehicle/camera/*", "spiffe://x"), "utf-8")
            await app._doors.gate.reload()
            async with asyncio.timeout(10):
                code = await call.code()
            assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_opens_again_with_the_token_that_its_file_has_then(app: App, folder: Path) -> None:
    gate = app._doors.gate
    file = folder / "token"
    file.write_text(signed() + "\n", encoding="ascii")
    client = Client(app.address, tls=tls(folder), token_file=file)
    async with client, client.stream("double", budget_ms=5000) as stream:
        await answered(stream)
        later = datetime.now(UTC).timestamp() + 700
        file.write_text(signed(exp=later + 600), encoding="ascii")
        gate.now_unix_s = lambda: later
        await gate.look()
        assert (await answer_of(stream)).status in (Status.ON_TIME, Status.CANCELLED)
        await answered(stream)


async def answer_of(stream: Any) -> Any:
    await stream.send(FRAME)
    return await anext(stream)


@pytest.fixture(autouse=True)
def own_clock(app: App) -> Any:
    yield
    app._doors.gate.now_unix_s = datetime.now(UTC).timestamp


async def test_tokens_are_in_no_log_and_no_audit(
    app: App, folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    secrets = [RIGHT, RIGHT[:-2] + "xx", OTHER, signed("k2"), signed(sub="nobody")]
    for token in secrets:
        async with Client(app.address, tls=tls(folder), token=token) as client:
            told = await asyncio.gather(client.models(), return_exceptions=True)
        assert token[20:] not in str(told)
    await asyncio.to_thread(app._doors.gate.audit.close)
    told = "".join(capfd.readouterr()) + caplog.text + (folder / "audit.log").read_text("utf-8") + repr(client)
    assert "refused" in told
    assert not [token for token in secrets if token[20:] in told]


async def test_a_quota_holds_for_all_streams_of_a_principal(app: App, folder: Path) -> None:
    more = f"""
[[principal]]
name = "metered"
quota = {{ streams_max = 2, frames_per_s_max = 8 }}
{token_table(OTHER)}
"""
    text = policy(folder, more).read_text("utf-8").replace(token_table(OTHER), "", 1)
    (folder / "policy.toml").write_text(text, "utf-8")
    assert await app._doors.gate.reload()
    async with Client(app.address, tls=tls(folder), token=OTHER, reconnect=False) as client:
        opened = [client.stream("double", backlog="ALL", budget_ms=5000) for _ in range(3)]
        async with opened[0], opened[1]:
            with pytest.raises(Exception, match="2 streams of the principal are open already"):
                async with opened[2]:
                    pass
            for _ in range(16):
                for stream in opened[:2]:
                    await stream.send(FRAME)
            outcomes = [await anext(stream) for stream in opened[:2] for _ in range(16)]
        shed = [outcome for outcome in outcomes if outcome.status is Status.SHED]
        assert 32 - 8 - 4 <= len(shed) <= 32 - 8
        assert {outcome.reason for outcome in shed} == {"the principal's quota is 8 frames a second (frames_per_s_max)"}
