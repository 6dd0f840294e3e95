"""Serves clients of openpi over WebSocket: each connection is a stream, each observation a frame with a deadline.

An observation is answered by a binary message with the actions, or, where there are none, by a text that says why,
which openpi-client raises as an exception. It is answered in time either way: the server of duly answers every frame by
its deadline. A bad observation costs its connection nothing, and others even less.
"""

import asyncio
import hmac
import http
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from duly_client import Client, DulyError, Outcome, Stream
from duly_gateways.openpi import msgpack_wire
from duly_gateways.openpi.mapping import BadObservation
from duly_gateways.openpi.settings import BUDGET_MS_MAX, Settings
from duly_gateways.settings_file import SettingsError

GRACE_S = 5.0
"""How long after its budget a request's outcome is waited for. It comes by its deadline if duly's server is there."""
HEALTH_S = 2.0
"""How long `/healthz` waits for duly's server to say that the model serves."""
CLOSE_REASON_BYTES_MAX = 123
"""How long the reason may be with which a WebSocket closes."""
REQUESTS_WAITING_MAX = 4
"""How many messages of one connection wait to be read; then nothing more is read from its socket."""
_TRY_AGAIN_LATER, _INTERNAL_ERROR = 1013, 1011


class Gateway:
    def __init__(self, client: Client, settings: Settings) -> None:
        """`client`: entered, and open as long as this serves."""
        self._client = client
        self._settings = settings
        self._connections = 0
        self.told: Callable[[str], None] = lambda _: None
        """Is told, in a line, what goes wrong that is not a client's fault."""

    async def serve(self, host: str, port: int) -> Server:
        """Begins to serve. Returns what it listens with."""
        return await serve(
            self._connection,
            host,
            port,
            process_request=self._admit,
            max_size=self._settings.message_bytes_max,
            max_queue=REQUESTS_WAITING_MAX,
            compression=None,
            server_header=None,
            ping_timeout=60,  # clients of openpi are busy for seconds now and then
        )

    # ---- before a connection ----

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answers what is no connection or may not be one; None: it goes on."""
        settings = self._settings
        if request.path.partition("?")[0] == "/healthz":
            trouble = await self._trouble()
            status = http.HTTPStatus.SERVICE_UNAVAILABLE if trouble else http.HTTPStatus.OK
            return connection.respond(status, f"{trouble or 'OK'}\n")
        if settings.api_key:
            shown = ", ".join(request.headers.get_all("Authorization"))
            if not hmac.compare_digest(shown.encode(errors="replace"), f"Api-Key {settings.api_key}".encode()):
                return connection.respond(http.HTTPStatus.UNAUTHORIZED, "the api_key is missing or wrong\n")
        try:
            _budget_ms(request.path, settings.budget_ms)
        except ValueError as error:
            return connection.respond(http.HTTPStatus.BAD_REQUEST, f"{error}\n")
        if self._connections >= settings.connections_max:
            text = f"{settings.connections_max} connections are open already (connections_max)\n"
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, text)
        return None

    async def _trouble(self) -> str:
        """Returns why the model does not serve; empty: it does."""
        try:
            async with asyncio.timeout(HEALTH_S):
                model = await self._client.model(self._settings.model)
        except TimeoutError:
            return "the server of duly does not answer"
        except DulyError as error:
            return str(error)
        return "" if model.active_version else f"model {self._settings.model!r} has no version that serves"

    # ---- a connection ----

    async def _connection(self, connection: ServerConnection) -> None:
        if self._connections >= self._settings.connections_max:  # several came at once
            await connection.close(_TRY_AGAIN_LATER, "too many connections (connections_max)")
            return
        self._connections += 1
        try:
            await self._serve_streams(connection)
        except ConnectionClosed:
            pass
        except SettingsError as error:
            self.told(str(error))
            await _close(connection, _INTERNAL_ERROR, str(error))
        except DulyError as error:
            await _close(connection, _TRY_AGAIN_LATER if error.recoverable else _INTERNAL_ERROR, str(error))
        finally:
            self._connections -= 1

    async def _serve_streams(self, connection: ServerConnection) -> None:
        settings = self._settings
        request = connection.request
        budget_ms = _budget_ms(request.path if request else "", settings.budget_ms)
        opening: dict[str, Any] = {"stream_class": settings.stream_class} if settings.stream_class else {}
        async with self._client.stream(
            settings.model, budget_ms=budget_ms or None, name="openpi", backlog="LATEST", **opening
        ) as stream:
            settings.observed.check(stream.opened)
            await connection.send(msgpack_wire.written(self._metadata(stream)))
            async for message in connection:
                await connection.send(await self._answer(stream, message))

    def _metadata(self, stream: Stream) -> dict[str, Any]:
        terms = stream.opened
        about = {
            "model": self._settings.model,
            "version": terms.version,
            "budget_ms": terms.default_budget_ns / 1e6,
            "planned_ms": terms.planned_latency_ns / 1e6,
            "inputs": {spec.name: f"{spec.datatype}{list(spec.shape)}" for spec in terms.inputs},
            "outputs": {spec.name: f"{spec.datatype}{list(spec.shape)}" for spec in terms.outputs},
        }
        return {"duly": about, **self._settings.metadata}

    async def _answer(self, stream: Stream, message: str | bytes) -> str | bytes:
        """Returns what a request is answered with: actions, or as a text why there are none."""
        began_ns = time.monotonic_ns()
        try:
            if isinstance(message, str):
                raise msgpack_wire.BadMessage("it is a text; an observation is a binary message")
            observation = msgpack_wire.read(message)
            payload = self._settings.observed.payload(observation, stream.opened.inputs)
            frame_id = await stream.send(payload)
            outcome = await _outcome(stream, frame_id)
        except msgpack_wire.BadMessage as error:
            return f"INVALID: the message cannot be read: {error}"
        except (BadObservation, ValueError, TypeError) as error:
            return f"INVALID: {error}"
        except TimeoutError:
            return "FAILED: the server of duly does not answer"
        if not outcome.ok:
            return f"{outcome.status.name}: {outcome.reason}"
        try:
            return msgpack_wire.written(self._settings.observed.answer(outcome, (time.monotonic_ns() - began_ns) / 1e6))
        except KeyError as error:  # another version has come, with other outputs
            return f"FAILED: version {outcome.version} gives no output {error}"


async def _outcome(stream: Stream, frame_id: int) -> Outcome:
    """Returns the outcome of a frame. Raises TimeoutError where none comes."""
    wait_s = stream.opened.default_budget_ns / 1e9 + GRACE_S
    async with asyncio.timeout(wait_s):
        while True:
            outcome = await anext(stream)
            if outcome.frame_id == frame_id:  # else it is of one that was given up
                return outcome


def _budget_ms(path: str, default_ms: float) -> float:
    """Returns the budget that an address asks for; 0: the model's own. Raises ValueError."""
    stated = parse_qs(path.partition("?")[2], max_num_fields=8).get("budget_ms")
    if not stated:
        return default_ms
    try:
        budget_ms = float(stated[-1])
    except ValueError:
        budget_ms = 0.0
    if not 0 < budget_ms <= BUDGET_MS_MAX:
        raise ValueError(
            f"budget_ms should be a number of milliseconds up to {BUDGET_MS_MAX:g}, got {stated[-1][:32]!r}"
        )
    return budget_ms


async def _close(connection: ServerConnection, code: int, reason: str) -> None:
    await connection.close(code, reason.encode()[:CLOSE_REASON_BYTES_MAX].decode(errors="ignore"))
