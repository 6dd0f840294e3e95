"""Writes replies as the bytes of messages, as protobuf would, with no object for any of their parts.

What is the same for many replies is written once: the name and version of the model, and what stands before the data of
an output of the same shape.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from duly.core.types import OutcomeStatus
from duly.models.spec import Signature, TensorSpec
from duly.rpc.kserve.classification import classes_of
from duly.rpc.kserve.regions import Place
from duly.rpc.kserve.requests import Wanted
from duly.rpc.kserve.tensors import BYTES, datatype_of
from duly.rpc.varints import bytes_field, varint
from duly.runtime.outcome import Outcome
from duly.streams.errors import InvalidFrame

ID_CHARS_MAX = 1024
"""A request with a longer id is refused, with the beginning of the id: INVALID_REQUEST."""
SAID_MAX = 256
"""So many ways to say how requests turned out are kept as bytes, for each stream."""
_FINAL: Final = b"\x22\x1b\x0a\x15triton_final_response\x12\x02\x08\x01"
"""The parameter that says that nothing more comes for the request."""


def _key(name: str) -> bytes:
    return bytes_field(b"\x0a", name.encode())


_OUTCOME, _REASON = _key("duly_outcome"), _key("duly_reason")
_SLACK, _QUEUE, _RUN = _key("duly_slack_us"), _key("duly_queue_us"), _key("duly_run_us")
_VARIANT, _BATCH = _key("duly_variant"), _key("duly_batch_size")
_GUARDS = _key("duly_guards")
_REGION, _SIZE, _OFFSET = map(_key, ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"))


class Times(NamedTuple):
    """What a reply says of a request's time, in microseconds."""

    slack_us: int
    """What was left of the budget when the reply was written; negative: it was late by so much."""
    queue_us: int
    """How long it waited, in all, until it ran."""
    run_us: int


class Answer(NamedTuple):
    """What a request comes to."""

    request_id: str
    status: str
    """Name of the outcome."""
    reason: str
    times: Times
    outcomes: Sequence[Outcome]
    """One for each row of the request, in their order, if all of them have results; else nothing."""
    wanted: Sequence[Wanted] | None
    """The outputs to send; None: all."""
    tells: bool
    """Whether a request without results gets a response that says so, in place of an error."""
    guards: Sequence[str] = ()
    """The names of the guards that found something on any of its rows."""


class ReplyWriter:
    """Writes the replies of one model version."""

    def __init__(self, signature: Signature, batched: bool, model: str, version: str) -> None:
        """`batched`: whether shapes begin with the number of rows."""
        self.signature = signature
        self._said: dict[tuple[str, str, int], bytes] = {}
        """What replies say beside times and outputs, by outcome, variant and size of batch."""
        self._head = bytes_field(b"\x0a", model.encode()) + bytes_field(b"\x12", version.encode())
        self._outputs = [_Output(spec, batched) for spec in signature.outputs]
        self._all = [Wanted(index) for index in range(len(signature.outputs))]

    def response(self, answer: Answer) -> list[bytes]:
        """Returns the parts of a ModelInferResponse. Data for shared memory is not in it. Raises InvalidFrame where the
        results of rows do not fit together.
        """
        parts = [self._beginning(answer)]
        if not answer.outcomes:
            return parts
        wanted = answer.wanted if answer.wanted is not None else self._all
        data: list[bytes] = []
        for output in wanted:
            described, raw = self._outputs[output.index].of(answer.outcomes, output)
            parts.append(described)
            if output.place is not None:
                data.append(b"\x32\x00")
            else:
                data.append(b"\x32" + varint(sum([len(each) for each in raw])))
                data += raw
        parts += data
        return parts

    def _beginning(self, answer: Answer) -> bytes:
        """Returns what stands before the outputs."""
        run = answer.outcomes[0].run if answer.outcomes else None
        variant, batch_size = (run.batch.variant, len(run.batch.frames)) if run is not None else ("", 0)
        slack_us, queue_us, run_us = answer.times
        return b"%b%b%b%b%b%b%b%b" % (
            self._head,
            bytes_field(b"\x1a", answer.request_id.encode()),
            self._saying(answer.status, variant, batch_size),
            number_parameter(_SLACK, slack_us),
            number_parameter(_QUEUE, queue_us),
            number_parameter(_RUN, run_us),
            text_parameter(_REASON, answer.reason) if answer.reason else b"",
            text_parameter(_GUARDS, ",".join(answer.guards)) if answer.guards else b"",
        )

    def _saying(self, status: str, variant: str, batch_size: int) -> bytes:
        key = (status, variant, batch_size)
        said = self._said.get(key)
        if said is None:
            if len(self._said) >= SAID_MAX:
                self._said.clear()
            said = _FINAL + text_parameter(_OUTCOME, status)
            if variant:
                said += text_parameter(_VARIANT, variant) + number_parameter(_BATCH, batch_size)
            self._said[key] = said
        return said

    def common(self, request_id: str, outcome: Outcome, now_ns: int) -> bytes | None:
        """Returns the ModelStreamInferResponse that answers a request of one row which wants all outputs, sent at
        `now_ns`; None: it is no plain result in time, and `response` writes it. It is what that writes.
        """
        run, outputs = outcome.run, outcome.outputs
        if outcome.status is not OutcomeStatus.ON_TIME or run is None or outputs is None or outcome.reason:
            return None
        if run.guards is not None and outcome.guards:
            return None
        held = outcome.held
        parts = [
            self._head,
            bytes_field(b"\x1a", request_id.encode()),
            self._saying("ON_TIME", run.batch.variant, len(run.batch.frames)),
            number_parameter(_SLACK, (held.frame.deadline_ns - now_ns) // 1000),
            number_parameter(_QUEUE, max(0, run.started_ns - held.received_ns) // 1000),
            number_parameter(_RUN, max(0, run.finished_ns - run.started_ns) // 1000),
        ]
        raw: list[bytes] = []
        for index, shape, data in outputs:
            parts.append(self._outputs[index].of_row(shape))
            raw.append(b"\x32" + varint(len(data)))
            raw.append(data)
        parts += raw
        length = sum([len(part) for part in parts])
        parts.insert(0, b"\x12" + varint(length))
        return b"".join(parts)

    def places(self, answer: Answer) -> list[tuple[Place, list[bytes]]]:
        """Returns what goes into shared memory, and where."""
        return [
            (output.place, self._outputs[output.index].of(answer.outcomes, output)[1])
            for output in answer.wanted or ()
            if output.place is not None and answer.outcomes
        ]


class _Output:
    """One output of a model."""

    def __init__(self, spec: TensorSpec, batched: bool) -> None:
        self._spec = spec
        self._batched = batched
        self._beginning = bytes_field(b"\x0a", spec.name.encode())
        self._datatype = bytes_field(b"\x12", datatype_of(spec).encode())
        self._known: tuple[int, ...] = ()
        self._field = b""

    def of_row(self, shape: tuple[int, ...]) -> bytes:
        """Returns the description for the only row of a request."""
        whole = (1, *shape) if self._batched else shape
        if whole != self._known:
            self._known, self._field = whole, self._described(self._datatype, whole)
        return self._field

    def _described(self, datatype: bytes, shape: tuple[int, ...]) -> bytes:
        extents = bytes_field(b"\x1a", b"".join([varint(extent) for extent in shape]))
        return bytes_field(b"\x2a", self._beginning + datatype + extents)

    def of(self, outcomes: Sequence[Outcome], wanted: Wanted) -> tuple[bytes, list[bytes]]:
        """Returns (its description, its data) for the rows of a request. Raises InvalidFrame."""
        shape: tuple[int, ...] = ()
        data: list[bytes] = []
        for outcome in outcomes:
            for index, row_shape, row in outcome.outputs or ():
                if index == wanted.index:
                    if data and row_shape != shape:
                        raise InvalidFrame(
                            f"output {self._spec.name!r} has shape {list(shape)} for one row and {list(row_shape)} for "
                            "another, so that they are no one tensor; send one row in each request"
                        )
                    shape = row_shape
                    data.append(row)
                    break
        datatype = self._datatype
        if wanted.classes:
            shape, data = classes_of(self._spec, data, wanted.classes)
            datatype = bytes_field(b"\x12", BYTES.encode())
        if self._batched:
            shape = (len(data), *shape)
        if wanted.place is None:
            return self._described(datatype, shape), data
        extents = bytes_field(b"\x1a", b"".join([varint(extent) for extent in shape]))
        where = text_parameter(_REGION, wanted.place.region)
        where += number_parameter(_SIZE, sum([len(row) for row in data]))
        if wanted.place.offset:
            where += number_parameter(_OFFSET, wanted.place.offset)
        return bytes_field(b"\x2a", self._beginning + datatype + extents + where), data


def number_parameter(key: bytes, value: int) -> bytes:
    """Returns an entry of field 4, the parameters of a response and of an output alike, with an int64."""
    number = varint(value)
    length = len(number)
    return b"\x22%b%b\x12%b\x10%b" % (varint(len(key) + 3 + length), key, varint(1 + length), number)


def text_parameter(key: bytes, value: str) -> bytes:
    """Returns such an entry with a string."""
    text = value.encode()
    field = b"\x1a%b%b" % (varint(len(text)), text)
    entry = b"%b\x12%b%b" % (key, varint(len(field)), field)
    return b"\x22%b%b" % (varint(len(entry)), entry)


def in_stream(response: Sequence[bytes], error: str = "") -> bytes:
    """Returns a ModelStreamInferResponse. `error`: what is wrong; empty: nothing."""
    length = sum([len(part) for part in response])
    return b"".join([bytes_field(b"\x0a", error.encode()), b"\x12", varint(length), *response])


def only_id(request_id: str) -> list[bytes]:
    """Returns the parts of a ModelInferResponse that says nothing but whose it is."""
    return [bytes_field(b"\x1a", request_id[:ID_CHARS_MAX].encode())]
