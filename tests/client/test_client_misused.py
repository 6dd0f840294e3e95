"""A client in the wrong thread, loop or order says so at once: nothing waits for what cannot come."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import numpy as np
import pytest

from duly_client import BlockingClient, Client
from duly_client.blocking import BlockingStream
from tests.client.scripted_server import ScriptedServer, serving

X = np.arange(4, dtype=np.float32)
WAIT_S = 20


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """A server in a loop of its own, since the clients here block."""
    ready, over = threading.Event(), threading.Event()
    found: list[str] = []

    async def serve() -> None:
        async with serving(ScriptedServer()) as address:
            found.append(address)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(WAIT_S)
    yield found[0]
    over.set()
    thread.join(WAIT_S)


def in_thread(call: Callable[[], object]) -> "Future[object]":
    """What `call` returns or raises in a thread that does not hold up the end of the tests."""
    future: Future[object] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def said(call: Callable[[], object]) -> str:
    with pytest.raises(RuntimeError) as error:
        in_thread(call).result(WAIT_S)
    return str(error.value)


def test_a_blocking_client_outside_its_block(target: str) -> None:
    client = BlockingClient(target)
    not_open = "the client is not open: enter it with `with`"
    assert said(lambda: client.infer("echo", X)) == not_open
    assert said(lambda: client.stream("echo")) == not_open
    client.close()
    with client:
        stream = client.stream("echo")
        assert said(lambda: next(stream)).startswith("the stream is not open")
        assert said(stream.finish).startswith("the stream is not open")
        assert said(client.__enter__) == "the client is open already"
        with stream:
            client.close()  # its stream ends with it
            client.close()
            assert said(lambda: stream.send(X)) == "the client is closed"
            stream.cancel([1])
    assert said(lambda: client.infer("echo", X)) == not_open
    with client:
        assert client.infer("echo", X).ok


def test_who_waits_hears_that_the_client_was_closed(target: str) -> None:
    with BlockingClient(target) as client:
        stream = client.stream("echo").__enter__()
        outcomes = in_thread(lambda: list(stream))
        while not stream._stream._frames.is_awaited:
            assert not outcomes.done()
    error = outcomes.exception(WAIT_S)  # the stream may have ended before, as it does with its client
    assert outcomes.result() == [] if error is None else str(error) == "the client was closed meanwhile"


def test_nothing_may_wait_in_the_blocking_clients_own_thread(target: str) -> None:
    told: Future[str] = Future()
    with BlockingClient(target) as client, client.stream("echo") as stream:

        def on_advice() -> None:
            try:
                stream.send(X)
            except RuntimeError as error:
                told.set_result(str(error))

        stream._loop.soon(on_advice)
        assert told.result(WAIT_S).startswith("called in the client's own thread, as `on_advice` is")
        stream.send(X)
        assert next(stream).ok


async def test_another_event_loop(target: str) -> None:
    async with Client(target) as client, client.stream("echo") as stream:

        def use(call: Callable[[], object]) -> str:
            async def run() -> object:
                return await call()  # type: ignore[misc]

            return said(lambda: asyncio.run(run()))

        for call in (lambda: stream.send(X), stream.__anext__, stream.finish):
            assert (await asyncio.to_thread(use, call)).startswith("the stream belongs to another event loop")
        why = await asyncio.to_thread(use, lambda: client.infer("echo", X))
        assert why.startswith("the client belongs to another event loop")
        await stream.send(X)
        assert (await anext(stream)).ok


async def test_a_stream_that_was_not_entered(target: str) -> None:
    async with Client(target) as client:
        stream = client.stream("echo")
        for use in (lambda: stream.send(X), stream.__anext__, stream.finish):
            with pytest.raises(RuntimeError, match=r"^the stream is not open: enter it with `async with`$"):
                await use()


@pytest.mark.parametrize(
    "target",
    [
        *("http://127.0.0.1:8500", "grpc://cam:8500", "https://cam", "127.0.0.1", "localhost", "", ":8500", "::1:8500"),
        *("127.0.0.1:8500/", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:http", "unix:"),
    ],
)
def test_what_is_no_target_is_said_at_once(target: str) -> None:
    for client in (Client, BlockingClient):
        with pytest.raises(ValueError, match="expected HOST:PORT, such as") as error:
            client(target)
        assert repr(target) in str(error.value)


@pytest.mark.parametrize(
    "target", ["cam:1", "[::1]:8500", "unix:a.sock", "unix:///a", "dns:///cam:1", "ipv4:127.0.0.1:1", "xds:///a"]
)
def test_targets_of_grpcs(target: str) -> None:
    Client(target)


def test_a_target_that_is_no_text() -> None:
    with pytest.raises(TypeError, match=r"^target: got int, expected HOST:PORT"):
        Client(8500)  # type: ignore[arg-type]


def test_a_masked_array_is_not_sent_with_what_is_under_its_mask(target: str) -> None:
    gaps = np.ma.masked_array(X, mask=[0, 1, 0, 0])
    with BlockingClient(target) as client, client.stream("echo") as stream:
        for send in (stream.send, lambda array: client.infer("echo", array)):
            with pytest.raises(ValueError, match=r"got a masked array; array.filled"):
                send(gaps)
        stream.send(np.ma.masked_array(X))
        assert isinstance(stream, BlockingStream)
        assert next(stream).ok


@pytest.mark.parametrize("budget_ms", [0.0, -1.0, 1e-9, 1e300, float("inf"), float("nan")])
def test_a_budget_that_cannot_be_stated(target: str, budget_ms: float) -> None:
    with BlockingClient(target) as client, pytest.raises(ValueError, match=r"^budget_ms=.*: expected"):
        client.stream("echo", budget_ms=budget_ms)
