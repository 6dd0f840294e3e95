"""One bidirectional call of grpc.aio, without what grpc.aio's own `read` and `write` put around each message.

Those pass through several coroutines, and a write needs a task that awaits it. Where that task is cancelled, the whole
call ends; where the server ends the call during a write, the server's status is replaced by INTERNAL, and what it sent
before is lost. The operations beneath are coroutines, too, which begin at their first step and give a future that is
done when they can go on. So a write begins at once, in whoever asks for it, and no task waits for it.

Nothing else knows these operations, which are not part of grpc.aio's interface. With a version of it that has others,
all goes through its interface, with the above.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

_OPERATIONS = ("receive_serialized_message", "send_serialized_message", "send_receive_close")
_OVER = (grpc.aio.InternalError, grpc.aio.AioRpcError, asyncio.InvalidStateError)
"""What a write raises whose call is over, beneath grpc.aio's interface or through it."""


class _Interface:
    """The operations by what grpc.aio promises."""

    def __init__(self, call: "grpc.aio.StreamStreamCall[Any, Any]") -> None:
        self._call = call
        self.send_serialized_message = call.write
        self.send_receive_close = call.done_writing

    async def receive_serialized_message(self) -> object:
        try:
            return await self._call.read()
        except grpc.aio.AioRpcError:
            return grpc.aio.EOF


class Call:
    """A call whose messages are bytes. `on_written` is called when what `write` or `half_close` began is done (True) or
    will not be, because the call is over (False).
    """

    def __init__(self, call: "grpc.aio.StreamStreamCall[Any, Any]", on_written: Callable[[bool], None]) -> None:
        self._call = call
        operations: Any = getattr(call, "_cython_call", None)
        beneath = all(hasattr(operations, name) for name in _OPERATIONS)
        self._operations: Any = operations if beneath else _Interface(call)
        self.receive: Callable[[], Coroutine[Any, None, Any]] = self._operations.receive_serialized_message
        """Returns the next message, or grpc.aio.EOF: then `ended` says why."""
        self._on_written = on_written
        self._writing: asyncio.Future[None] | None = None

    async def first_exchange(self, message: bytes) -> bytes | None:
        """Writes the first message and returns the server's first; None: it ended the call instead, see `ended`."""
        await self._call.wait_for_connection()
        with contextlib.suppress(*_OVER):  # the call is over already; reading raises why
            await self._operations.send_serialized_message(message)
        first = await self._call.read()
        return first if isinstance(first, bytes) else None

    async def ended(self) -> None:
        """What `receive` gave was grpc.aio.EOF. Returns where the server ended the call with status OK. Raises
        AioRpcError where the server or the network ended it otherwise, and CancelledError where this side did.
        """
        await self._call.code()  # until the status is there, too
        await self._call.read()

    def write(self, message: bytes) -> None:
        """Begins to write. No other write may be under way."""
        self._step(self._operations.send_serialized_message(message))

    def half_close(self) -> None:
        """Begins to end this side of the call. No write may be under way."""
        self._step(self._operations.send_receive_close())

    def _step(self, operation: Coroutine[Any, None, None], _: object = None) -> None:
        """Goes on with what is being written, to its end or to what it waits for next."""
        self._writing = None
        try:
            self._writing = waits_for = operation.send(None)
        except StopIteration:
            self._on_written(True)
        except _OVER:
            self._on_written(False)
        else:
            waits_for.add_done_callback(functools.partial(self._step, operation))

    async def close(self) -> None:
        """Ends the call. A pending `receive` gives EOF."""
        self._call.cancel()
        if self._writing is not None:
            await asyncio.wait((self._writing,))
