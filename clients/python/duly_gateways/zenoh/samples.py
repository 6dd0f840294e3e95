"""What a sample of Zenoh means as a frame, and how an outcome is written as one. Nothing here does I/O.

A sample says what it is by its encoding: `image/jpeg` and `image/png`; `application/protobuf;duly.v1.Frame`, which may
have several inputs; or plain elements, little-endian, of the type and shape that stand behind a `;` (such as
`application/octet-stream;FP32[2,4]`), in the settings, or else in the model. Without an encoding bytes that begin as
JPEG or PNG are such, where the model takes them, and others plain elements.
"""

import json
import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from duly.v1 import inference_pb2, tensor_pb2
from duly_client import Outcome, TensorSpec
from duly_client.convert import DTYPES, array_of, data_of, datatype_of, numbers_or_text, spelled
from duly_client.types import ENCODINGS, Payload, Value

PLAIN = ("", "zenoh/bytes", "application/octet-stream")
"""Encodings of samples that are plain elements."""
PICTURES = {"image/jpeg": "JPEG", "image/png": "PNG"}
FRAME_SCHEMA, OUTCOME_SCHEMA = "duly.v1.Frame", "duly.v1.Outcome"
PROTOBUF, JSON = "application/protobuf", "application/json"
JSON_ELEMENTS_MAX = 4096
"""Outputs with more elements are told in JSON by their type and shape alone."""

_DATATYPES = {int(tensor_pb2.DataType.Value(f"DATA_TYPE_{name}")): name for name in DTYPES}
_SCHEMA = re.compile(r"([A-Z0-9]{1,8})\[(\d{1,9}(?:,\d{1,9}){0,7})?\]")


class BadSample(Exception):
    """What is wrong with a sample, and what would be right."""


def payload_of(
    encoding: str, data: bytes, specs: Sequence[TensorSpec], datatype: str = "", shape: tuple[int, ...] = ()
) -> Payload:
    """Returns the inputs of a frame. `datatype`, `shape`: of plain elements, where the settings state them. Raises
    BadSample.
    """
    kind, _, schema = encoding.partition(";")
    if kind == PROTOBUF:
        return _frame(data, schema)
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise BadSample(f"the model takes several inputs ({names}): publish {PROTOBUF};{FRAME_SCHEMA}")
    (spec,) = specs
    if kind in PICTURES:
        if PICTURES[kind] not in spec.encodings:
            raise BadSample(f"the sample is {kind}; input {spec.name!r} takes {_taken(spec)}")
        return data
    if kind not in PLAIN:
        known = ", ".join((*PICTURES, f"{PROTOBUF};{FRAME_SCHEMA}", *PLAIN[1:]))
        raise BadSample(f"the sample is {kind[:64]!r}, which is none of {known}")
    if not schema and not shape and spec.encodings and data[:3] in (b"\xff\xd8\xff", b"\x89PN"):
        return data
    if schema:
        return _elements(data, *_stated(schema))
    return _elements(data, datatype or spec.datatype, shape or _own_shape(data, spec, datatype))


def _stated(schema: str) -> tuple[str, tuple[int, ...]]:
    found = _SCHEMA.fullmatch(schema)
    if found is None or found[1] not in DTYPES:
        raise BadSample(f"the sample's schema is {schema[:64]!r}; say a type and a shape, such as FP32[480,640,3]")
    return found[1], tuple(int(extent) for extent in (found[2] or "").split(",") if extent)


def _own_shape(data: bytes, spec: TensorSpec, datatype: str) -> tuple[int, ...]:
    """Returns the shape that the model takes; one extent may be open, and follows from the bytes there are."""
    if min(spec.shape, default=0) >= 0:
        return spec.shape
    if sum(extent < 0 for extent in spec.shape) > 1:
        raise BadSample(
            f"input {spec.name!r} takes {_taken(spec)}; say the sample's shape in its encoding, behind a ';'"
        )
    if (datatype or spec.datatype) == "STRING":
        raise BadSample(f"input {spec.name!r} takes {_taken(spec)}; say the sample's shape behind a ';'")
    known_bytes = prod(extent for extent in spec.shape if extent >= 0) * DTYPES[datatype or spec.datatype].itemsize
    return tuple((len(data) // known_bytes if known_bytes else 0) if extent < 0 else extent for extent in spec.shape)


def _elements(data: bytes, datatype: str, shape: tuple[int, ...]) -> Value:
    wanted_bytes = prod(shape) * DTYPES[datatype].itemsize
    if datatype != "STRING" and len(data) != wanted_bytes:
        raise BadSample(f"the sample has {len(data)} bytes, {spelled(datatype, shape)} has {wanted_bytes}")
    try:
        return array_of(data, datatype, shape)
    except ValueError as error:
        raise BadSample(f"the sample is no {spelled(datatype, shape)}: {error}") from None


def _frame(data: bytes, schema: str) -> Payload:
    if schema != FRAME_SCHEMA:
        raise BadSample(f"the sample's schema is {schema[:64]!r}, expected {FRAME_SCHEMA}")
    try:
        frame = inference_pb2.Frame.FromString(data)
    except DecodeError:
        raise BadSample(f"the sample is no {FRAME_SCHEMA}") from None
    inputs: dict[str, Value] = {}
    for tensor in frame.tensors:
        datatype = _DATATYPES.get(tensor.datatype)
        if datatype is None:
            raise BadSample(f"tensor {tensor.name!r} has no element type that is known ({tensor.datatype})")
        shape = tuple(tensor.shape)
        try:
            inputs[tensor.name] = array_of(tensor.data, datatype, shape)
        except ValueError:
            raise BadSample(
                f"tensor {tensor.name!r}: {len(tensor.data)} bytes do not fill the shape {list(shape)}"
            ) from None
    for encoded in frame.encoded:
        if encoded.format not in ENCODINGS:
            raise BadSample(f"input {encoded.name!r} has no format that is known ({encoded.format})")
        inputs[encoded.name] = encoded.data
    if len(inputs) != len(frame.tensors) + len(frame.encoded):
        raise BadSample("the frame has an input twice")
    return next(iter(inputs.values())) if list(inputs) == [""] else inputs


def _taken(spec: TensorSpec) -> str:
    return " or ".join((spelled(spec.datatype, spec.shape), *spec.encodings))


def outcome_json(outcome: Outcome, key: str) -> bytes:
    """Returns an outcome for people and scripts."""
    outputs: dict[str, Any] = {}
    for name, array in outcome.outputs.items() if outcome.ok else ():
        datatype = datatype_of(array.dtype).removeprefix("DATA_TYPE_")
        outputs[name] = {"datatype": datatype, "shape": list(array.shape)}
        if array.size <= JSON_ELEMENTS_MAX:
            outputs[name]["values"] = _plain(numbers_or_text(array).tolist())
    told = {
        "key": key,
        "frame_id": outcome.frame_id,
        "status": outcome.status.name,
        "reason": outcome.reason,
        "latency_ms": outcome.latency_ns / 1e6,
        "slack_ms": outcome.slack_ns / 1e6,
        "version": outcome.version,
        "variant": outcome.variant,
        "outputs": outputs,
    }
    return json.dumps(told).encode()


def outcome_protobuf(outcome: Outcome) -> bytes:
    """Returns an outcome as a duly.v1.Outcome."""
    timing = outcome.timing
    message = inference_pb2.Outcome(
        frame_id=outcome.frame_id,
        status=int(outcome.status),  # type: ignore[arg-type]  # equal numbers
        version=outcome.version,
        variant=outcome.variant,
        batch_size=outcome.batch_size,
        slack_nano=outcome.slack_ns,
        reason=outcome.reason,
        timing=inference_pb2.Timing(
            received_unix_nano=timing.received_unix_ns,
            dispatched_nano=timing.dispatched_ns,
            started_nano=timing.started_ns,
            finished_nano=timing.finished_ns,
            sent_nano=timing.sent_ns,
            capture_to_receipt_nano=timing.capture_to_receipt_ns,
            clock_uncertainty_nano=timing.clock_uncertainty_ns,
        ),
        planned_delay_nano=outcome.planned_delay_ns,
    )
    for name, array in outcome.outputs.items() if outcome.ok else ():
        message.outputs.add(
            name=name,
            datatype=datatype_of(array.dtype),
            shape=array.shape,
            data=data_of(array),
        )
    if chunk := outcome.chunk:
        message.chunk.output, message.chunk.horizon = chunk.output, chunk.horizon
        message.chunk.t0_nano, message.chunk.dt_nano = chunk.t0_ns, chunk.dt_ns
    return message.SerializeToString()


def error_json(key: str, status: str, reason: str, more: int = 0) -> bytes:
    """Returns what is said of a sample that became no frame. `more`: how many of the same key were not told before."""
    told: Mapping[str, Any] = {"key": key, "status": status, "reason": reason, **({"not_told": more} if more else {})}
    return json.dumps(told).encode()


def _plain(values: Any) -> Any:
    """JSON has no NaN and no infinities: they become null."""
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return values if not isinstance(values, float) or np.isfinite(values) else None
