"""Writes outcomes as the bytes of messages, as protobuf would, with no object for any of their parts.

What is the same for many outcomes is written once: the fields before the data of an output, those that a batch gives to
its frames, and the time at which frames of one message came.
"""

from collections.abc import Sequence
from typing import Final

from duly.core.fates import RESULTS
from duly.core.types import OutcomeStatus
from duly.models.spec import Chunk, Signature, TensorSpec
from duly.rpc.duly_v1.tensors import DATATYPE, wanted_chunk
from duly.rpc.varints import bytes_field, number_field, varint
from duly.runtime.outcome import BatchRun, FusedOutcome, Outcome, Partner

_ENTRY: Final = b"\x0a"
_STATUS: Final = [number_field(b"\x10", status) for status in range(max(OutcomeStatus) + 1)]


class _OutputHead:
    """What stands before the data of one output."""

    def __init__(self, spec: TensorSpec) -> None:
        self._beginning = bytes_field(b"\x0a", spec.name.encode()) + number_field(b"\x10", DATATYPE[spec.datatype])
        self._shape: tuple[int, ...] | None = None
        self._data_bytes = 0
        self._head = b""

    def before(self, shape: tuple[int, ...], data_bytes: int) -> bytes:
        """Returns it for data of that length, and keeps it for the next time."""
        if shape != self._shape or data_bytes != self._data_bytes:
            fields = self._beginning + bytes_field(b"\x1a", b"".join([varint(extent) for extent in shape]))
            if data_bytes:
                fields += b"\x22" + varint(data_bytes)
            self._head = b"\x1a" + varint(len(fields) + data_bytes) + fields
            self._shape, self._data_bytes = shape, data_bytes
        return self._head


class _ChunkField:
    """What is said of the actions in an output, which is the same for all results with as many."""

    def __init__(self, chunk: Chunk, index: int) -> None:
        """`index`: of the output among those of the signature."""
        self.index = index
        self._beginning = bytes_field(b"\x0a", chunk.output.encode()) + number_field(b"\x10", chunk.t0_ns)
        self._beginning += number_field(b"\x18", chunk.dt_ns)
        self._horizon = -1
        self._field = b""

    def of(self, horizon: int) -> bytes:
        """Returns it for so many actions, and keeps it for the next time."""
        if horizon != self._horizon:
            self._horizon = horizon
            self._field = bytes_field(b"\x5a", self._beginning + number_field(b"\x20", horizon))
        return self._field


class OutcomeWriter:
    """Writes outcomes of one model version, with the outputs that a stream asked for."""

    def __init__(self, signature: Signature, wanted: Sequence[str]) -> None:
        """`wanted`: names of outputs, all of which the signature has; empty: all."""
        self.signature = signature
        self._outputs = [_OutputHead(spec) if not wanted or spec.name in wanted else None for spec in signature.outputs]
        self._chunk = _chunk_field(signature, wanted)
        self._received_unix_ns = 0
        self._received = b""
        self._model = ""
        self._variant = ""
        self._ran: dict[int, bytes] = {}
        """The fields that a batch of `_model` and `_variant` gives to its frames, by its size."""

    def write(self, outcome: Outcome, now_ns: int, parts: list[bytes], delay_ns: int = 0) -> int:
        """Appends an outcome that is sent at `now_ns` to the parts of a message, as the field 1 that it is both in
        OutcomeBatch and InferResponse. `delay_ns`: the planned delay of the stream, where its model gives action
        chunks. Returns its length in bytes.
        """
        held, run = outcome.held, outcome.run
        frame = held.frame
        begin = number_field(b"\x08", frame.frame_id) + _STATUS[outcome.status]
        timing = self._timing(outcome, now_ns)
        end = b"\x22%b%b%b%b" % (
            varint(len(timing)),
            timing,
            self._fields_of_batch(run) if run is not None else b"",
            number_field(b"\x40", frame.deadline_ns - now_ns),
        )
        if outcome.reason:
            end += bytes_field(b"\x4a", outcome.reason.encode())
        if isinstance(outcome, FusedOutcome):
            end += b"".join(map(partner_field, outcome.partners))
        if self._chunk is not None:
            end += self._fields_of_chunk(self._chunk, outcome, delay_ns)
        if run is not None and run.guards is not None:
            end += guards_fields(outcome)
        length = len(begin) + len(end)
        place = len(parts)
        parts.append(b"")
        if outcome.outputs is not None and outcome.status in RESULTS:
            for index, shape, data in outcome.outputs:
                output = self._outputs[index]
                if output is not None:
                    head = output.before(shape, len(data))
                    parts.append(head)
                    parts.append(data)
                    length += len(head) + len(data)
        parts.append(end)
        parts[place] = before = b"%b%b%b" % (_ENTRY, varint(length), begin)
        return len(before) - len(begin) + length

    def _fields_of_chunk(self, chunk: _ChunkField, outcome: Outcome, delay_ns: int) -> bytes:
        """Returns what the actions are, where there are any, and the planned delay."""
        delay = number_field(b"\x60", delay_ns)
        if outcome.outputs is not None and outcome.status in RESULTS:
            for index, shape, _ in outcome.outputs:
                if index == chunk.index:
                    return chunk.of(shape[0] if shape else 0) + delay
        return delay

    def _timing(self, outcome: Outcome, now_ns: int) -> bytes:
        """Returns the fields of Timing."""
        held, run = outcome.held, outcome.run
        received_ns = held.received_ns
        if held.received_unix_ns != self._received_unix_ns:
            self._received_unix_ns = held.received_unix_ns
            self._received = number_field(b"\x08", held.received_unix_ns)
        sent = number_field(b"\x28", now_ns - received_ns)
        if run is None:
            timing = self._received + sent
        elif run.started_ns:
            timing = b"%b%b%b%b%b" % (
                self._received,
                number_field(b"\x10", run.dispatched_ns - received_ns),
                number_field(b"\x18", run.started_ns - received_ns),
                number_field(b"\x20", run.finished_ns - received_ns),
                sent,
            )
        else:
            timing = b"%b%b%b" % (self._received, number_field(b"\x10", run.dispatched_ns - received_ns), sent)
        if held.clock_uncertainty_ns:
            timing += number_field(b"\x30", held.capture_to_receipt_ns)
            timing += number_field(b"\x38", held.clock_uncertainty_ns)
        return timing

    def _fields_of_batch(self, run: BatchRun) -> bytes:
        """Returns version, variant and batch size."""
        ran = run.batch
        size = len(ran.frames)
        if ran.model != self._model or ran.variant != self._variant:
            self._model, self._variant = ran.model, ran.variant
            self._ran.clear()
        fields = self._ran.get(size)
        if fields is None:
            fields = bytes_field(b"\x2a", ran.model.rpartition("/")[2].encode())
            fields += bytes_field(b"\x32", ran.variant.encode()) + number_field(b"\x38", size)
            self._ran[size] = fields
        return fields


def partner_field(partner: Partner) -> bytes:
    """Returns a FusedFrame as the field 10 that it is of Outcome."""
    fields = bytes_field(b"\x0a", partner.input.encode())
    fields += number_field(b"\x10", partner.frame_id) + number_field(b"\x18", partner.captured_after_ns)
    return b"\x52" + varint(len(fields)) + fields


def guards_fields(outcome: Outcome) -> bytes:
    """Returns the names of the guards that found something, as the fields 13 that they are of Outcome."""
    return b"".join([bytes_field(b"\x6a", name.encode()) for name in outcome.guards])


def _chunk_field(signature: Signature, wanted: Sequence[str]) -> _ChunkField | None:
    """Returns what says what the actions are; None: the model gives none, or the stream did not ask for them."""
    chunk = wanted_chunk(signature, wanted)
    if chunk is None:
        return None
    return _ChunkField(chunk, [spec.name for spec in signature.outputs].index(chunk.output))
