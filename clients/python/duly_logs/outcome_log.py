"""Writes an MCAP of what a model was given and what became of every frame, for Foxglove, Rerun and `duly diff`.

    the topic that was replayed      as it was, with its schema
    /duly/MODEL/frames               what was sent, where it came from no log
    /duly/MODEL/outcomes             duly.log.Outcome: status, latency, slack, age, detections, small outputs
    /duly/MODEL/annotations          foxglove.ImageAnnotations: boxes and labels over the pictures
    /duly/MODEL/pictures             with `draw`: the pictures with the boxes drawn into them
    /duly/MODEL/latency_ms           std_msgs/msg/Float64MultiArray of one number, which viewers plot as it is
    /duly/MODEL/slack_ms, age_ms     likewise

The file grows as messages come, so that of a run that was killed there is all but the last megabyte.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
from foxglove_schemas_protobuf.Color_pb2 import Color
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo
from foxglove_schemas_protobuf.ImageAnnotations_pb2 import ImageAnnotations
from foxglove_schemas_protobuf.Point2_pb2 import Point2
from foxglove_schemas_protobuf.PointsAnnotation_pb2 import PointsAnnotation
from foxglove_schemas_protobuf.RawAudio_pb2 import RawAudio
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from google.protobuf.message import Message
from mcap.writer import CompressionType, Writer

from duly_client import Outcome, StreamTerms
from duly_client.convert import Array, data_of, datatype_of, numbers_or_text
from duly_client.recordings.file_kind import kind_of
from duly_client.texts import TEXT
from duly_client.types import Encoding, Payload
from duly_logs.detections import Detection, detections_of, size_of
from duly_logs.log import Channel, Logged
from duly_logs.schemas import (
    inputs_message,
    number_message,
    outcome_message,
    register,
    register_number,
    timestamp,
)

VALUES_MAX = 64
"""Outputs of more numbers are not written."""
DRAWN_WIDTH_MAX = 960
"""Wider pictures are made smaller before boxes are drawn into them."""
ABOUT = "duly"
"""Name of the metadata record that says what was run, and how."""

_VIDEO_FORMATS = {"H264": "h264", "HEVC": "h265"}
_COLOURS = ((230, 80, 60), (60, 140, 230), (60, 170, 90), (230, 160, 40), (150, 90, 210), (40, 170, 180))


class OutcomeLog:
    """An MCAP that is being written. Its times are those of the drive."""

    def __init__(
        self, path: Path, model: str, terms: StreamTerms, about: Mapping[str, str], draw: bool = False
    ) -> None:
        """`about`: what is run and how, for people and for `duly diff`. Raises OSError."""
        self._prefix = f"/duly/{model}"
        self._frame = model  # viewers want a coordinate frame of each picture
        self._labels = next((spec.labels for spec in terms.outputs if spec.labels), ())
        self._inputs = terms.inputs
        self._draw = draw
        self._file = path.open("wb")
        # Pictures do not get smaller, and what is left is little.
        self._writer = Writer(self._file, compression=CompressionType.LZ4)
        self._writer.start(profile="", library="duly")
        self._about = dict(about) | {"model": model, "version": terms.version}
        self._channels: dict[str, int] = {}
        self._copied: dict[int, tuple[Channel, int]] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._pictures: dict[int, bytes] = {}
        self._newest_ns: int | None = None  # capture time of the newest result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Writes the index. Raises OSError."""
        self._writer.add_metadata(ABOUT, self._about)
        self._writer.finish()  # type: ignore[no-untyped-call]
        self._file.close()

    # ---- what was given ----

    def copy(self, logged: Logged) -> None:
        """Writes a message as it lies in its log."""
        known = self._copied.get(id(logged.channel))
        if known is None:
            channel = logged.channel
            schema = 0
            if channel.schema_encoding:
                schema = self._writer.register_schema(channel.schema, channel.schema_encoding, channel.schema_data)
            number = self._writer.register_channel(
                channel.topic, channel.message_encoding, schema, dict(channel.metadata)
            )
            known = self._copied[id(channel)] = (channel, number)
        self._writer.add_message(known[1], logged.time_ns, logged.data, logged.time_ns)

    def sent(self, number: int, time_ns: int, payload: Payload, encoding: Encoding | None = None) -> None:
        """Writes a frame that comes from no log. `encoding`: as for `Stream.send`."""
        self.seen(number, payload)
        at = timestamp(time_ns)
        video = _VIDEO_FORMATS.get(encoding or "")
        if video and isinstance(payload, bytes | bytearray | memoryview) and bytes(payload[:2]) == b"\0\0":
            message: Message = CompressedVideo(timestamp=at, frame_id=self._frame, format=video, data=bytes(payload))
        else:
            message = self._as_message(payload, at)
        self._add("frames", time_ns, message)

    def seen(self, number: int, payload: Payload) -> None:
        """Notes of a frame what its outcome is drawn over, until that comes."""
        if isinstance(payload, bytes) and not self._inputs[0].sample_rate_hz and payload[:2] != b"\0\0":
            self._sizes[number] = size_of(payload)
            if self._draw:
                self._pictures[number] = payload
        elif isinstance(payload, np.ndarray) and payload.ndim == 3:
            self._sizes[number] = (payload.shape[1], payload.shape[0])
            if self._draw and payload.dtype == np.uint8:
                self._pictures[number] = cv2.imencode(".jpg", payload[:, :, ::-1])[1].tobytes()

    def _as_message(self, payload: Payload, at: Any) -> Message:
        if isinstance(payload, bytes | bytearray | memoryview):
            data = bytes(payload)
            rate_hz = self._inputs[0].sample_rate_hz
            if not rate_hz:
                return CompressedImage(timestamp=at, frame_id=self._frame, format=kind_of(data).lower(), data=data)
            return RawAudio(timestamp=at, data=data, format="pcm-s16", sample_rate=rate_hz, number_of_channels=1)
        if isinstance(payload, np.ndarray):
            pixels = payload.dtype == np.uint8 and payload.ndim == 3 and payload.shape[2] in (1, 3)
            if pixels:
                height, width, channels = payload.shape
                encoding, step = ("rgb8" if channels == 3 else "mono8"), width * channels
                data = payload.tobytes()
                return RawImage(
                    timestamp=at,
                    frame_id=self._frame,
                    width=width,
                    height=height,
                    encoding=encoding,
                    step=step,
                    data=data,
                )
        if isinstance(payload, str | np.ndarray):
            payload = {self._inputs[0].name: payload}
        inputs = [
            {
                "name": name,
                "datatype": datatype_of(array.dtype).removeprefix("DATA_TYPE_"),
                "shape": array.shape,
                "data": data_of(array),
            }
            for name, array in ((name, _array(value)) for name, value in payload.items())
        ]
        return inputs_message(timestamp=at, inputs=inputs)

    # ---- what became of it ----

    def outcome(self, number: int, time_ns: int, stamp_ns: int, outcome: Outcome, alone_ns: int | None = None) -> None:
        """Writes what became of frame `number`, which was logged at `time_ns` and captured at `stamp_ns`.

        `alone_ns`: the budget of a run in which frames did not come as they came in the drive: times are those that the
        frame took alone (`took_alone_ns`), and slack is what they leave of it. None: times are as they were.
        """
        stamp_ns = stamp_ns or time_ns
        outputs = outcome.outputs if outcome.ok else {}
        detections = detections_of(outputs, self._labels)
        if outcome.ok and (self._newest_ns is None or stamp_ns > self._newest_ns):
            self._newest_ns = stamp_ns
        timing = outcome.timing
        latency_ns, slack_ns = outcome.latency_ns, outcome.slack_ns
        if alone_ns is not None:
            latency_ns = took_alone_ns(outcome)
            slack_ns = alone_ns - latency_ns
        age_ns = latency_ns + (stamp_ns - self._newest_ns if self._newest_ns is not None else 0)
        message = outcome_message(
            timestamp=timestamp(stamp_ns),
            frame=number,
            status=outcome.status.name,
            status_number=int(outcome.status),
            latency_ms=latency_ns / 1e6,
            slack_ms=slack_ns / 1e6,
            age_ms=age_ns / 1e6,
            waited_ms=timing.started_ns / 1e6,
            ran_ms=max(0, timing.finished_ns - timing.started_ns) / 1e6,
            version=outcome.version,
            variant=outcome.variant,
            batch_size=outcome.batch_size,
            reason=outcome.reason,
            detections=[detection._asdict() for detection in detections],
            outputs=[
                {"name": name, "shape": array.shape} | _values(array)
                for name, array in outputs.items()
                if array.size <= VALUES_MAX and not (detections and name in ("boxes", "scores", "classes"))
            ],
        )
        self._add("outcomes", time_ns, message)
        for name, number_ns in (("latency_ms", latency_ns), ("slack_ms", slack_ns), ("age_ms", age_ns)):
            self._plot(name, time_ns, number_ns / 1e6)
        size = self._sizes.pop(number, (0, 0))
        if size == (0, 0):
            return
        here = [detection.in_pixels(size) for detection in detections]
        words = "" if outcome.ok else f"{outcome.status.name}: {outcome.reason}"
        self._add("annotations", time_ns, annotations(here, words, stamp_ns))
        if (picture := self._pictures.pop(number, None)) is not None:
            drawn = drawn_jpeg(picture, here, words)
            if drawn:
                self._add(
                    "pictures",
                    time_ns,
                    CompressedImage(timestamp=timestamp(stamp_ns), frame_id=self._frame, format="jpeg", data=drawn),
                )

    def _plot(self, kind: str, time_ns: int, value: float) -> None:
        topic = f"{self._prefix}/{kind}"
        if topic not in self._channels:
            self._channels[topic] = register_number(self._writer, topic)
        self._writer.add_message(self._channels[topic], time_ns, number_message(value), time_ns)

    def _add(self, kind: str, time_ns: int, message: Message) -> None:
        topic = f"{self._prefix}/{kind}"
        if topic not in self._channels:
            self._channels[topic] = register(self._writer, topic, message)
        self._writer.add_message(self._channels[topic], time_ns, message.SerializeToString(), time_ns)


def took_alone_ns(outcome: Outcome) -> int:
    """What a frame took from the begin of its run to the hand-over of its result; its latency where it did not run."""
    timing = outcome.timing
    return max(0, timing.sent_ns - timing.started_ns) if timing.started_ns else outcome.latency_ns


def annotations(detections: list[Detection], words: str, stamp_ns: int) -> ImageAnnotations:
    """Boxes in pixels with their labels, and words in the corner."""
    at = timestamp(stamp_ns)
    made = ImageAnnotations(timestamp=at)
    for found in detections:
        colour = Color(**{name: value / 255 for name, value in zip("rgb", colour_of(found.label), strict=True)}, a=1)
        corners = ((found.x0, found.y0), (found.x1, found.y0), (found.x1, found.y1), (found.x0, found.y1))
        made.points.add(
            timestamp=at,
            type=PointsAnnotation.LINE_LOOP,
            points=[Point2(x=x, y=y) for x, y in corners],
            outline_color=colour,
            thickness=2,
        )
        made.texts.add(
            timestamp=at,
            position=Point2(x=found.x0, y=found.y0),
            text=f"{found.label} {found.score:.2f}",
            font_size=14,
            text_color=Color(r=1, g=1, b=1, a=1),
            background_color=colour,
        )
    if words:
        black, white = Color(a=0.7), Color(r=1, g=1, b=1, a=1)
        place = Point2(x=4, y=20)
        made.texts.add(timestamp=at, position=place, text=words, font_size=14, text_color=white, background_color=black)
    return made


def drawn_jpeg(picture: bytes, detections: list[Detection], words: str) -> bytes:
    """The picture with boxes in it, as JPEG; empty: it cannot be decoded."""
    pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        return b""
    scale = min(1.0, DRAWN_WIDTH_MAX / pixels.shape[1])
    if scale < 1:
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for found in detections:
        colour = colour_of(found.label)[::-1]
        corner = (round(found.x0 * scale), round(found.y0 * scale))
        cv2.rectangle(pixels, corner, (round(found.x1 * scale), round(found.y1 * scale)), colour, 2)
        text = f"{found.label} {found.score:.2f}"
        cv2.putText(
            pixels, text, (corner[0], max(12, corner[1] - 4)), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA
        )
    if words:
        cv2.putText(pixels, words, (4, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return bytes(cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, 80))[1])


def colour_of(label: str) -> tuple[int, int, int]:
    """The colour of a label, red, green and blue, the same in every run."""
    return _COLOURS[sum(label.encode()) % len(_COLOURS)]


def _values(array: Array) -> dict[str, list[Any]]:
    """The field of an output with its elements."""
    if array.dtype == TEXT:
        return {"texts": array.ravel().tolist()}
    return {"values": numbers_or_text(array).ravel().astype(float).tolist()}


def _array(value: Any) -> Array:
    if isinstance(value, bytes | bytearray | memoryview):
        return np.frombuffer(value, np.uint8)
    return np.array(value, TEXT) if isinstance(value, str) else np.asarray(value)
