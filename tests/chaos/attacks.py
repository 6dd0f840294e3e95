"""One hostile client, in a process of its own: `python -m tests.chaos.attacks NAME --address A --seconds S --seed N`.

It goes on until the time is over, connects again where the server sends it away, and prints what it did as JSON.
"""

import argparse
import contextlib
import gzip
import json
import os
import random
import socket
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from duly.v1 import inference_pb2 as pb
from duly.v1 import server_pb2, tensor_pb2
from tests.chaos import http2
from tests.chaos.http2 import Gone, Raw, framed, message
from tests.chaos.kserve_attacks import KSERVE_ATTACKS

PERIOD_NS = 10_000_000
BIG = 900_000
"""Elements of a large output: 3.6 MB."""
QUAD = 16_000
"""Elements of an input whose square a worker is made to hold: 1 GB."""
PNG_PIXELS = 8191


@dataclass(slots=True)
class Field:
    """What an attack has to work with."""

    address: str
    metrics: str
    until_s: float
    chance: random.Random
    prepared: bytes = b""
    """What was made before the time began to run."""
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def on(self) -> bool:
        return time.monotonic() < self.until_s

    def connect(self, **options: int) -> Raw:
        self.counts["connections"] += 1
        return Raw(self.address, **options)  # type: ignore[arg-type]

    def hold(self, *connections: Raw, read: bool = True) -> None:
        """Keeps connections until the time is over."""
        left = list(connections)
        while self.on and left:
            for raw in list(left):
                try:
                    if read:
                        raw.drain(0.01)
                except Gone:
                    self.counts["sent away"] += 1
                    left.remove(raw)
            time.sleep(0.02)


def opening(model: str = "double", stream_class: int = 3, **more: object) -> bytes:
    asked = {"backlog_policy": 3, "default_budget_nano": 60 * 10**9} | more
    return message(pb.StreamRequest(open=pb.OpenStream(model=model, stream_class=stream_class, **asked)))  # type: ignore[arg-type]


def frames(*ids: int, size: int = 4, budget_ns: int = 0, **fields: object) -> bytes:
    tensor = tensor_pb2.Tensor(name="x", datatype=tensor_pb2.DATA_TYPE_FP32, shape=[size], data=bytes(4 * size))
    made = [pb.Frame(frame_id=number, budget_nano=budget_ns, tensors=[tensor]) for number in ids]
    return message(pb.StreamRequest(frames=pb.FrameBatch(frames=made)))


def stream_of(raw: Raw, **asked: object) -> int:
    stream = raw.call(http2.STREAM)
    raw.send(stream, opening(**asked))  # type: ignore[arg-type]
    return stream


def health_window_0(field: Field) -> None:
    """Watches health with a window of nothing."""
    raws = []
    for name in (b"", b"double", b"duly.v1.InferenceService"):
        raw = field.connect(window=0)
        stream = raw.call("/grpc.health.v1.Health/Watch")
        raw.send(stream, message(b"\n" + bytes([len(name)]) + name if name else b""), end=True)
        raws.append(raw)
    field.hold(*raws, read=False)


def health_watchers(field: Field) -> None:
    raw = field.connect()
    with contextlib.suppress(Gone):
        while field.on and field.counts["watchers"] < 1300:
            stream = raw.call("/grpc.health.v1.Health/Watch")
            raw.send(stream, message(b""), end=True)
            field.counts["watchers"] += 1
            if field.counts["watchers"] % 50 == 0:
                raw.drain(0)
    field.hold(raw)


def silent_calls(field: Field) -> None:
    raws = []
    with contextlib.suppress(Gone):
        for _ in range(8):
            raw = field.connect()
            raws.append(raw)
            for _ in range(16):
                raw.call(http2.STREAM)
                field.counts["silent calls"] += 1
    while field.on:
        raw = field.chance.choice(raws)
        try:
            raw.call(http2.STREAM)
            raw.drain(0)
            field.counts["silent calls"] += 1
        except Gone:
            raws.remove(raw)
            with contextlib.suppress(Gone):
                raws.append(field.connect())
            if not raws:
                break
        time.sleep(0.05)


def empty_frames(field: Field) -> None:
    """Sends messages of two million empty frames each."""
    batch = b"\n\x00" * 2_097_000
    body = b"\x12" + _varint(len(batch)) + batch
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            stream = stream_of(raw)
            while field.on:
                raw.send(stream, message(body))
                field.counts["messages"] += 1
        time.sleep(0.05)


def nested_frames(field: Field) -> None:
    """Sends one frame with a million empty tensors, and one with a million extents."""
    tensors = b"\x2a\x00" * 1_000_000
    shape = b"\x1a" + _varint(1_900_000) + bytes(1_900_000)
    extents = b"\x2a" + _varint(len(shape)) + shape
    bodies = []
    for frame in (b"\x08\x01" + tensors, b"\x08\x02" + extents):
        batch = b"\n" + _varint(len(frame)) + frame
        bodies.append(b"\x12" + _varint(len(batch)) + batch)
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            stream = stream_of(raw)
            for body in bodies:
                raw.send(stream, message(body))
                field.counts["messages"] += 1
        time.sleep(0.02)


def arrival_hold(field: Field) -> None:
    """Holds outcomes behind a frame that waits, under ARRIVAL."""
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            stream = stream_of(raw, model="slow", ordering=1)
            # The head waits for its lane; all behind it are refused at once and wait for the head.
            raw.send(stream, frames(*range(1, 250), size=1))
            number = 1000
            while field.on:
                body = b"".join(_tagged(b"\x08" + _varint(each)) for each in range(number, number + 20_000))
                number += 20_000
                raw.send(stream, message(b"\x12" + _varint(len(body)) + body))
                field.counts["frames"] += 20_000


def slow_reader(field: Field) -> None:
    """Asks for large outputs and does not read them."""
    raws: list[Raw] = []
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect(window=1000)
            raws.append(raw)
            stream = stream_of(raw, model="large")
            for number in range(1, 200):
                if not field.on:
                    break
                tensor = tensor_pb2.Tensor(
                    name="x", datatype=tensor_pb2.DATA_TYPE_INT64, shape=[1], data=struct.pack("<q", BIG)
                )
                made = pb.Frame(frame_id=number, tensors=[tensor])
                raw.send(stream, message(pb.StreamRequest(frames=pb.FrameBatch(frames=[made]))), wait_s=0.5)
                field.counts["frames"] += 1
                time.sleep(0.003)
    for raw in raws:
        raw.close()


def payload_fill(field: Field) -> None:
    """Fills the memory for payloads with BEST_EFFORT frames that never run."""
    raws = []
    with contextlib.suppress(Gone):
        for _ in range(24):
            raw = field.connect()
            raws.append(raw)
            stream = stream_of(raw, model="wide")
            for number in range(1, 17):
                if field.on:
                    raw.send(stream, frames(number, size=900_000), wait_s=0.3)
                    field.counts["MB sent"] += 4
    field.hold(*raws)


def claim_critical(field: Field) -> None:
    """Claims CRITICAL with all kinds of periods and sends as fast as it can."""
    asked = [{}, {"expected_period_nano": 60 * 10**9}, {"expected_period_nano": PERIOD_NS}]
    while field.on:
        with contextlib.suppress(Gone):
            raws = []
            for each in asked:
                raw = field.connect()
                raws.append((raw, stream_of(raw, stream_class=1, **each)))
            number = 0
            while field.on:
                number += 8
                for raw, stream in list(raws):
                    try:
                        raw.send(stream, frames(*range(number, number + 8), budget_ns=10**9), wait_s=0.2)
                        raw.drain(0)
                        field.counts["frames"] += 8
                    except Gone:
                        raws.remove((raw, stream))
                if not raws:
                    break
                time.sleep(0.002)
        time.sleep(0.05)


def _png(side: int, colour: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    squeeze = zlib.compressobj(9)
    row = bytes(1 + side * (3 if colour == 2 else 1))
    pixels = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def large_pictures(field: Field) -> None:
    """Sends PNGs of 67 megapixels, a few hundred KB each."""
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            stream = stream_of(raw, model="picture")
            number = 0
            while field.on:
                number += 1
                encoded = tensor_pb2.Encoded(name="x", format=tensor_pb2.ENCODED_FORMAT_PNG, data=field.prepared)
                made = pb.Frame(frame_id=number, encoded=[encoded])
                raw.send(stream, message(pb.StreamRequest(frames=pb.FrameBatch(frames=[made]))))
                raw.drain(0.05)
                field.counts["frames"] += 1


def quad_shape(field: Field) -> None:
    """Sends an input of open length whose square the worker has to hold."""
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            stream = stream_of(raw, model="quad")
            number = 0
            while field.on:
                number += 1
                raw.send(stream, frames(number, size=QUAD))
                raw.drain(0.05)
                field.counts["frames"] += 1


def statistics(field: Field) -> None:
    """Subscribes to statistics a thousand times, and asks for them as often as it can."""
    raws = [field.connect() for _ in range(10)]
    body = message(server_pb2.WatchStatisticsRequest(period_nano=100_000_000))
    for index in range(1000):
        if not field.on:
            break
        with contextlib.suppress(Gone):
            raw = raws[index % 10]
            raw.send(raw.call("/duly.v1.ServerService/WatchStatistics"), body, end=True)
            field.counts["watchers"] += 1
    while field.on:
        for raw in raws:
            with contextlib.suppress(Gone):
                raw.drain(0)
                raw.send(raw.call("/duly.v1.ServerService/GetStatistics"), message(b""), end=True, wait_s=0.1)
                field.counts["calls"] += 1


def clock_pings(field: Field) -> None:
    """Asks for the time as fast as it can, many times in one message's turn."""
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            stream = stream_of(raw)
            ping = message(pb.StreamRequest(clock_ping=pb.ClockPing(ping_id=1, client_send_unix_nano=time.time_ns())))
            many = ping * 200
            while field.on:
                raw.send(stream, many)
                raw.drain(0)
                field.counts["pings"] += 200


def cancels(field: Field) -> None:
    """Cancels frames that are not there, thousands in a message."""
    body = message(pb.StreamRequest(cancel=pb.CancelFrames(frame_ids=range(1, 100_000))))
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            stream = stream_of(raw)
            while field.on:
                raw.send(stream, body)
                raw.drain(0)
                field.counts["cancels"] += 100_000


def hpack_bomb(field: Field) -> None:
    """Puts a long header into the table and names it thousands of times in each call."""
    name, value = b"x", b"v" * 4000
    added = b"\x40" + bytes([len(name)]) + name + b"\x7f" + _varint(len(value) - 127) + value
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            block = http2.headers(http2.STREAM)
            raw.write(framed(http2.HEADERS, 4, 1, block + added))
            number = 1
            while field.on:
                number += 2
                raw.write(framed(http2.HEADERS, 4, number, block + b"\xbe" * 15_000))
                raw.drain(0)
                field.counts["calls"] += 1


def partial_messages(field: Field) -> None:
    """Sends messages that lack their last byte, on many streams."""
    raws = []
    body = message(bytes(4_000_000))[:-1]
    with contextlib.suppress(Gone):
        for _ in range(200):
            if not field.on:
                break
            raw = field.connect()
            raws.append(raw)
            stream = stream_of(raw)
            with contextlib.suppress(Gone):
                raw.send(stream, body, wait_s=0.1)
            field.counts["partial messages"] += 1
    field.hold(*raws)


def idle_connections(field: Field) -> None:
    """Takes all connections that it can get and says nothing."""
    host, _, port = field.address.rpartition(":")
    held = []
    while field.on:
        try:
            held.append(socket.create_connection((host, int(port)), 0.5, (http2.SOURCE, 0)))
            field.counts["connections"] += 1
        except OSError:
            time.sleep(0.05)
        if len(held) > 4000:
            time.sleep(0.05)
    for each in held:
        each.close()


def metrics_slowly(field: Field) -> None:
    """Asks for metrics a byte at a time, on many connections."""
    host, _, port = field.metrics.rpartition(":")
    held: list[socket.socket] = []
    text = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 10_000
    at = 0
    while field.on:
        with contextlib.suppress(OSError):
            if len(held) < 200:
                held.append(socket.create_connection((host, int(port)), 0.5, (http2.SOURCE, 0)))
                field.counts["connections"] += 1
        for each in list(held):
            try:
                each.send(text[at : at + 1])
            except OSError:
                held.remove(each)
        at += 1
        time.sleep(0.01)


def rapid_reset(field: Field) -> None:
    block = http2.headers(http2.STREAM)
    cancel = struct.pack(">I", 8)
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            number = 1
            while field.on:
                out = b""
                for _ in range(50):
                    out += framed(http2.HEADERS, 4, number, block) + framed(http2.RST_STREAM, 0, number, cancel)
                    number += 2
                raw.write(out)
                raw.drain(0)
                field.counts["resets"] += 50


def _flood(field: Field, one: bytes) -> None:
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            while field.on:
                raw.write(one * 100)
                raw.drain(0)
                field.counts["frames"] += 100


def settings_flood(field: Field) -> None:
    _flood(field, framed(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535)))


def ping_flood(field: Field) -> None:
    _flood(field, framed(http2.PING, 0, 0, bytes(8)))


def continuation_flood(field: Field) -> None:
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            raw.write(framed(http2.HEADERS, 0, 1, http2.headers(http2.STREAM)))
            while field.on:
                raw.write(framed(http2.CONTINUATION, 0, 1, b"\x00\x01x\x7e" + b"y" * 126) * 50)
                raw.drain(0)
                field.counts["frames"] += 50


def gzip_bomb(field: Field) -> None:
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            stream = raw.call(http2.STREAM, ("grpc-encoding", "gzip"))
            raw.send(stream, field.prepared)
            raw.drain(0.2)
            field.counts["bombs"] += 1
        time.sleep(0.02)


def hopeless_frames(field: Field) -> None:
    """Sends frames that do not fit as fast as it can."""
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            stream = stream_of(raw)
            number = 1
            while field.on:
                raw.send(stream, frames(*range(number, number + 64), size=5))
                raw.drain(0)
                number += 64
                field.counts["frames"] += 64


def opens(field: Field) -> None:
    """Opens streams and closes them at once."""
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            while field.on:
                stream = raw.call(http2.STREAM)
                raw.send(stream, opening(expected_period_nano=PERIOD_NS), end=True)
                raw.drain(0)
                field.counts["opens"] += 1


def vanish(field: Field) -> None:
    """Connects, sends a stream's bytes up to any one of them, and is gone, now and then with a reset."""
    whole = http2.PREFACE + framed(http2.SETTINGS, 0, 0) + framed(http2.HEADERS, 4, 1, http2.headers(http2.STREAM))
    whole += framed(http2.DATA, 0, 1, opening()) + framed(http2.DATA, 0, 1, frames(1, 2, 3))
    whole += framed(http2.DATA, 0, 1, message(pb.StreamRequest(cancel=pb.CancelFrames(frame_ids=[2]))))
    whole += framed(http2.DATA, 1, 1, frames(4, 5))
    host, _, port = field.address.rpartition(":")
    while field.on:
        try:
            with socket.create_connection((host, int(port)), 2.0, (http2.SOURCE, 0)) as connection:
                connection.sendall(whole[: field.chance.randint(0, len(whole))])
                if field.chance.random() < 0.3:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif field.chance.random() < 0.2:
                    connection.settimeout(0.02)
                    connection.recv(4096)
        except OSError:
            field.counts["refused"] += 1
        field.counts["vanished"] += 1
        if field.counts["vanished"] >= field.counts["wanted"] > 0:
            break


def slow_readers(field: Field) -> None:
    """A hundred streams that send at a sensor's rate and read next to nothing."""
    raws = []
    with contextlib.suppress(Gone):
        for _ in range(100):
            raw = field.connect(window=200)
            raws.append((raw, stream_of(raw)))
    number = 0
    while field.on and raws:
        number += 1
        for raw, stream in list(raws):
            try:
                raw.send(stream, frames(number), wait_s=0.05)
                field.counts["frames"] += 1
            except Gone:
                field.counts["sent away"] += 1
                raws.remove((raw, stream))
        time.sleep(0.05)


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def _tagged(body: bytes) -> bytes:
    return b"\n" + _varint(len(body)) + body


ATTACKS: dict[str, Callable[[Field], None]] = {
    attack.__name__: attack
    for attack in (
        health_window_0,
        health_watchers,
        silent_calls,
        empty_frames,
        nested_frames,
        arrival_hold,
        slow_reader,
        payload_fill,
        claim_critical,
        large_pictures,
        quad_shape,
        statistics,
        clock_pings,
        cancels,
        hpack_bomb,
        partial_messages,
        idle_connections,
        metrics_slowly,
        rapid_reset,
        settings_flood,
        ping_flood,
        continuation_flood,
        gzip_bomb,
        hopeless_frames,
        opens,
        vanish,
        slow_readers,
    )
} | KSERVE_ATTACKS


PREPARED: dict[str, Callable[[], bytes]] = {
    "large_pictures": lambda: _png(PNG_PIXELS, 2),
    "gzip_bomb": lambda: message(gzip.compress(bytes(200_000_000), 6), compressed=True),
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=ATTACKS)
    parser.add_argument("--address", required=True)
    parser.add_argument("--metrics", default="")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wanted", type=int, default=0)
    asked = parser.parse_args()
    os.nice(10)
    prepared = PREPARED.get(asked.name, bytes)()
    until_s = time.monotonic() + asked.seconds
    field = Field(asked.address, asked.metrics, until_s, random.Random(asked.seed), prepared)
    if asked.wanted:
        field.counts["wanted"] = asked.wanted
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    try:
        ATTACKS[asked.name](field)
    except Gone as error:
        field.counts[f"ended: {error}"] += 1
    sys.stdout.write(json.dumps(field.counts) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
