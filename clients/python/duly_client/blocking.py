"""The client for programs without asyncio.

Each method runs the asyncio method of the same name in the event loop of a private thread and waits for it. One thread
may send while another one iterates. `on_advice` is called in the private thread, where nothing may wait: methods of the
client and its streams raise RuntimeError there.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar

import grpc

from duly_client.client import Client
from duly_client.credentials import Tls
from duly_client.forked import is_forked, using_grpc
from duly_client.stream import Stream
from duly_client.types import Outcome, StreamTerms

_P = ParamSpec("_P")
_R = TypeVar("_R")


_CANCEL_SECONDS = 5.0
"""How long a client that is closed waits for what it cancels."""


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="duly-client", daemon=True)
        self._thread.start()
        self._lock = threading.Lock()
        self._stopped = False

    def wait(self, coroutine: Coroutine[Any, Any, _R]) -> _R:
        """Runs the coroutine in the loop and returns its result. An interruption, such as Ctrl-C, cancels it.

        Raises RuntimeError in the loop's own thread, and where the client is closed, before or meanwhile.
        """
        try:
            using_grpc()
            if threading.current_thread() is self._thread:
                raise RuntimeError(
                    "called in the client's own thread, as `on_advice` is, where it would wait for itself: "
                    "hand it over to another thread, by a queue for example"
                )
            with self._lock:
                if self._stopped:
                    raise RuntimeError("the client is closed")
                future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # nobody would run it
            coroutine.close()
            raise
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise RuntimeError("the client was closed meanwhile") from None
        except BaseException:
            future.cancel()
            raise

    def soon(self, call: Callable[[], None]) -> None:
        if is_forked():
            return  # nobody is left who would do it
        with self._lock:
            if not self._stopped:
                self._loop.call_soon_threadsafe(call)

    @property
    def stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """Ends the thread. What other threads wait for is cancelled."""
        with self._lock:
            self._stopped = True
            ended = asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop)
        ended.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)


def _waiting(
    method: Callable[Concatenate[Client, _P], Coroutine[Any, Any, _R]],
) -> Callable[Concatenate["BlockingClient", _P], _R]:
    def call(self: "BlockingClient", /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        loop = self._running()
        return loop.wait(method(self._client, *args, **kwargs))

    functools.update_wrapper(call, method)
    return call


def _waiting_on_stream(
    method: Callable[Concatenate[Stream, _P], Coroutine[Any, Any, _R]],
) -> Callable[Concatenate["BlockingStream", _P], _R]:
    def call(self: "BlockingStream", /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return self._loop.wait(method(self._stream, *args, **kwargs))

    functools.update_wrapper(call, method)
    return call


def _opening(
    method: Callable[Concatenate[Client, _P], Stream],
) -> Callable[Concatenate["BlockingClient", _P], "BlockingStream"]:
    def call(self: "BlockingClient", /, *args: _P.args, **kwargs: _P.kwargs) -> BlockingStream:
        return BlockingStream(method(self._client, *args, **kwargs), self._running())

    functools.update_wrapper(call, method)
    return call


class BlockingStream:
    """`Stream`, to be entered with `with` and iterated with `for`."""

    def __init__(self, stream: Stream, loop: _Loop) -> None:
        self._stream = stream
        self._loop = loop

    def __enter__(self) -> Self:
        self._loop.wait(self._stream.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def opened(self) -> StreamTerms:
        """Terms that were agreed; after a reconnection, those agreed then."""
        return self._stream.opened

    send = _waiting_on_stream(Stream.send)
    loan = _waiting_on_stream(Stream.loan)
    send_many = _waiting_on_stream(Stream.send_many)
    finish = _waiting_on_stream(Stream.finish)
    feedback = _waiting_on_stream(Stream.feedback)

    def key_of(self, frame_id: int) -> str:
        """Returns by what `Feedback` names the stream for that frame, as `key_of` of a `Stream` does."""
        return self._stream.key_of(frame_id)

    def close(self) -> None:
        """Ends the stream now: frames in flight are withdrawn, and outcomes that were not read are dropped."""
        if not is_forked() and not self._loop.stopped:  # else it is the parent's, or ended with its client
            self._loop.wait(self._stream.close())

    def cancel(self, frame_ids: Iterable[int]) -> None:
        """Withdraws frames that still wait; each of them is answered all the same. Other ids are ignored."""
        self._loop.soon(functools.partial(self._stream.cancel, tuple(frame_ids)))

    def __iter__(self) -> Iterator[Outcome]:
        return self

    def __next__(self) -> Outcome:
        """Returns the next outcome; ends and raises as iterating over a `Stream` does."""
        try:
            return self._loop.wait(self._stream.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def batches(self) -> Iterator[list[Outcome]]:
        """Iterates over the outcomes, all that wait at once, as `batches` of a `Stream` does."""
        with contextlib.suppress(StopAsyncIteration):
            while True:
                yield self._loop.wait(self._stream.next_batch())


class BlockingClient:
    """`Client`, to be entered with `with`. It takes the same arguments."""

    def __init__(
        self,
        target: str,
        *,
        wan: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        tls: Tls | None = None,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        token_in_clear_text: bool = False,
        reconnect: bool = True,
        reconnect_tries_max: int | None = None,
        open_timeout_s: float = 10.0,
        transport: Literal["grpc"] | None = None,
        local_memory_bytes: int = 0,
        spin_us: float = 0,
    ) -> None:
        self._client = Client(
            target,
            wan=wan,
            credentials=credentials,
            tls=tls,
            token=token,
            token_file=token_file,
            token_in_clear_text=token_in_clear_text,
            reconnect=reconnect,
            reconnect_tries_max=reconnect_tries_max,
            open_timeout_s=open_timeout_s,
            transport=transport,
            local_memory_bytes=local_memory_bytes,
            spin_us=spin_us,
        )
        self._loop: _Loop | None = None

    def __enter__(self) -> Self:
        using_grpc()
        if self._loop is not None:
            raise RuntimeError("the client is open already")
        self._loop = _Loop()
        self._loop.wait(self._client.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, every stream over it, and the private thread."""
        loop, self._loop = self._loop, None
        if loop is not None and not is_forked():  # else all that is the parent's
            loop.wait(self._client.close())
            loop.stop()

    def _running(self) -> _Loop:
        if self._loop is None:
            raise RuntimeError("the client is not open: enter it with `with`")
        return self._loop

    stream = _opening(Client.stream)
    infer = _waiting(Client.infer)
    feedback = _waiting(Client.feedback)
    models = _waiting(Client.models)
    model = _waiting(Client.model)
    load_model = _waiting(Client.load_model)
    unload_model = _waiting(Client.unload_model)
    activate_version = _waiting(Client.activate_version)
    trials = _waiting(Client.trials)
    start_trial = _waiting(Client.start_trial)
    veto_version = _waiting(Client.veto_version)
    server_info = _waiting(Client.server_info)
    statistics = _waiting(Client.statistics)
    drain = _waiting(Client.drain)
