"""Labels of frames: what was right, sent when somebody knows, and what became of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import cast

import numpy as np

from duly.v1 import inference_pb2, tensor_pb2
from duly_client.convert import Array, data_of, datatype_of

CLASS = "label"
"""Under what a class is sent that is given without a name."""
ITEMS_MAX = 1024
BYTES_MAX = 2 << 20
LABELS_MAX = 4096
"""One message has labels of no more frames or bytes, and no more labels; more go in several."""

Label = int | str | Array | Mapping[str, int | float | str | Array]
"""What is right: a class by its number or its name; or values by the names of outputs, or by what the model calls its
class."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """The label of one frame."""

    stream_key: str
    """`Stream.key_of` of the frame, or `Outcome.stream_key` of a frame that went by `infer`. It holds for good."""
    frame_id: int
    label: Label
    weight: float = 1.0
    """How much it counts."""
    source: str = ""
    """Where it is from, for who judges labels by that."""


class FeedbackStatus(IntEnum):
    """What became of a label."""

    JOINED = inference_pb2.FEEDBACK_STATUS_JOINED
    """It is on the server's disk, together with its frame."""
    UNKNOWN_FRAME = inference_pb2.FEEDBACK_STATUS_UNKNOWN_FRAME
    """The frame was not kept, or is not any more, or is none of this caller's."""
    INVALID = inference_pb2.FEEDBACK_STATUS_INVALID
    """It is none that the frame could have."""
    NOT_KEPT = inference_pb2.FEEDBACK_STATUS_NOT_KEPT
    """It could not be written: send it again later."""
    PENDING = inference_pb2.FEEDBACK_STATUS_PENDING
    """What became of it was not known in time: send it again where it matters."""


@dataclass(frozen=True, slots=True)
class FeedbackResult:
    status: FeedbackStatus
    reason: str = ""
    """Why it was not joined, for people."""


def result_of(message: inference_pb2.FeedbackResult) -> FeedbackResult:
    try:
        return FeedbackResult(FeedbackStatus(message.status), message.reason)
    except ValueError:  # a status of a newer server
        return FeedbackResult(FeedbackStatus.PENDING, message.reason)


def requests(items: Sequence[Feedback]) -> Iterator[inference_pb2.FeedbackRequest]:
    """Makes the messages with these labels, in their order. Raises TypeError and ValueError where a label can be
    none.
    """
    request, size_bytes, labels = inference_pb2.FeedbackRequest(), 0, 0
    for item in items:
        message = _message(item)
        size, count = message.ByteSize(), len(message.labels)
        too_many = len(request.items) >= ITEMS_MAX or labels + count > LABELS_MAX
        if request.items and (too_many or size_bytes + size > BYTES_MAX):
            yield request
            request, size_bytes, labels = inference_pb2.FeedbackRequest(), 0, 0
        request.items.append(message)
        size_bytes += size
        labels += count
    if request.items:
        yield request


def _message(item: Feedback) -> inference_pb2.FrameFeedback:
    values = item.label if isinstance(item.label, Mapping) else {CLASS: item.label}
    if not item.stream_key:
        raise ValueError("stream_key is empty: the server keeps no frames of the model (duly serve --sample, --learn)")
    if not item.weight > 0:
        raise ValueError(f"weight={item.weight}: expected more than 0")
    return inference_pb2.FrameFeedback(
        stream_key=item.stream_key,
        frame_id=item.frame_id,
        labels=[_tensor(name, value) for name, value in values.items()],
        weight=item.weight,
        source=item.source,
    )


def _tensor(name: str, value: int | float | str | Array) -> tensor_pb2.Tensor:
    array = np.asarray(value)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    kind = cast(tensor_pb2.DataType, tensor_pb2.DataType.Value(datatype_of(array.dtype)))
    return tensor_pb2.Tensor(name=name, datatype=kind, shape=array.shape, data=data_of(array))
