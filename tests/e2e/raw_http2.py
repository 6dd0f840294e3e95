"""A client that speaks HTTP/2 and no more, so that it can leave its flow-control window shut."""

import asyncio

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes


class ShutWindow:
    """A connection whose window is 0 octets wide: the server can begin answers, and send nothing of them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._state = H2Connection(H2Configuration(client_side=True))
        self._state.initiate_connection()
        self._state.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})  # what is set before is not sent
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, address: str) -> "ShutWindow":
        host, _, port = address.rpartition(":")
        client = cls(*await asyncio.open_connection(host, int(port)))
        await client._send()
        return client

    async def call(self, address: str, path: str, message: bytes, end: bool = True) -> None:
        """Begins a call with one message. `end`: no more will come."""
        stream_id = self._state.get_next_available_stream_id()
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": address,
            "te": "trailers",
            "content-type": "application/grpc",
        }
        self._state.send_headers(stream_id, list(headers.items()))
        self._state.send_data(stream_id, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=end)
        await self._send()

    async def _send(self) -> None:
        self._writer.write(self._state.data_to_send())
        await self._writer.drain()

    async def _read(self) -> None:
        """Answers what the connection itself asks, such as pings, until the server ends it."""
        while data := await self._reader.read(65_536):
            self._state.receive_data(data)
            await self._send()

    async def ended(self) -> None:
        """Returns when the server has ended the connection."""
        await self._reading

    async def close(self) -> None:
        self._writer.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
