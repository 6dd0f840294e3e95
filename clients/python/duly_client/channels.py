"""The connection to a server, which is made anew for later calls when the files of TLS have changed."""

import asyncio
from typing import Any

import grpc

from duly_client.credentials import Tls

Options = tuple[tuple[str, Any], ...]

OPTIONS: Options = (
    ("grpc.max_receive_message_length", -1),  # the server bounds what it sends
    ("grpc.enable_retries", 0),  # a frame is never sent twice
    # Clock pings make data flow each 10 s, so that no server takes keepalive at this pace for abuse.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),  # each client has a connection and a backoff of its own
)
LAN_OPTIONS: Options = (
    # Outcomes that nobody reads yet stay with the server, which knows what is stale, not in the transport.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 * 1024),
)


class _Channel:
    """One channel, and how many calls it has."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.calls = 0


class Channels:
    """One channel at a time; those before it live as long as their calls."""

    def __init__(
        self, target: str, options: Options, tls: Tls | None, credentials: grpc.ChannelCredentials | None
    ) -> None:
        """Raises ValueError where the files of TLS cannot be used."""
        self._target = target
        self._options = options + (tls.options() if tls is not None else ())
        self._tls = tls
        self._stamps = tls.stamps if tls is not None else ()
        self._credentials = tls.read() if tls is not None else credentials
        self._newest = self._open()
        self._earlier: list[_Channel] = []
        self._closing: set[asyncio.Task[None]] = set()

    def _open(self) -> _Channel:
        if self._credentials is None:
            return _Channel(grpc.aio.insecure_channel(self._target, self._options))
        return _Channel(grpc.aio.secure_channel(self._target, self._credentials, self._options))

    def channel(self) -> grpc.aio.Channel:
        """Returns the channel for the next call, which is to be counted by `began`."""
        if self._tls is not None and (stamps := self._tls.stamps) != self._stamps:
            try:
                self._credentials = self._tls.read()
            except ValueError:
                pass  # the files are being replaced: until they fit together, those before will do
            else:
                self._stamps = stamps
                self._earlier.append(self._newest)
                self._newest = self._open()
                self._close_idle()
        return self._newest.channel

    def began(self, call: grpc.aio.Call) -> None:
        """Counts a call over the channel that `channel` has just returned."""
        used = self._newest
        used.calls += 1

        def over(_: object) -> None:
            used.calls -= 1
            if not used.calls:
                self._close_idle()

        call.add_done_callback(over)

    def _close_idle(self) -> None:
        for earlier in [earlier for earlier in self._earlier if not earlier.calls]:
            self._earlier.remove(earlier)
            closing = asyncio.get_running_loop().create_task(earlier.channel.close(None))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        for each in (*self._earlier, self._newest):
            await each.channel.close(None)
