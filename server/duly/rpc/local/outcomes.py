"""Writes outcomes as messages of a fixed layout, and their outputs into shared memory."""

from collections.abc import Sequence
from struct import Struct

from duly.core.fates import RESULTS
from duly.models.spec import Signature
from duly.rpc.duly_v1.outcome_writer import guards_fields, partner_field
from duly.rpc.duly_v1.tensors import DATATYPE
from duly.rpc.local.layout import (
    ASSEMBLED,
    DELAY_US_MAX,
    EXTENTS,
    MESSAGE_BYTES_MAX,
    OUTCOME,
    OUTCOMES,
    OUTCOMES_HEAD,
    TENSOR_REST,
    TEXT_ALIGNMENT,
)
from duly.runtime.outcome import FusedOutcome, Outcome

_ZEROS = tuple(bytes(n) for n in range(TEXT_ALIGNMENT))
_OUTCOME_OF_ONE = Struct(f"{OUTCOME.format}QI{TENSOR_REST.size - 4}s")
_PLACE = Struct("<QI")
_DESCRIBED = Struct(TENSOR_REST.format.replace("I", ""))
"""TENSOR in two parts: where an output lies, with its bytes, and what it is."""
_DESCRIBED_MAX = 64
_PAD = tuple((0,) * (EXTENTS - n) for n in range(EXTENTS + 1))


class OutcomeWriter:
    """Writes the outcomes of one model version, for the outputs that a stream asked for."""

    def __init__(self, signature: Signature, wanted: Sequence[str]) -> None:
        """`wanted`: names of outputs, all of which the signature has; empty: all."""
        self.signature = signature
        self.sent = [spec for spec in signature.outputs if not wanted or spec.name in wanted]
        """The outputs that are sent, which the client knows by their place here."""
        places = {spec.name: place for place, spec in enumerate(self.sent)}
        self._places = [places.get(spec.name, -1) for spec in signature.outputs]
        self._kinds = [int(DATATYPE[spec.datatype]) for spec in signature.outputs]
        self._names: dict[tuple[str, str], tuple[int, int, bytes]] = {}
        """By model version and variant: the bytes of both, and both followed by zeros, as where there is no reason."""
        self._delay_us = 0
        self._described: dict[tuple[int, tuple[int, ...]], bytes] = {}
        """What is said of outputs, by their index and shape."""

    def plan_delay(self, delay_ns: int) -> None:
        """Notes the planned delay of the stream, for the outcomes that are written next."""
        self._delay_us = min(delay_ns // 1000, DELAY_US_MAX)

    def data_of(self, outcome: Outcome) -> list[bytes]:
        """Returns the data of the outputs that are sent, in their order."""
        if outcome.outputs is None or outcome.status not in RESULTS:
            return []
        return [data for index, _, data in outcome.outputs if self._places[index] >= 0]

    def write(self, outcome: Outcome, now_ns: int, offsets: Sequence[int]) -> bytes:
        """Returns an outcome that is sent at `now_ns`, with its outputs at these offsets."""
        held, run = outcome.held, outcome.run
        frame, received_ns = held.frame, held.received_ns
        version_bytes = variant_bytes = 0
        text = b""
        size = dispatched_ns = started_ns = finished_ns = 0
        if run is not None:
            ran = run.batch
            size = len(ran.frames)
            version_bytes, variant_bytes, text = self._names.get((ran.model, ran.variant)) or self._named(
                ran.model, ran.variant
            )
            dispatched_ns = run.dispatched_ns - received_ns
            if run.started_ns:
                started_ns, finished_ns = run.started_ns - received_ns, run.finished_ns - received_ns
        related = held.clock_uncertainty_ns > 0
        reason = b""
        if outcome.reason:
            reason = outcome.reason.encode(errors="replace")
            text = _padded(text[: version_bytes + variant_bytes] + reason)
        fused = b""
        if isinstance(outcome, FusedOutcome):
            fused = b"".join(map(partner_field, outcome.partners))
        if run is not None and run.guards is not None:
            fused += guards_fields(outcome)
        if fused:
            text = _padded(text[: version_bytes + variant_bytes] + reason + fused)
        fields = (
            frame.frame_id,
            frame.deadline_ns - now_ns,
            held.received_unix_ns,
            now_ns - received_ns,
            dispatched_ns,
            started_ns,
            finished_ns,
            held.capture_to_receipt_ns if related else 0,
            held.clock_uncertainty_ns,
            outcome.status,
            size,
            len(offsets),
            version_bytes,
            variant_bytes,
            len(reason),
            len(fused),
            self._delay_us,
        )
        outputs = outcome.outputs
        if len(offsets) == 1 and outputs is not None and len(outputs) == 1:  # as nearly always
            index, shape, data = outputs[0]
            described = self._described.get((index, shape)) or self._describe(index, shape)
            return _OUTCOME_OF_ONE.pack(*fields, offsets[0], len(data), described) + text
        written = OUTCOME.pack(*fields)
        if offsets:
            left = iter(offsets)
            for index, shape, data in outputs or ():
                if self._places[index] >= 0:
                    described = self._described.get((index, shape)) or self._describe(index, shape)
                    written += _PLACE.pack(next(left), len(data)) + described
        return written + text

    def _named(self, model: str, variant: str) -> tuple[int, int, bytes]:
        version, name = model.rpartition("/")[2].encode(), variant.encode()
        named = self._names[model, variant] = len(version), len(name), _padded(version + name)
        return named

    def _describe(self, index: int, shape: tuple[int, ...]) -> bytes:
        if len(self._described) >= _DESCRIBED_MAX:  # outputs may be of any size
            self._described.clear()
        dimensions = len(shape)
        described = _DESCRIBED.pack(self._places[index], self._kinds[index], dimensions, *shape, *_PAD[dimensions])
        self._described[index, shape] = described
        return described


def _padded(text: bytes) -> bytes:
    return text + _ZEROS[-len(text) % TEXT_ALIGNMENT]


class Message:
    """An OUTCOMES message that is being put together."""

    def __init__(self) -> None:
        self._outcomes: list[bytes] = []
        self._size_bytes = OUTCOMES_HEAD.size

    def __bool__(self) -> bool:
        return bool(self._outcomes)

    def has_room(self, written: bytes) -> bool:
        return self._size_bytes + len(written) <= MESSAGE_BYTES_MAX

    def add(self, written: bytes) -> None:
        self._outcomes.append(written)
        self._size_bytes += len(written)

    def take(self, position: int, assembled: bool = False) -> bytes:
        """Returns the message and begins another one. `position`: up to where the outputs fill their area."""
        head = OUTCOMES_HEAD.pack(OUTCOMES, len(self._outcomes), ASSEMBLED if assembled else 0, position)
        message = b"".join((head, *self._outcomes))
        self._outcomes.clear()
        self._size_bytes = OUTCOMES_HEAD.size
        return message
