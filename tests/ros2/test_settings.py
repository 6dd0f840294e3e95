"""Settings from files and parameters, and what is said about mistakes in them."""

from typing import Any

import pytest

from duly_ros2.qos import Qos
from duly_ros2.settings import Detections, SettingsError, merged, nested, of_file, settings_of

STREAM = {"model": "yolo", "topic": "/camera", "type": "CompressedImage"}


def one(**more: Any) -> dict[str, Any]:
    return {"server": "robot:8500", "streams": {"front": STREAM | more}}


def test_a_stream_of_one_topic() -> None:
    told = one(
        qos={"history": "keep_last", "depth": 4, "reliability": "BEST_EFFORT", "deadline_ms": 100},
        publish={"detections": "~/boxes", "tensors": {"topic": "~/tensors"}},
        **{"class": "critical"},
    )
    settings = settings_of(told)
    (stream,) = settings.streams
    assert (settings.server, stream.name, stream.model, stream.stream_class) == (
        "robot:8500",
        "front",
        "yolo",
        "CRITICAL",
    )
    assert stream.first.type == "sensor_msgs/msg/CompressedImage"
    assert stream.first.qos == Qos("keep_last", 4, "best_effort", deadline_ms=100.0)
    assert stream.budget == 100.0, "the deadline is the budget where none is stated"
    assert stream.publish.detections == Detections("~/boxes")
    assert settings_of(one(budget_ms=40, qos={"deadline_ms": 100})).streams[0].budget == 40.0


@pytest.mark.parametrize(
    ("qos", "backlog", "waiting_max"),
    [
        (Qos(), ("LATEST", 0), 1),
        (Qos(depth=1), ("LATEST", 0), 1),
        (Qos(depth=7), ("KEEP_LAST", 7), 7),
        (Qos(history="keep_all", depth=7), ("ALL", 0), 256),
    ],
)
def test_quality_of_service_is_a_backlog_policy(qos: Qos, backlog: tuple[str, int], waiting_max: int) -> None:
    assert (qos.backlog, qos.waiting_max) == (backlog, waiting_max)
    assert qos.reader_depth >= 10


def test_parameters_stand_above_a_file_which_may_be_one_of_ros() -> None:
    file = of_file({"duly": {"ros__parameters": one()}})
    assert file == of_file(one())
    told = merged(file, nested({"server": "other:1", "streams.front.qos.depth": 3, "streams.back.model": "yolo"}))
    assert told["server"] == "other:1"
    assert told["streams"]["front"]["qos"] == {"depth": 3}
    assert told["streams"]["front"]["model"] == "yolo"
    assert told["streams"]["back"] == {"model": "yolo"}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, r"streams: none are stated; --config FILE"),
        ({"streams": {}}, r"streams: 0 are stated; expected 1 to 64"),
        ({"streams": {"front": 3}}, r"streams.front: is 3; expected settings by name"),
        ({"streams": {"front": {"topic": "/a", "type": "Image"}}}, r"streams.front.model: is not stated"),
        ({"streams": {"front": {"model": "m", "type": "Image"}}}, r"streams.front.topic: is not stated"),
        (one(budget=3), r"streams.front.budget: there is no such setting; did you mean 'budget_ms'\?"),
        (one(budget_ms="soon"), r"streams.front.budget_ms: is 'soon'; expected a number"),
        (one(budget_ms=-1), r"streams.front.budget_ms: is -1.0; expected 0 or more"),
        (one(follow_advice=1), r"streams.front.follow_advice: is 1; expected true or false"),
        (one(qos={"depth": 0}), r"streams.front.qos.depth: is 0; expected 1 or more"),
        (one(qos={"history": "all"}), r"streams.front.qos.history: is 'all'; expected one of keep_last, keep_all"),
        (
            one(type="Picture"),
            r"streams.front.type: 'Picture' is none that the node reads; expected one of sensor_msgs",
        ),
        (one(fields="x"), r"streams.front.fields: is 'x'; expected a list of names"),
        (one(inputs={"a": STREAM}), r"streams.front: states inputs and topic, type; expected one of them"),
        (one(publish={"boxes": "~/b"}), r"streams.front.publish.boxes: there is no such setting"),
    ],
)
def test_mistakes_are_named_with_their_place(told: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        settings_of(told)


def test_a_parameter_that_is_a_value_and_a_place() -> None:
    with pytest.raises(SettingsError, match=r"streams.front.model: front is stated as a value, too"):
        nested({"streams.front": 1, "streams.front.model": "m"})
