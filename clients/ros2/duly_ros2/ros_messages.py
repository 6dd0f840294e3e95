"""Makes the ROS messages that the node publishes, and publishes them."""

from array import array

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from duly_msgs.msg import Advice as AdviceMessage
from duly_msgs.msg import Outcome as OutcomeMessage
from duly_msgs.msg import Tensor
from duly_msgs.msg import Tensors as TensorsMessage
from rclpy.node import Node
from rclpy.publisher import Publisher as RosPublisher
from rclpy.qos import QoSProfile
from std_msgs.msg import Header
from vision_msgs.msg import Classification as ClassificationMessage
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesis, ObjectHypothesisWithPose

from duly_client import Advice, Outcome
from duly_client.convert import datatype_of
from duly_ros2.answers import Answer, Received
from duly_ros2.report import Diagnosis
from duly_ros2.results import Box, boxes_of, classes_of
from duly_ros2.settings import Settings, StreamSettings

OUTCOMES_DEPTH = 1000
"""Outcomes that wait for a slow reader, as many as a second may have."""
RESULTS_DEPTH = 10
_LEVELS = {"OK": DiagnosticStatus.OK, "WARN": DiagnosticStatus.WARN, "ERROR": DiagnosticStatus.ERROR}


class Topics:
    """The topics that the node publishes on."""

    def __init__(self, node: Node, settings: Settings) -> None:
        self._node = node
        self._outcomes = node.create_publisher(OutcomeMessage, "~/outcomes", QoSProfile(depth=OUTCOMES_DEPTH))
        self._advice = node.create_publisher(AdviceMessage, "~/advice", QoSProfile(depth=RESULTS_DEPTH))
        self._results: dict[tuple[str, str], RosPublisher] = {}
        for stream in settings.streams:
            publish = stream.publish
            for kind, message, wanted in (
                ("detections", Detection2DArray, publish.detections),
                ("classification", ClassificationMessage, publish.classification),
                ("tensors", TensorsMessage, publish.tensors),
            ):
                if wanted is not None:
                    made = node.create_publisher(message, wanted.topic, QoSProfile(depth=RESULTS_DEPTH))
                    self._results[stream.name, kind] = made

    def close(self) -> None:
        """Takes the topics back."""
        for publisher in (self._outcomes, self._advice, *self._results.values()):
            self._node.destroy_publisher(publisher)

    def answer(self, answer: Answer) -> None:
        """Publishes what became of a message."""
        outcome = answer.outcome
        timing = outcome.timing if outcome is not None else None
        self._outcomes.publish(
            OutcomeMessage(
                header=_header(answer.stamp_ns, answer.frame_id),
                stream=answer.stream.name,
                topic=answer.topic,
                frame_id=answer.number,
                status=int(answer.status),
                status_name=answer.status.name,
                reason=answer.reason,
                model=answer.stream.model,
                version=outcome.version if outcome is not None else "",
                variant=outcome.variant if outcome is not None else "",
                batch_size=outcome.batch_size if outcome is not None else 0,
                slack_ms=outcome.slack_ns / 1e6 if outcome is not None else 0.0,
                latency_ms=answer.latency_ns / 1e6,
                execution_ms=(timing.finished_ns - timing.started_ns) / 1e6 if timing is not None else 0.0,
            )
        )

    def result(
        self, stream: StreamSettings, first: Received, outcome: Outcome, labels: dict[str, tuple[str, ...]]
    ) -> None:
        """Publishes the outputs of a frame, as the stream's settings say. Raises Unusable."""
        publish, sample = stream.publish, first.sample
        header = _header(sample.stamp_ns, sample.frame_id)
        if publish.detections is not None:
            boxes = boxes_of(outcome.outputs, labels, publish.detections, sample.size)
            detections = [_detection(header, box) for box in boxes]
            self._results[stream.name, "detections"].publish(Detection2DArray(header=header, detections=detections))
        if publish.classification is not None:
            scored = classes_of(outcome.outputs, labels, publish.classification)
            hypotheses = [ObjectHypothesis(class_id=each.name, score=each.score) for each in scored]
            message = ClassificationMessage(header=header, results=hypotheses)
            self._results[stream.name, "classification"].publish(message)
        if publish.tensors is not None:
            tensors = [
                Tensor(
                    name=name,
                    datatype=datatype_of(values.dtype),
                    shape=values.shape,
                    data=array("B", np.ascontiguousarray(values).tobytes()),
                )
                for name, values in outcome.outputs.items()
            ]
            self._results[stream.name, "tensors"].publish(TensorsMessage(header=header, tensors=tensors))

    def advise(self, stream: StreamSettings, advice: Advice) -> None:
        """Publishes what the server advises."""
        self._advice.publish(
            AdviceMessage(
                stream=stream.name,
                kind=advice.kind,
                period_ms=advice.period_ns / 1e6,
                version=advice.version,
                reason=advice.reason,
            )
        )


def diagnostics(stamp: Time, server: str, diagnoses: dict[str, Diagnosis]) -> DiagnosticArray:
    """Makes the message for /diagnostics of what each name's state is."""
    statuses = [
        DiagnosticStatus(
            level=_LEVELS[found.level],
            name=name,
            message=found.message,
            hardware_id=server,
            values=[KeyValue(key=key, value=value) for key, value in found.values.items()],
        )
        for name, found in diagnoses.items()
    ]
    return DiagnosticArray(header=Header(stamp=stamp), status=statuses)


def message_type(name: str) -> type:
    """The class of a message by its type's name. Raises ImportError where its package is not there."""
    package, _, kind = name.partition("/msg/")
    module = __import__(f"{package}.msg", fromlist=[kind])
    found: type = getattr(module, kind)
    return found


def _header(stamp_ns: int, frame_id: str) -> Header:
    return Header(stamp=Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000), frame_id=frame_id)


def _detection(header: Header, box: Box) -> Detection2D:
    found = ObjectHypothesisWithPose()
    found.hypothesis.class_id, found.hypothesis.score = box.scored.name, box.scored.score
    made = Detection2D(header=header, results=[found])
    made.bbox.center.position.x, made.bbox.center.position.y = box.centre_x, box.centre_y
    made.bbox.size_x, made.bbox.size_y = box.width, box.height
    return made
