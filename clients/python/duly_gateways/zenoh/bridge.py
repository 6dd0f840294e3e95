"""One bridge: samples come in from Zenoh's threads, each key has a stream, and outcomes are published.

All of it lives in the event loop but for `arrived`, which threads call. Bounds: so many samples wait to be taken by the
loop, and by each key, and so many bytes of them; an older one that waits gives way to a newer one and is told. Errors
are told at most ten times a second; how many were not is said with the next.
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from duly_client import Client, DulyError, Outcome, Stream
from duly_gateways.zenoh import samples
from duly_gateways.zenoh.samples import BadSample
from duly_gateways.zenoh.settings import Bridge

ARRIVING_MAX = 256
"""How many samples of a bridge wait for the event loop; further ones are dropped and counted."""
WAITING_MAX = 16
"""How many samples of one key wait to be sent; an older one gives way to a newer one."""
HELD_BYTES_MAX = 256 << 20
"""How many bytes samples of a bridge may have that wait, in all; further ones are dropped and counted."""
ERRORS_PER_S = 10
"""How many errors of a bridge are published in a second."""
RETRY_S = 1.0
"""How long after a stream was refused its key is tried again; samples meanwhile are told why."""
ATTACHMENT_BYTES_MAX = 4096
"""A longer attachment of a sample is not given back with its outcome."""
ATTACHMENTS_MAX = 512
"""Of so many frames of a key in flight the attachment is held."""

Publish = Callable[[str, bytes, str, bytes], None]
"""Publishes at a key: (key, payload, encoding, attachment)."""


@dataclass(frozen=True, slots=True)
class Sample:
    key: str
    encoding: str
    data: bytes
    """Nothing of a sample that is too large."""
    size_bytes: int
    captured_ns: int
    """When it was captured, ns since 1970; 0: when it came."""
    attachment: bytes
    """What is given back with its outcome."""
    shared: bool
    """Whether it came through shared memory."""


class Bridging:
    """A bridge at work."""

    def __init__(self, bridge: Bridge, client: Client, publish: Publish) -> None:
        self.bridge = bridge
        self.counts: Counter[str] = Counter()
        """Samples, those of them through shared memory, those that were dropped, errors, and outcomes by status."""
        self._client = client
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._keys: dict[str, _Key] = {}
        self._arriving = 0
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._errors: deque[float] = deque(maxlen=ERRORS_PER_S)
        self._not_told = 0

    @property
    def keys(self) -> int:
        """How many keys have a stream."""
        return len(self._keys)

    def arrived(self, sample: Sample) -> None:
        """Takes a sample, from any thread. It never waits."""
        with self._lock:
            if self._arriving >= ARRIVING_MAX or self._held_bytes + len(sample.data) > HELD_BYTES_MAX:
                self.counts["dropped"] += 1
                return
            self._arriving += 1
            self._held_bytes += len(sample.data)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._take, sample)

    def _take(self, sample: Sample) -> None:
        with self._lock:
            self._arriving -= 1
        self.counts["samples"] += 1
        self.counts["shared"] += sample.shared
        if sample.size_bytes > self.bridge.sample_bytes_max:
            text = f"the sample has {sample.size_bytes} bytes, at most {self.bridge.sample_bytes_max} are taken"
            self.tell(sample.key, "INVALID", f"{text} (sample_bytes_max)")
            self.gone(sample)
            return
        key = self._keys.get(sample.key)
        if key is None:
            if len(self._keys) >= self.bridge.keys_max:
                text = f"{self.bridge.keys_max} keys have a stream already (keys_max)"
                self.tell(sample.key, "SHED", text)
                self.gone(sample)
                return
            key = self._keys[sample.key] = _Key(self, sample.key, self._client, self._forget)
        key.put(sample)

    def gone(self, sample: Sample) -> None:
        """Notes that a sample waits no more."""
        with self._lock:
            self._held_bytes -= len(sample.data)

    def _forget(self, key: str) -> None:
        self._keys.pop(key, None)

    def tell(self, key: str, status: str, reason: str) -> None:
        """Says what was wrong with a sample that became no frame."""
        self.counts["errors"] += 1
        now_s = time.monotonic()
        if len(self._errors) == ERRORS_PER_S and now_s - self._errors[0] < 1.0:
            self._not_told += 1
            return
        self._errors.append(now_s)
        told, self._not_told = samples.error_json(key, status, reason, self._not_told), 0
        self._publish(self.bridge.errors.replace("{key}", key), told, samples.JSON, b"")

    def publish(self, key: str, outcome: Outcome, attachment: bytes) -> None:
        self.counts[outcome.status.name] += 1
        if self.bridge.form == "json":
            written, encoding = samples.outcome_json(outcome, key), samples.JSON
        else:
            written, encoding = samples.outcome_protobuf(outcome), f"{samples.PROTOBUF};{samples.OUTCOME_SCHEMA}"
        self._publish(self.bridge.publish.replace("{key}", key), written, encoding, attachment)

    async def close(self) -> None:
        for key in list(self._keys.values()):
            await key.close()


class _Key:
    """One key, and its stream while samples come."""

    def __init__(self, bridging: Bridging, key: str, client: Client, forget: Callable[[str], None]) -> None:
        self._bridging = bridging
        self._key = key
        self._client = client
        self._forget = forget
        self._waiting: deque[Sample] = deque()
        self._changed = asyncio.Event()
        self._attachments: dict[int, bytes] = {}
        """By the id of frames in flight."""
        self._task = asyncio.create_task(self._run())

    def put(self, sample: Sample) -> None:
        if len(self._waiting) >= WAITING_MAX:
            self._next()
            self._bridging.tell(self._key, "SUPERSEDED", "a newer sample came before this one could be sent")
        self._waiting.append(sample)
        self._changed.set()

    def _next(self) -> Sample:
        """Takes out the sample that has waited longest."""
        sample = self._waiting.popleft()
        self._bridging.gone(sample)
        return sample

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        """Serves the key until nothing has come for `idle_s`."""
        try:
            while await self._sample_came():
                try:
                    await self._stream()
                except DulyError as error:
                    refused = f"{error.reason or 'UNAVAILABLE'}: {error}"
                    self._refuse(refused)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(RETRY_S):
                            while True:
                                self._changed.clear()
                                await self._changed.wait()
                                self._refuse(refused)
        finally:
            self._forget(self._key)

    def _refuse(self, reason: str) -> None:
        while self._waiting:
            self._next()
            self._bridging.tell(self._key, "CANCELLED", reason)

    async def _sample_came(self) -> bool:
        """Waits for a sample. Returns whether one came within `idle_s`."""
        if not self._waiting:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._bridging.bridge.idle_s):
                    await self._changed.wait()
        return bool(self._waiting)

    async def _stream(self) -> None:
        """Streams samples until none has come for `idle_s`."""
        bridge = self._bridging.bridge
        more: dict[str, Any] = {"period_ms": bridge.period_ms} if bridge.period_ms else {}
        async with self._client.stream(
            bridge.model,
            budget_ms=bridge.budget_ms or None,
            name=self._key.encode()[:100].decode(errors="ignore"),
            stream_class=bridge.stream_class,
            backlog=bridge.backlog,
            backlog_frames=bridge.backlog_frames,
            follow_advice=bridge.follow_advice,
            **more,
        ) as stream:
            reading = asyncio.create_task(self._read(stream))
            try:
                while await self._sample_came():
                    await self._send(stream, self._next())
                    if reading.done():
                        break
                else:
                    await stream.finish()
                await reading
            finally:
                reading.cancel()
                self._attachments.clear()

    async def _send(self, stream: Stream, sample: Sample) -> None:
        bridge = self._bridging.bridge
        try:
            payload = samples.payload_of(
                sample.encoding, sample.data, stream.opened.inputs, bridge.datatype, bridge.shape
            )
            frame_id = await stream.send(payload, capture_time_ns=sample.captured_ns or None)
        except (BadSample, ValueError, TypeError) as error:
            self._bridging.tell(self._key, "INVALID", str(error))
            return
        except (DulyError, RuntimeError) as error:  # the stream has ended, as `_read` says, too
            reason = error.reason if isinstance(error, DulyError) else ""
            self._bridging.tell(self._key, "CANCELLED", f"{reason or 'UNAVAILABLE'}: {error}")
            return
        if sample.attachment:
            self._attachments[frame_id] = sample.attachment
            if len(self._attachments) > ATTACHMENTS_MAX:
                del self._attachments[next(iter(self._attachments))]

    async def _read(self, stream: Stream) -> None:
        async for outcome in stream:
            self._bridging.publish(self._key, outcome, self._attachments.pop(outcome.frame_id, b""))
