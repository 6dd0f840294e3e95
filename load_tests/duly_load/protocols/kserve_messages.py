"""What is said to a KServe v2 server about a frame, and what its answer means.

A request is made of two parts, since protobuf takes the fields of a message in any order and in pieces: the head, which
is the same for all frames with one payload and is made once, and the tail with what is the frame's own. A frame then
costs one copy of its head. What a server of duly's takes of a stream's terms is a third part, the same for its frames.
"""

from collections.abc import Mapping
from types import MappingProxyType

import grpc
import numpy as np

from duly.core.types import StreamClass
from duly_client.convert import DATATYPES, DTYPES, Array
from duly_client.types import Payload, TensorSpec, Value
from duly_load.protocols.kserve_proto import ModelInferRequest, ModelMetadataResponse
from duly_load.results.outcomes import FrameOutcome
from duly_load.scenario.schedule import Session
from duly_load.scenario.tables import Sensor

PRIORITIES = {StreamClass.CRITICAL: 1, StreamClass.STANDARD: 2, StreamClass.BEST_EFFORT: 3}
HEADS_MAX = 65_536
"""Kept of one model. More distinct payloads than these are made anew, in turn."""

_MEANINGS: tuple[tuple[str, FrameOutcome], ...] = (
    ("Request timeout expired", FrameOutcome.EXPIRED),
    ("Exceeds maximum queue size", FrameOutcome.SHED),
    ("unknown model", FrameOutcome.FAILED),  # unloaded meanwhile, which is UNAVAILABLE there
    ("unexpected shape", FrameOutcome.INVALID),
    ("unexpected inference input", FrameOutcome.INVALID),
    ("data-type is", FrameOutcome.INVALID),
    ("byte size mismatch", FrameOutcome.INVALID),
    ("batch-size must be", FrameOutcome.INVALID),
)
"""Parts of Triton 2.51's errors. The answers in a stream have no status code, only their text says what happened."""

_MEANINGS_OF_CODES = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: FrameOutcome.SHED,
    grpc.StatusCode.UNAVAILABLE: FrameOutcome.SHED,
    grpc.StatusCode.INVALID_ARGUMENT: FrameOutcome.INVALID,
}


class ModelError(Exception):
    """Frames can't be sent to this model: says why."""


class KserveModel:
    """A model as its server describes it, and the requests to it."""

    def __init__(self, metadata: bytes, name: str) -> None:
        """`metadata`: the server's ModelMetadataResponse. Raises ModelError where an input takes no numbers."""
        described = ModelMetadataResponse.FromString(metadata).inputs
        for tensor in described:
            if tensor.datatype not in DTYPES:
                raise ModelError(
                    f"input {tensor.name!r} of model {name!r} takes {tensor.datatype}; this generator sends numbers "
                    f"only: {', '.join(DTYPES)}"
                )
        self.name = name
        self.batched = all(len(tensor.shape) > 1 and tensor.shape[0] == -1 for tensor in described)
        """The first dimension of every input is a batch's: it is free, and others follow. The protocol has no better
        word for it. True where the server describes no inputs, as most models batch.
        """
        self.inputs = tuple(
            TensorSpec(
                tensor.name, tensor.datatype, DTYPES[tensor.datatype], tuple(tensor.shape[1 if self.batched else 0 :])
            )
            for tensor in described
        )
        self._heads: dict[int, tuple[Payload, bytes]] = {}

    def request(
        self, place: int, payload: Payload, numbers: Mapping[str, int] = MappingProxyType({}), terms: bytes = b""
    ) -> bytes:
        """A ModelInferRequest for frame `place`, serialised; `numbers`: parameters of its own; `terms`: those of its
        stream, as `terms_of` makes them. `payload` may not change any more. TypeError where it is no tensors, or not
        those of the model.
        """
        # The payload is kept beside its head so that no other can get its id.
        _, head = self._heads.get(id(payload)) or self._keep(payload)
        tail = ModelInferRequest(id=str(place))
        for name, number in numbers.items():
            tail.parameters[name].int64_param = number
        return head + terms + bytes(tail.SerializeToString())

    def _keep(self, payload: Payload) -> tuple[Payload, bytes]:
        if len(self._heads) >= HEADS_MAX:
            self._heads.clear()
        kept = self._heads[id(payload)] = payload, self._head(payload)
        return kept

    def _head(self, payload: Payload) -> bytes:
        head = ModelInferRequest(model_name=self.name)
        for name, array in self._arrays(payload).items():
            tensor = head.inputs.add(name=name, datatype=DATATYPES[array.dtype])
            tensor.shape.extend((1, *array.shape) if self.batched else array.shape)
            head.raw_input_contents.append(array.tobytes())
        return bytes(head.SerializeToString())

    def _arrays(self, payload: Payload) -> dict[str, Array]:
        names = [spec.name for spec in self.inputs] or ["x"]  # where the server does not say, it does not mind
        if isinstance(payload, np.ndarray | str | bytes | bytearray | memoryview):
            if len(names) > 1:
                raise TypeError(
                    f"model {self.name!r} takes {', '.join(names)}: a payload should name each, is one value"
                )
            return {names[0]: self._array(names[0], payload)}
        if self.inputs and set(payload) != set(names):
            raise TypeError(f"model {self.name!r} takes {', '.join(names)}: got a payload of {', '.join(payload)}")
        return {name: self._array(name, value) for name, value in payload.items()}

    def _array(self, name: str, value: Value) -> Array:
        if not isinstance(value, np.ndarray) or value.dtype not in DATATYPES:
            kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            raise TypeError(
                f"model {self.name!r}, input {name!r}: should be an array of {', '.join(DATATYPES.values())}, is {kind}"
            )
        return value


def terms_of(sensor: Sensor, session: Session) -> bytes:
    """The part of a request that tells a server of duly's on what terms the stream's frames are to be served."""
    part = ModelInferRequest()
    part.parameters["budget_us"].int64_param = session.budget_ns // 1000
    part.parameters["priority"].int64_param = PRIORITIES[session.stream_class]
    part.parameters["backlog"].string_param = sensor.backlog
    part.parameters["duly_outcomes"].bool_param = True
    if sensor.stated_period_s is not None:
        part.parameters["period_us"].int64_param = round(sensor.stated_period_s * 1e6)
    return bytes(part.SerializeToString())


def outcome_of_error(text: str, code: grpc.StatusCode | None = None) -> FrameOutcome:
    """What became of a frame that was answered by an error; `code`: of a call for this frame alone."""
    for part, outcome in _MEANINGS:
        if part in text:
            return outcome
    return FrameOutcome.FAILED if code is None else _MEANINGS_OF_CODES.get(code, FrameOutcome.FAILED)
