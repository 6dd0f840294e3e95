"""Labels in duly.v1: a FeedbackRequest becomes labels of frames, and what became of them a FeedbackResponse."""

from collections.abc import Sequence

from duly.rpc.duly_v1.tensors import DATATYPE_NAME
from duly.rpc.message_bounds import MessageBounds, parse
from duly.sampling.feedback import Answer, LabelsSent
from duly.v1 import inference_pb2

FEEDBACK_REQUEST = MessageBounds(inference_pb2.FeedbackRequest)


def labels_sent(message: bytes) -> list[LabelsSent]:
    """Returns the items of a FeedbackRequest. Raises CallError where it is none, or holds more than one message may."""
    FEEDBACK_REQUEST.check(message)
    return [
        LabelsSent(
            item.stream_key,
            item.frame_id,
            [(label.name, DATATYPE_NAME[label.datatype], tuple(label.shape), label.data) for label in item.labels],
            item.weight or 1.0,
            item.source,
        )
        for item in parse(inference_pb2.FeedbackRequest, message).items
    ]


def results(answers: Sequence[Answer]) -> bytes:
    """Returns a FeedbackResponse."""
    return inference_pb2.FeedbackResponse(
        results=[
            inference_pb2.FeedbackResult(status=int(status), reason=reason)  # type: ignore[arg-type]  # equal numbers
            for status, reason in answers
        ]
    ).SerializeToString()
