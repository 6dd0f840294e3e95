"""Labels as the client makes messages of them, and by which key it names a frame."""

import numpy as np
import pytest

from duly.v1 import inference_pb2, tensor_pb2
from duly_client import Feedback, FeedbackResult, FeedbackStatus
from duly_client.feedback import BYTES_MAX, ITEMS_MAX, Label, requests, result_of
from duly_client.frames import KEYS_MAX, Frames
from duly_client.types import terms_of

KEY = "0123456789abcdef-1"


def tensors(label: Label) -> list[tuple[str, str, list[int], bytes]]:
    """What goes over the wire for a label."""
    ((item,),) = [request.items for request in requests([Feedback(KEY, 7, label)])]
    return [
        (each.name, tensor_pb2.DataType.Name(each.datatype), list(each.shape), each.data)
        for each in item.labels  # type: ignore[arg-type]
    ]


def test_a_class_is_a_number_or_a_name_and_outputs_are_arrays() -> None:
    assert tensors(3) == [("label", "DATA_TYPE_INT64", [], (3).to_bytes(8, "little"))]
    assert tensors("cät") == [("label", "DATA_TYPE_STRING", [], b"\x04\0\0\0c\xc3\xa4t")]
    boxes = np.zeros((2, 4), ">f4")
    boxes[1, 3] = 1
    assert tensors({"boxes": boxes, "fraud": True}) == [
        ("boxes", "DATA_TYPE_FP32", [2, 4], boxes.astype("<f4").tobytes()),
        ("fraud", "DATA_TYPE_BOOL", [], b"\x01"),
    ]


def test_what_can_be_no_label_is_told_before_it_is_sent() -> None:
    for label in (np.zeros(2, np.complex64), object()):
        with pytest.raises(TypeError, match=r"cannot be sent|text is str"):
            tensors(label)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="keeps no frames"):
        list(requests([Feedback("", 1, 1)]))
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="weight"):
            list(requests([Feedback(KEY, 1, 1, weight=weight)]))


def test_many_labels_go_in_several_messages_in_their_order() -> None:
    many = [Feedback(KEY, nth, nth) for nth in range(2 * ITEMS_MAX + 5)]
    sizes = [len(request.items) for request in requests(many)]
    assert sizes == [ITEMS_MAX, ITEMS_MAX, 5]
    assert [item.frame_id for request in requests(many) for item in request.items] == list(range(len(many)))
    large = [Feedback(KEY, nth, {"y": np.zeros(BYTES_MAX // 10, np.float32)}) for nth in range(6)]
    assert [len(request.items) for request in requests(large)] == [2, 2, 2]
    several = [Feedback(KEY, nth, {str(name): 1 for name in range(10)}) for nth in range(1000)]
    assert [sum(len(item.labels) for item in request.items) for request in requests(several)] == [4090, 4090, 1820]
    assert list(requests([])) == []


def test_a_status_of_a_newer_server_is_pending() -> None:
    message = inference_pb2.FeedbackResult(status=99, reason="later")  # type: ignore[arg-type]
    assert result_of(message) == FeedbackResult(FeedbackStatus.PENDING, "later")


def test_a_frame_is_named_by_the_key_that_its_stream_had_when_it_was_sent() -> None:
    frames = Frames()
    assert frames.key_of(1) == ""
    for number in range(KEYS_MAX + 2):
        frames.agreed(terms_of(inference_pb2.StreamOpened(stream_key=f"key-{number}")))
        frames.next_ids(2)
    newest = KEYS_MAX + 1
    assert frames.key_of(2 * newest + 1) == f"key-{newest}"
    assert frames.key_of(2 * newest + 2) == f"key-{newest}"
    assert frames.key_of(2 * newest) == f"key-{newest - 1}"
    assert frames.key_of(5) == "key-2"
    assert frames.key_of(4) == "", "so many keys are remembered"
