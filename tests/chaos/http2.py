"""HTTP/2 and gRPC by hand, so that a client can do what no library lets it do. It speaks from another loopback address
than those who behave, so that a server can tell them apart.
"""

import contextlib
import select
import socket
import struct
import time

from google.protobuf.message import Message

SOURCE = "127.0.0.2"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW = 4
WINDOW = 65_535
FRAME_BYTES_MAX = 16_384
STREAM = "/duly.v1.InferenceService/Stream"


class Gone(Exception):
    """The server closed the connection, or does not take any more."""


def headers(path: str, *more: tuple[str, str], authority: str = "localhost") -> bytes:
    """Returns the header block of a call; literals only, so that it needs no table and can be sent again and again."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", authority)]
    fields += [("te", "trailers"), ("content-type", "application/grpc"), *more]
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def _text(value: str) -> bytes:
    encoded = value.encode()
    assert len(encoded) < 127, "a longer one takes more than a byte of length"
    return bytes([len(encoded)]) + encoded


def framed(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def message(body: Message | bytes, compressed: bool = False) -> bytes:
    """Returns a gRPC message with its prefix."""
    data = body if isinstance(body, bytes) else body.SerializeToString()
    return bytes([compressed]) + struct.pack(">I", len(data)) + data


class Raw:
    """One connection. Nothing is read unless `drain` is called."""

    def __init__(self, address: str, *, window: int = WINDOW, source: str = SOURCE) -> None:
        """`window`: what the server may send on each stream. Raises Gone."""
        host, _, port = address.rpartition(":")
        try:
            self.socket = socket.create_connection((host, int(port)), 5.0, (source, 0))
        except OSError as error:
            raise Gone(str(error)) from None
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = -1
        self._window = WINDOW
        self._windows: dict[int, int] = {}
        self._initial = WINDOW
        self._received = b""
        self.reset: set[int] = set()
        """The streams that the server has ended."""
        self.data_bytes = 0
        """The bytes of outcomes that were read."""
        self.write(PREFACE + framed(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, window)))

    def write(self, data: bytes, timeout_s: float = 5.0) -> None:
        """Raises Gone where the server takes nothing for so long or has closed the connection."""
        self.socket.settimeout(timeout_s)
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Gone(str(error)) from None

    def call(self, path: str, *more: tuple[str, str]) -> int:
        """Begins a call and returns its stream."""
        self._stream += 2
        self._windows[self._stream] = self._initial
        self.write(framed(HEADERS, END_HEADERS, self._stream, headers(path, *more)))
        return self._stream

    def send(self, stream: int, body: bytes, end: bool = False, wait_s: float = 5.0) -> None:
        """Sends data as fast as the server's windows let it. Raises Gone where they stay shut for `wait_s`."""
        at = 0
        last_s = time.monotonic()
        while at < len(body):
            room = min(self._window, self._windows.get(stream, 0), FRAME_BYTES_MAX, len(body) - at)
            if stream in self.reset:
                raise Gone("the stream was ended")
            if room <= 0:
                if not self.drain(0.05) and time.monotonic() - last_s > wait_s:
                    raise Gone("no window")
                continue
            last_s = time.monotonic()
            part = body[at : at + room]
            at += room
            self._window -= room
            self._windows[stream] -= room
            self.write(framed(DATA, END_STREAM if end and at == len(body) else 0, stream, part))
            self.drain(0)
        if end and not body:
            self.write(framed(DATA, END_STREAM, stream))

    def drain(self, wait_s: float, grant: bool = True) -> bool:
        """Reads what has come. `grant`: lets the server send as much again. Returns False where nothing came. Raises
        Gone.
        """
        ready, _, _ = select.select([self.socket], [], [], wait_s)
        if not ready:
            return False
        try:
            data = self.socket.recv(1 << 18)
        except OSError as error:
            raise Gone(str(error)) from None
        if not data:
            raise Gone("closed")
        self._received += data
        while len(self._received) >= 9:
            size = int.from_bytes(self._received[:3], "big")
            if len(self._received) < 9 + size:
                break
            kind, flags = self._received[3], self._received[4]
            stream = int.from_bytes(self._received[5:9], "big")
            payload, self._received = self._received[9 : 9 + size], self._received[9 + size :]
            self._frame(kind, flags, stream, payload, grant)
        return True

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes, grant: bool) -> None:
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                setting, value = struct.unpack_from(">HI", payload, at)
                if setting == INITIAL_WINDOW:
                    self._windows = {key: size + value - self._initial for key, size in self._windows.items()}
                    self._initial = value
            self.write(framed(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.write(framed(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            size = int.from_bytes(payload, "big")
            if stream:
                self._windows[stream] = self._windows.get(stream, 0) + size
            else:
                self._window += size
        elif kind == DATA:
            self.data_bytes += len(payload)
            if grant and payload:
                size_bytes = struct.pack(">I", len(payload))
                self.write(framed(WINDOW_UPDATE, 0, 0, size_bytes) + framed(WINDOW_UPDATE, 0, stream, size_bytes))
        elif kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM):
            self.reset.add(stream)
        elif kind == GOAWAY:
            raise Gone("sent away")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()
