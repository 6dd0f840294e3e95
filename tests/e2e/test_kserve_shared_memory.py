"""Shared memory of KServe's protocol: real objects of the system, over TCP and UNIX sockets, and clients that lie."""

import asyncio
import contextlib
import gc
import os
import secrets
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from duly.app import App
from duly.rpc.kserve import messages as ks
from tests.e2e.serving import serving
from tests.e2e.test_kserve import SERVICE, infer, stream_all

Channel = grpc.aio.Channel
CODES = grpc.StatusCode
ROW = struct.pack("<4f", 1, 2, 3, 4)
DOUBLED = struct.pack("<4f", 2, 4, 6, 8)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(params=["own", "principal"], loop_scope="module")
async def app(request: pytest.FixtureRequest, repository: Path) -> AsyncIterator[App]:
    async with serving(repository, kserve_shared_memory=request.param) as app:
        yield app


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server_of_own(shared_repository: Path) -> AsyncIterator[App]:
    async with serving(shared_repository, kserve_shared_memory="own") as app:
        yield app


@pytest_asyncio.fixture(loop_scope="module")
async def own(server_of_own: App) -> AsyncIterator[App]:
    """The server for most tests, each of which finds and leaves it without regions."""
    yield server_of_own
    gc.collect()  # a call that was refused holds its connection until it is collected
    await until(lambda: not server_of_own.regions)


@contextlib.asynccontextmanager
async def connected(app: App) -> AsyncIterator[Channel]:
    """A connection of its own: gRPC would share one between channels with the same options."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(app.address, options=options) as channel:
        yield channel


@pytest_asyncio.fixture(loop_scope="module")
async def client(own: App) -> AsyncIterator[Channel]:
    async with connected(own) as channel:
        yield channel


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    """An object of 256 bytes that begins with ROW."""
    made = SharedMemory(create=True, size=256)
    made.buf[:16] = ROW
    yield made
    made.close()
    with contextlib.suppress(FileNotFoundError):
        made.unlink()


async def register(channel: Channel, name: str, key: str, size: int, offset: int = 0) -> None:
    asked = ks.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=size)
    await channel.unary_unary(
        f"{SERVICE}/SystemSharedMemoryRegister",
        ks.SystemSharedMemoryRegisterRequest.SerializeToString,
        ks.SystemSharedMemoryRegisterResponse.FromString,
    )(asked)


async def unregister(channel: Channel, name: str = "", kind: str = "System") -> None:
    await channel.unary_unary(f"{SERVICE}/{kind}SharedMemoryUnregister")(
        ks.SystemSharedMemoryUnregisterRequest(name=name).SerializeToString()
    )


async def regions(channel: Channel, name: str = "") -> dict[str, tuple[str, int, int]]:
    response = await channel.unary_unary(
        f"{SERVICE}/SystemSharedMemoryStatus",
        ks.SystemSharedMemoryStatusRequest.SerializeToString,
        ks.SystemSharedMemoryStatusResponse.FromString,
    )(ks.SystemSharedMemoryStatusRequest(name=name))
    return {key: (region.key, region.offset, region.byte_size) for key, region in response.regions.items()}


def place(tensor: ks.InferParameter, region: str, size: int, offset: int = 0) -> None:
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    if offset:
        tensor.parameters["shared_memory_offset"].int64_param = offset


def asked(
    source: tuple[str, int, int] | None = ("in", 16, 0), target: tuple[str, int, int] | None = None, rows: int = 1
) -> ks.ModelInferRequest:
    """A request for `double`. `source`, `target`: region, bytes and offset of its input and output."""
    request = ks.ModelInferRequest(model_name="double", id="r1")
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 4])
    if source is not None:
        place(request.inputs[0], *source)
    else:
        request.raw_input_contents.append(ROW * rows)
    if target is not None:
        request.outputs.add(name="y")
        place(request.outputs[0], *target)
    return request


async def refused(call: Awaitable[object], code: grpc.StatusCode, text: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() is code, error.value.details()
    assert text in (error.value.details() or "")


def descriptors() -> int:
    """How many descriptors of shared memory this process has, of the test and the server together."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum(link.startswith("/dev/shm/") for link in links)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


# ---- what clients do ----


async def test_inputs_and_outputs_are_in_regions(app: App, memory: SharedMemory) -> None:
    async with connected(app) as client:
        await register(client, "in", memory.name, 128)
        await register(client, "out", f"/{memory.name}", 64, 128)
        assert await regions(client) == {"in": (memory.name, 0, 128), "out": (f"/{memory.name}", 128, 64)}
        reply = await infer(client, asked(("in", 16, 0), ("out", 16, 32)))
        assert bytes(memory.buf[160:176]) == DOUBLED
        assert list(reply.raw_output_contents) == [b""], "the data is nowhere else, and has an entry all the same"
        said = reply.outputs[0].parameters
        assert said["shared_memory_region"].string_param == "out"
        assert (said["shared_memory_byte_size"].int64_param, said["shared_memory_offset"].int64_param) == (16, 32)


async def test_each_request_reads_and_writes_what_is_there_then(client: Channel, memory: SharedMemory) -> None:
    await register(client, "in", memory.name, 256)
    memory.buf[16:48] = ROW * 2
    replies = await stream_all(client, [asked(("in", 32, 16), ("in", 32, 64), rows=2), asked(("in", 16, 0))])
    assert [reply.error_message for reply in replies] == ["", ""]
    assert bytes(memory.buf[64:96]) == DOUBLED * 2
    assert replies[1].infer_response.raw_output_contents[0] == DOUBLED
    memory.buf[:16] = DOUBLED
    reply = await infer(client, asked())
    assert reply.raw_output_contents[0] == struct.pack("<4f", 4, 8, 12, 16)


async def test_regions_are_given_up_by_name_and_all_at_once(client: Channel, memory: SharedMemory) -> None:
    for name in ("a", "b", "c"):
        await register(client, name, memory.name, 64)
    await unregister(client, "a")
    await unregister(client, "unknown")
    assert sorted(await regions(client)) == ["b", "c"]
    assert sorted(await regions(client, "c")) == ["c"]
    await refused(regions(client, "a"), CODES.NOT_FOUND, "no region 'a'")
    await unregister(client)
    assert await regions(client) == {}
    await refused(
        infer(client, asked(("b", 16, 0))),
        CODES.NOT_FOUND,
        "[request id: r1] input 'x', region 'b': there is no such region",
    )


async def test_an_object_that_was_removed_is_still_read(client: Channel, memory: SharedMemory) -> None:
    await register(client, "in", memory.name, 16)
    memory.unlink()
    assert (await infer(client, asked())).raw_output_contents[0] == DOUBLED


async def test_over_a_unix_socket(repository: Path, tmp_path: Path, memory: SharedMemory) -> None:
    async with serving(repository, listen=f"unix:{tmp_path}/grpc.sock", kserve_shared_memory="own") as app:
        async with connected(app) as client, connected(app) as other:
            await register(client, "in", memory.name, 256)
            assert await regions(other) == {}, "one connection is told from another"
            reply = await infer(client, asked(("in", 16, 0), ("in", 16, 64)))
            assert bytes(memory.buf[64:80]) == DOUBLED
            assert reply.id == "r1"
            await refused(infer(other, asked()), CODES.NOT_FOUND, "region 'in': there is no such")
        await until(lambda: not app.regions)


async def test_over_ipv6(repository: Path, memory: SharedMemory) -> None:
    async with serving(repository, listen="[::1]:0", kserve_shared_memory="own") as app, connected(app) as client:
        await register(client, "in", memory.name, 16)
        assert (await infer(client, asked())).raw_output_contents[0] == DOUBLED


# ---- whose regions are ----


async def test_a_region_is_of_its_connection_and_goes_with_it(own: App, memory: SharedMemory) -> None:
    async with connected(own) as other:
        async with connected(own) as client:
            await register(client, "in", memory.name, 16)
            assert await regions(other) == {}
            await refused(infer(other, asked()), CODES.NOT_FOUND, "region 'in': there is no such")
            await unregister(other)
            await register(other, "in", memory.name, 16, 16)  # a name of its own
            assert await regions(client) == {"in": (memory.name, 0, 16)}
            assert len(own.regions) == 2
        await until(lambda: len(own.regions) == 1)
        assert await regions(other) == {"in": (memory.name, 16, 16)}


async def test_a_region_is_of_its_principal_and_goes_with_its_last_connection(
    repository: Path, memory: SharedMemory
) -> None:
    async with serving(repository, kserve_shared_memory="principal") as app:
        async with connected(app) as other:
            async with connected(app) as client:
                await register(client, "in", memory.name, 16)
                assert (await infer(other, asked())).raw_output_contents[0] == DOUBLED
                await refused(
                    register(other, "in", memory.name, 16), CODES.ALREADY_EXISTS, "there is a region 'in' already"
                )
            assert (await infer(other, asked())).raw_output_contents[0] == DOUBLED
            await until(lambda: connections(app) == 1)
            assert (await infer(other, asked())).raw_output_contents[0] == DOUBLED
        gc.collect()  # the call that was refused holds its connection until it is collected
        await until(lambda: not app.regions)


def connections(app: App) -> int:
    """How many connections keep regions."""
    return sum(len(owned.connections) for owned in app.regions._owned.values())


async def test_regions_of_a_client_that_is_killed_are_given_up(own: App, memory: SharedMemory) -> None:
    script = (
        "import asyncio, grpc, sys\n"
        "async def main():\n"
        "    channel = grpc.aio.insecure_channel(sys.argv[1])\n"
        f"    await channel.unary_unary('{SERVICE}/SystemSharedMemoryRegister')(bytes.fromhex(sys.argv[2]))\n"
        "    print('there', flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    request = ks.SystemSharedMemoryRegisterRequest(name="in", key=memory.name, byte_size=16)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, own.address, request.SerializeToString().hex(), stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"there\n"
        assert len(own.regions) == 1
        before = descriptors()
    finally:
        process.kill()
        await process.wait()
    await until(lambda: not own.regions)
    await until(lambda: descriptors() < before)


# ---- what may not be registered ----


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "..",
        "/..",
        ".",
        "../etc/passwd",
        "/../dev/null",
        "//etc/passwd",
        "a/b",
        "/dev/shm/a",
        "a\0b",
        "x" * 256,
    ],
)
async def test_names_that_lead_elsewhere_are_refused(client: Channel, key: str) -> None:
    await refused(register(client, "in", key, 16), CODES.INVALID_ARGUMENT, "shared_memory_key")


@pytest.fixture
def path() -> Iterator[Path]:
    path = Path("/dev/shm") / f"duly-test-{secrets.token_hex(8)}"
    yield path
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def make_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, make_link], ids=["fifo", "folder", "link"])
async def test_what_is_no_shared_memory_is_refused(client: Channel, path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    await refused(register(client, "in", path.name, 16), CODES.INVALID_ARGUMENT, "is no shared memory")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make files of other users")
async def test_the_object_of_another_user_is_refused(client: Channel, memory: SharedMemory) -> None:
    os.chown(f"/dev/shm/{memory.name}", 12_345, -1)
    await refused(
        register(client, "in", memory.name, 16), CODES.PERMISSION_DENIED, "the user with id 12345, the caller"
    )


@pytest.mark.parametrize(
    ("offset", "size", "text"),
    [
        (0, 0, "byte_size should be at least 1"),
        (0, 2**64 - 1, "beyond the end of the object"),
        (2**64 - 1, 1, "beyond the end of the object"),
        (2**64 - 16, 32, "beyond the end of the object"),
        (0, 257 * 16, "beyond the end of the object"),
        (250, 4096, "beyond the end of the object"),
    ],
)
async def test_a_region_beyond_its_object_is_refused(
    client: Channel, own: App, memory: SharedMemory, offset: int, size: int, text: str
) -> None:
    before = descriptors()
    await refused(register(client, "in", memory.name, size, offset), CODES.INVALID_ARGUMENT, text)
    assert descriptors() == before
    assert not own.regions


async def test_names_of_regions_are_checked(client: Channel, memory: SharedMemory) -> None:
    await refused(register(client, "", memory.name, 16), CODES.INVALID_ARGUMENT, "name should not be empty")
    await refused(register(client, "n" * 257, memory.name, 16), CODES.INVALID_ARGUMENT, "name has 257 characters")
    await refused(register(client, "in", "duly-there-is-none", 16), CODES.INVALID_ARGUMENT, "no object that is there")
    await register(client, "in", memory.name, 16)
    await refused(register(client, "in", memory.name, 32), CODES.ALREADY_EXISTS, "there is a region 'in' already")


async def test_one_user_gets_half_of_all_regions(
    own: App, client: Channel, memory: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own.regions, "regions_max", 8)
    for number in range(4):
        await register(client, str(number), memory.name, 16)
    await refused(register(client, "more", memory.name, 16), CODES.RESOURCE_EXHAUSTED, "this user has 4 regions")
    await unregister(client, "2")
    await register(client, "more", memory.name, 16)


# ---- places that are not there ----


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (("in", 0, 0), "shared_memory_byte_size should be at least 1"),
        (("in", 16, 241), "beyond its end"),
        (("in", 16, 2**63 - 1), "beyond its end"),
        (("in", 2**63 - 1, 2**63 - 1), "beyond its end"),
        (("in", -1, 0), "'shared_memory_byte_size' should be 0 to"),
        (("in", 16, -1), "'shared_memory_offset' should be 0 to"),
    ],
)
async def test_a_place_outside_of_its_region_costs_no_run(
    client: Channel, own: App, memory: SharedMemory, where: tuple[str, int, int], text: str
) -> None:
    await register(client, "in", memory.name, 256)
    for request in (asked(where), asked(("in", 16, 0), where)):
        await refused(infer(client, request), CODES.INVALID_ARGUMENT, text)
        (reply,) = await stream_all(client, [request])
        assert text in reply.error_message
        assert reply.infer_response.id == "r1"


async def test_the_size_has_to_be_that_of_the_input(client: Channel, memory: SharedMemory) -> None:
    await register(client, "in", memory.name, 256)
    await refused(infer(client, asked(("in", 15, 0))), CODES.INVALID_ARGUMENT, "is 15, FP32[1, 4] takes 16")
    large = SharedMemory(create=True, size=2**30)  # of which no page is taken
    try:
        await register(client, "large", large.name, 2**30)
        await refused(infer(client, asked(("large", 2**30, 0))), CODES.INVALID_ARGUMENT, "1073741824 bytes, at most")
    finally:
        large.close()
        large.unlink()


async def test_an_output_larger_than_its_place_is_an_error_that_names_both(
    client: Channel, memory: SharedMemory
) -> None:
    await register(client, "in", memory.name, 256)
    text = "output 'y', region 'in': shared_memory_byte_size is 15, the output has 16 bytes"
    request = asked(("in", 16, 0), ("in", 15, 64))
    await refused(infer(client, request), CODES.INVALID_ARGUMENT, text)
    replies = await stream_all(client, [request, asked()])
    assert text in replies[0].error_message
    assert not replies[1].error_message
    assert bytes(memory.buf[64:80]) == bytes(16), "nothing was written"


# ---- clients that change what they have registered ----


async def test_memory_that_is_cut_short_ends_no_more_than_its_requests(
    client: Channel, own: App, memory: SharedMemory
) -> None:
    await register(client, "in", memory.name, 256)
    os.truncate(f"/dev/shm/{memory.name}", 8)
    await refused(infer(client, asked()), CODES.INVALID_ARGUMENT, "of 16 bytes at offset 0 only 8 are there")
    await refused(infer(client, asked(None, ("in", 16, 64))), CODES.INVALID_ARGUMENT, "at offset 64 only 0 are there")
    assert os.stat(f"/dev/shm/{memory.name}").st_size == 8, "the server has not made it larger"
    assert (await infer(client, asked(None))).raw_output_contents[0] == DOUBLED


async def test_memory_that_is_cut_short_again_and_again(client: Channel, memory: SharedMemory) -> None:
    """Another process cuts and grows the object while requests read and write it."""
    await register(client, "in", memory.name, 256)
    script = (
        "import os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "print('there', flush=True)\n"
        "while True:\n"
        "    os.ftruncate(fd, 0)\n"
        "    os.ftruncate(fd, 256)\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, f"/dev/shm/{memory.name}", stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"there\n"
        replies = await stream_all(client, [asked(("in", 16, 0), ("in", 16, 64))] * 200)
        assert len(replies) == 200
        assert all("only" in reply.error_message or not reply.error_message for reply in replies)
    finally:
        process.kill()
        await process.wait()
    os.truncate(f"/dev/shm/{memory.name}", 256)
    memory.buf[:16] = ROW
    assert (await infer(client, asked())).raw_output_contents[0] == DOUBLED


# ---- off, and what there is not ----


async def test_it_is_off_unless_it_is_turned_on(shared_channel: Channel, memory: SharedMemory) -> None:
    text = "its setting kserve_shared_memory turns it on"
    await refused(register(shared_channel, "in", memory.name, 16), CODES.UNIMPLEMENTED, text)
    assert not await regions(shared_channel), "who asks what there is hears that there is nothing"
    await refused(regions(shared_channel, "in"), CODES.NOT_FOUND, "no region 'in'")
    await refused(unregister(shared_channel), CODES.UNIMPLEMENTED, text)
    await refused(infer(shared_channel, asked()), CODES.UNIMPLEMENTED, text)
    await refused(infer(shared_channel, asked(None, ("in", 16, 0))), CODES.UNIMPLEMENTED, text)


async def test_memory_of_gpus_is_not_shared(client: Channel) -> None:
    await unregister(client, kind="Cuda")
    status = await client.unary_unary(f"{SERVICE}/CudaSharedMemoryStatus")(b"")
    assert status == b""
    await refused(
        client.unary_unary(f"{SERVICE}/CudaSharedMemoryRegister")(b""),
        CODES.UNIMPLEMENTED,
        "memory of GPUs is not shared",
    )
