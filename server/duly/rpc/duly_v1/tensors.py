"""Element types, encodings and specifications of tensors, as duly.v1 numbers and describes them."""

from collections.abc import Sequence
from typing import cast

from duly.models.spec import ELEMENT_BYTES, Chunk, Signature, TensorSpec
from duly.v1 import inference_pb2, tensor_pb2
from duly.worker.channel import SENT_ENCODINGS

# The generated enums' Value() is typed as a plain int.
DATATYPE = {name: cast(tensor_pb2.DataType, tensor_pb2.DataType.Value(f"DATA_TYPE_{name}")) for name in ELEMENT_BYTES}
FORMAT = {
    name: cast(tensor_pb2.EncodedFormat, tensor_pb2.EncodedFormat.Value(f"ENCODED_FORMAT_{name}"))
    for name in SENT_ENCODINGS
}
FORMAT_NAME: dict[int, str] = {number: name for name, number in FORMAT.items()}


class _DatatypeNames(dict[int, str]):
    """Names of datatypes by their number. The name is empty where none is stated, and the number itself where that
    means nothing.
    """

    def __missing__(self, number: int) -> str:
        return str(number)


DATATYPE_NAME = _DatatypeNames([(0, ""), *((int(number), name) for name, number in DATATYPE.items())])


def tensor_spec(spec: TensorSpec) -> tensor_pb2.TensorSpec:
    return tensor_pb2.TensorSpec(
        name=spec.name,
        datatype=DATATYPE[spec.datatype],
        shape=spec.shape,
        encoded_formats=[FORMAT[name] for name in spec.encodings],
        labels=spec.labels,
        sample_rate_hz=spec.sample_rate_hz,
        finite=spec.finite,
    )


def wanted_chunk(signature: Signature, wanted: Sequence[str]) -> Chunk | None:
    """Returns what the model says of its actions; None: it gives none, or its output is none that is wanted. `wanted`:
    names of outputs; empty: all.
    """
    chunk = signature.chunk
    return None if chunk is None or (wanted and chunk.output not in wanted) else chunk


def chunk_of(signature: Signature, wanted: Sequence[str]) -> inference_pb2.ActionChunk | None:
    """Returns which output holds actions, and when they are due; None: as `wanted_chunk`."""
    chunk = wanted_chunk(signature, wanted)
    if chunk is None:
        return None
    shape = next(spec.shape for spec in signature.outputs if spec.name == chunk.output)
    return inference_pb2.ActionChunk(
        output=chunk.output, t0_nano=chunk.t0_ns, dt_nano=chunk.dt_ns, horizon=max(shape[0], 0)
    )
