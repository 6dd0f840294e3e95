"""What goes out on one local stream: its terms, then outcomes and notices, as fast as the client takes them."""

import asyncio
from collections.abc import Sequence

from duly.rpc.duly_v1.notices import told
from duly.rpc.duly_v1.tensors import chunk_of, tensor_spec
from duly.rpc.local.areas import FrameArea, OutcomeArea
from duly.rpc.local.errors import reason_of
from duly.rpc.local.layout import OPENED, OPENED_HEAD, OUTPUTS, PART, PART_WHOLE, RESPONSE, VERSION
from duly.rpc.local.outcomes import Message, OutcomeWriter
from duly.rpc.local.packets import Gone, Packets, tell
from duly.runtime.outcome import Outcome
from duly.streams.outbox import Opened
from duly.streams.stream import Stream
from duly.v1 import inference_pb2


class Outgoing:
    def __init__(self, packets: Packets, stream: Stream, frames: FrameArea, area: OutcomeArea, greeting: bytes) -> None:
        """`area`: for outcomes, and first of all for the `greeting`, a StreamOpened."""
        self._packets = packets
        self._stream = stream
        self._frames = frames
        self._area = area
        self._greeting = greeting
        self._loop = asyncio.get_running_loop()

    async def write(self) -> None:
        """Sends what there is to send until everything is sent and nothing more comes, which ends the stream."""
        stream = self._stream
        changed = stream.outbox.changed
        writer = OutcomeWriter(stream.signature, stream.wanted)
        try:
            while not stream.over:
                item = stream.next()
                if item is None:
                    if not stream.over:
                        await changed.wait()
                    continue
                if isinstance(item, tuple):
                    writer = await self._send_outcomes(writer, *item)
                elif isinstance(item, Opened):
                    await self._send_opened()
                else:
                    response = told(stream, item)
                    await self._packets.send(bytes((RESPONSE,)) + response.SerializeToString())
                del item  # while the client does not read, each result is there once
                stream.written()
            stream.end(None)
        except Gone:
            stream.end(None)
        except Exception as error:
            stream.end(reason_of(error))

    async def _send_opened(self) -> None:
        frames, outcomes, greeting = self._frames, self._area, self._greeting
        outcomes.put(greeting)  # at its beginning
        head = OPENED_HEAD.pack(OPENED, VERSION, len(greeting), frames.size_bytes, outcomes.size_bytes)
        await self._packets.send(head, [frames.fd, outcomes.fd, outcomes.read_fd])
        frames.sent()
        outcomes.sent()

    async def _send_outcomes(self, writer: OutcomeWriter, now_ns: int, outcomes: Sequence[Outcome]) -> OutcomeWriter:
        """Sends outcomes in as few messages as there is room for. Returns what to write further ones with."""
        message, area = Message(), self._area
        writer.plan_delay(self._stream.planned_delay_ns)
        for outcome in outcomes:
            if outcome.held.signature is not writer.signature:
                # Frames of an earlier version may still be in flight.
                await self._flush(message)
                signature, wanted = outcome.held.signature, self._stream.wanted
                writer = OutcomeWriter(signature, wanted)
                writer.plan_delay(self._stream.planned_delay_ns)
                chunk = chunk_of(signature, wanted)
                named = inference_pb2.StreamOpened(outputs=map(tensor_spec, writer.sent), chunk=chunk)
                for output in named.outputs:
                    del output.labels[:]
                await self._packets.send(bytes((OUTPUTS,)) + named.SerializeToString())
            data = writer.data_of(outcome)
            if data and area.takes(data) > area.piece_bytes_max:
                await self._flush(message)
                offsets = await self._send_parts(data)
                message.add(writer.write(outcome, now_ns, offsets))
                await self._packets.send(message.take(area.position, assembled=True))
                continue
            offsets = []
            for each in data:
                offset = area.put(each)
                while offset < 0:
                    await self._flush(message)
                    await self._outcomes_read()
                    offset = area.put(each)
                offsets.append(offset)
            written = writer.write(outcome, now_ns, offsets)
            if not message.has_room(written):
                await self._flush(message)
            message.add(written)
        if message:
            last = message.take(area.position)
            if not self._packets.send_at_once(last):
                await self._packets.send(last)
        return writer

    async def _flush(self, message: Message) -> None:
        if message:
            await self._packets.send(message.take(self._area.position))

    async def _send_parts(self, data: Sequence[bytes]) -> list[int]:
        """Sends outputs that are too large for their area piece by piece. Returns the offset of each in all of them."""
        area, offsets, total = self._area, [], 0
        for each in data:
            offsets.append(total)
            total += len(each)
            view = memoryview(each)
            for start in range(0, len(view), area.piece_bytes_max):
                piece = view[start : start + area.piece_bytes_max]
                while (offset := area.put(piece)) < 0:
                    await self._outcomes_read()
                await self._packets.send(PART_WHOLE.pack(PART, len(piece), offset, area.position))
        return offsets

    async def _outcomes_read(self) -> None:
        """Waits until the client has read outcomes."""
        fd = self._area.read_fd
        there: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(fd, tell, there)
        try:
            await there
        finally:
            self._loop.remove_reader(fd)
        self._area.hear()
