"""Nobody gets in who should not: every RPC, with every kind of credential that is missing, wrong, expired, of another
principal, or right. New RPCs are tried by themselves, as they are taken from the protocol.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from duly.app import App
from duly.rpc.guard import HEALTH, NEEDS, OPEN
from duly.rpc.kserve import messages
from duly.v1 import inference_pb2, model_pb2, server_pb2
from tests import graphs
from tests.access.credentials import (
    EXPIRED,
    OTHER,
    RIGHT,
    ca,
    channel_credentials,
    issue,
    policy,
    signed,
    write_pair,
)
from tests.e2e.serving import serving

LET_IN, WHO, MAY_NOT, NO_HANDSHAKE = "let in", "UNAUTHENTICATED", "PERMISSION_DENIED", "UNAVAILABLE"
MODULES = (inference_pb2, model_pb2, server_pb2, health_pb2, reflection_pb2, messages)
METHODS = [
    method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
REQUESTS: dict[str, dict[str, Any]] = {"Drain": {"grace_nano": -1}}
"""What keeps a call from doing harm: it is refused as INVALID_ARGUMENT by those whom the gate has let through."""


def path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


async def ask(channel: grpc.aio.Channel, method: MethodDescriptor, metadata: Any = (), **fields: Any) -> str:
    """Makes the call and returns how it was received: let in, whatever its own answer is, or the status."""
    request = message_factory.GetMessageClass(method.input_type)(**REQUESTS.get(method.name, {}), **fields)
    message = request.SerializeToString()
    try:
        if method.client_streaming:
            call: Any = channel.stream_stream(path(method))(metadata=metadata, timeout=10)
            with contextlib.suppress(grpc.aio.InternalError):
                # The call's own `write` replaces the status by INTERNAL where the server has ended the call by then.
                await call.wait_for_connection()
                await call._cython_call.send_serialized_message(message)
            await call.read()
            call.cancel()
        elif method.server_streaming:
            stream = channel.unary_stream(path(method))(message, metadata=metadata, timeout=10)
            await stream.read()
            stream.cancel()
        else:
            await channel.unary_unary(path(method))(message, metadata=metadata, timeout=10)
    except grpc.aio.AioRpcError as error:
        code = error.code().name
        refused = code in (WHO, MAY_NOT) or (code == NO_HANDSHAKE and not error.trailing_metadata())
        return code if refused else LET_IN
    return LET_IN


def admitted(method: MethodDescriptor, expected: str) -> str:
    """How a caller is received of whom others would be received so: some calls are anybody's, once connected."""
    return LET_IN if path(method) in OPEN and expected != NO_HANDSHAKE else expected


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


HEADERS: dict[str, tuple[Any, str]] = {
    "no credential": ((), WHO),
    "a token that is wrong": (bearer(RIGHT[:-4] + "AAAA"), WHO),
    "a token of an id that nobody has": (bearer(RIGHT.replace(RIGHT[5:13], "ffffffff")), WHO),
    "a token that has expired": (bearer(EXPIRED), WHO),
    "a token of another principal": (bearer(OTHER), MAY_NOT),
    "the right token": (bearer(RIGHT), LET_IN),
    "a JWT of another key": (bearer(signed("k2", kid="k1", sub="admin", scope="duly.all")), WHO),
    "a JWT of a key that is not listed": (bearer(signed("k2", sub="admin", scope="duly.all")), WHO),
    "a JWT that has expired": (bearer(signed(sub="admin", scope="duly.all", exp=time.time() - 5)), WHO),
    "a JWT for another audience": (bearer(signed(sub="admin", scope="duly.all", aud="other")), WHO),
    "a JWT without the scope": (bearer(signed(sub="admin", scope="duly.some")), WHO),
    "a JWT of another principal": (bearer(signed(sub="nobody")), MAY_NOT),
    "the right JWT": (bearer(signed(sub="admin", scope="x duly.all")), LET_IN),
    "two headers": (bearer(RIGHT) * 2, WHO),
    "another scheme": ((("authorization", f"Basic {RIGHT}"),), WHO),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rpc")
    for name in ("double", "lane"):
        graphs.save(root / "models", name, graphs.doubling(), toml="batch_sizes = [1]\n")
    policy(root)
    return root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def by_header(folder: Path) -> AsyncIterator[App]:
    listen = f"unix:{folder}/duly.sock"
    async with serving(folder / "models", listen=listen, policy=folder / "policy.toml", socket_mode="600") as app:
        yield app


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def by_certificate(folder: Path) -> AsyncIterator[App]:
    cert, key = write_pair(folder, issue("ca", "localhost", "127.0.0.1"))
    ca_file = folder / "ca.pem"
    ca_file.write_bytes(ca("ca").certificate)
    tls = {"tls_cert": cert, "tls_key": key, "tls_client_ca": ca_file}
    async with serving(folder / "models", policy=folder / "policy.toml", **tls) as app:
        yield app


def test_every_method_of_every_service_has_its_right() -> None:
    assert {path(method) for method in METHODS} <= NEEDS.keys()
    assert len(METHODS) >= 15


@pytest.mark.asyncio(loop_scope="module")
async def test_every_rpc_with_every_header(by_header: App) -> None:
    wrong = []
    async with grpc.aio.insecure_channel(by_header.address) as channel:
        for method in METHODS:
            for kind, (metadata, expected) in HEADERS.items():
                fields = {"service": "double"} if path(method) in HEALTH else {}
                got = await ask(channel, method, metadata, **fields)
                if got != admitted(method, expected):
                    wrong.append(f"{path(method)} with {kind}: {got}, not {admitted(method, expected)}")
        assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)
    assert not wrong, "\n".join(wrong)
    assert by_header._doors.gate.audit.refused >= (len(METHODS) - len(OPEN)) * 13


CERTIFICATES: dict[str, tuple[Any, str]] = {
    "no certificate": (None, NO_HANDSHAKE),
    "of another CA": (issue("other ca", "spiffe://vehicle/admin/1"), NO_HANDSHAKE),
    "expired": (issue("ca", "spiffe://vehicle/admin/1", expired=True), NO_HANDSHAKE),
    "of nobody": (issue("ca", "stranger.test"), WHO),
    "whose path only begins like the right one": (issue("ca", "spiffe://vehicle/admin/1/guest"), WHO),
    "whose DNS name ends like the right one": (issue("ca", "vehicle.admin.1"), WHO),
    "of another principal": (issue("ca", "other.test"), MAY_NOT),
    "right": (issue("ca", "spiffe://vehicle/admin/1"), LET_IN),
}


@pytest.mark.asyncio(loop_scope="module")
async def test_every_rpc_with_every_certificate(by_certificate: App) -> None:
    wrong = []
    for kind, (cert, expected) in CERTIFICATES.items():
        async with grpc.aio.secure_channel(by_certificate.address, channel_credentials(cert)) as channel:
            fields = [{"service": "double"} if path(method) in HEALTH else {} for method in METHODS]
            got = await asyncio.gather(
                *(ask(channel, method, **more) for method, more in zip(METHODS, fields, strict=True))
            )
        wrong += [
            f"{path(method)} with a certificate {kind}: {each}, not {admitted(method, expected)}"
            for method, each in zip(METHODS, got, strict=True)
            if each != admitted(method, expected)
        ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_plain_client_does_not_get_to_a_tls_server(by_certificate: App) -> None:
    async with grpc.aio.insecure_channel(by_certificate.address) as channel:
        for method in METHODS[:3]:
            assert await ask(channel, method, bearer(RIGHT)) == NO_HANDSHAKE


@pytest.mark.asyncio(loop_scope="module")
async def test_who_may_use_some_models_hears_of_no_others(by_header: App) -> None:
    camera = bearer(signed(sub="camera-7"))
    async with grpc.aio.insecure_channel(by_header.address) as channel:

        async def answer(method: str, request: Any, metadata: Any) -> Any:
            try:
                return await channel.unary_unary(method)(request.SerializeToString(), metadata=metadata, timeout=10)
            except grpc.aio.AioRpcError as error:
                return f"{error.code().name} {error.details()}"

        check = "/grpc.health.v1.Health/Check"
        asked = [await answer(check, health_pb2.HealthCheckRequest(service=name), camera) for name in ("lane", "none")]
        assert [each.split()[0] for each in asked] == [MAY_NOT] * 2
        assert asked[0].replace("lane", "none") == asked[1]
        listed = health_pb2.HealthListResponse.FromString(
            await answer("/grpc.health.v1.Health/List", health_pb2.HealthListRequest(), camera)
        )
        assert {name for name in listed.statuses if name and "." not in name} == {"double"}
        wrong = model_pb2.GetModelRequest(name="dour")
        text = "NOT_FOUND there is no model 'dour'; there are: double"
        assert await answer("/duly.v1.ModelService/GetModel", wrong, camera) == text
        assert await answer("/duly.v1.ModelService/GetModel", wrong, bearer(RIGHT)) == f"{text}, lane"
