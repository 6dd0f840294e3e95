"""Which topic of a log feeds a model, and its messages as frames for it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from duly_client.bfloat16 import BFLOAT16
from duly_client.convert import Array, spelled
from duly_client.recordings.pictures import as_taken, gray_or_colours, opencv, takes_pictures, takes_pixels
from duly_client.recordings.recording import PassOver, RecordingError, taken
from duly_client.recordings.sound import CHUNK_S, takes_sound
from duly_client.recordings.video import JPEG_QUALITY
from duly_client.texts import TEXT
from duly_client.types import Encoding, Payload, StreamTerms, TensorSpec, Value
from duly_logs.log import Channel, Log, LogError, Logged
from duly_logs.messages import (
    COMPRESSED,
    RAW,
    SOUND,
    Decoder,
    Message,
    arrays_of,
    field_of,
    picture_of,
    sound_of,
    stamp_ns,
    video_of,
)

TOPICS_TOLD_MAX = 20
"""Number of topics that a message names one by one."""
PERIOD_MESSAGES = 256
"""Number of messages by which the rate of a topic is known."""
TRIED_MAX = 3
"""Number of messages of a topic that are looked at, to see whether they fit."""


class TopicUnclear(LogError):
    """Several topics fit, or the one that was named is none."""


class Frame(NamedTuple):
    """One frame of a drive."""

    number: int
    """Its message's place among those of the topic, from 1 on; of sound the chunk's."""
    time_ns: int
    """When it was logged, ns since 1970 by the clock of the recorder."""
    stamp_ns: int
    """When it was captured, as the message says; 0: it says nothing."""
    value: Payload
    encoding: Encoding | None
    logged: tuple[Logged, ...]
    """The messages that it is of and that no frame before it is of."""


@dataclass(frozen=True, slots=True)
class Feed:
    """The messages of one topic as frames for one model."""

    log: Log
    topic: str
    inputs: tuple[TensorSpec, ...]
    fields: tuple[str, ...] = ()
    """Fields whose numbers, one after the other, are the only input; empty: the field fits by its name or shape."""

    @property
    def channel(self) -> Channel:
        return self.log.topics[self.topic][0]

    def period_ms(self) -> float:
        """What usually lies between two of its first messages, in ms of the log's time."""
        times_ns = [logged.time_ns for logged in islice(self.log.messages(self.topic), PERIOD_MESSAGES)]
        between = np.diff(np.sort(times_ns))
        return float(np.median(between)) / 1e6 if len(between) and np.median(between) > 0 else 100.0

    def frames(self, pass_over: PassOver) -> Iterator[Frame]:
        """Gives the frames, and tells `pass_over` what cannot be used: a message, or the log from some place on."""
        if self.channel.schema in SOUND:
            yield from self._sound(pass_over)
            return
        decoder = Decoder()
        for number, logged in enumerate(self._messages(pass_over), start=1):
            try:
                message = decoder.decode(logged.channel, logged.data)
                value, encoding = _video(message, self.inputs)
                if encoding is None:
                    value = payload_of(message, self.inputs, self.fields)
            except (LogError, RecordingError) as error:
                pass_over(RecordingError(f"{self.log.path}: {self.topic}: message {number}: {error}"))
            else:
                yield Frame(number, logged.time_ns, stamp_ns(message), value, encoding, (logged,))

    def _messages(self, pass_over: PassOver) -> Iterator[Logged]:
        messages = self.log.messages(self.topic)
        while True:
            try:
                yield next(messages)
            except StopIteration:
                return
            except LogError as error:
                pass_over(RecordingError(str(error)))
                return

    def _sound(self, pass_over: PassOver) -> Iterator[Frame]:
        """Chunks of the length that the model takes, whatever length the messages have. What is left is left out."""
        decoder, spec = Decoder(), self.inputs[0]
        left, given = b"", 0
        held: list[Logged] = []
        for number, logged in enumerate(self._messages(pass_over), start=1):
            try:
                message = decoder.decode(logged.channel, logged.data)
                samples, rate_hz, channels = sound_of(message)
                _check_sound(rate_hz, channels, spec)
            except LogError as error:
                pass_over(RecordingError(f"{self.log.path}: {self.topic}: message {number}: {error}"))
                continue
            chunk_bytes = 2 * (spec.shape[0] if spec.shape[0] > 0 else max(1, round(rate_hz * CHUNK_S)))
            left += samples
            held.append(logged)
            while len(left) >= chunk_bytes:
                chunk, left = left[:chunk_bytes], left[chunk_bytes:]
                given += 1
                # A message is logged when its last sample is there.
                before_ns = round(len(left) / 2 / rate_hz * 1e9)
                stamped_ns = stamp_ns(message)
                value, encoding = _sound_as_taken(chunk, spec)
                at_ns = logged.time_ns - before_ns
                yield Frame(given, at_ns, stamped_ns and stamped_ns - before_ns, value, encoding, tuple(held))
                held.clear()


def find_feed(log: Log, terms: StreamTerms, topic: str = "", fields: tuple[str, ...] = ()) -> Feed:
    """Finds what feeds the model. Raises LogError where no topic fits, `topic` does not, or several do."""
    inputs = terms.inputs
    wanted = " and ".join(f"{spec.name}: {taken(spec)}" for spec in inputs)
    if topic:
        if topic not in log.topics:
            raise TopicUnclear(f"{log.path}: has no topic {topic!r}; {_listed(log)}")
        feed = Feed(log, topic, inputs, fields)
        if reason := misfit(feed):
            raise LogError(f"{log.path}: {topic} does not fit the model, which takes {wanted}: {reason}")
        return feed
    if not log.channels or not any(channel.messages for channel in log.channels):
        raise LogError(f"{log.path}: an empty log: {len(log.channels)} topics, and no message in any of them")
    # What duly wrote about another run is no part of the drive, but for the frames that it was given.
    others = [name for name in log.topics if not name.startswith("/duly/") or name.endswith("/frames")]
    reasons = {name: misfit(Feed(log, name, inputs, fields)) for name in others}
    fitting = [name for name, reason in reasons.items() if not reason]
    if len(fitting) == 1:
        return Feed(log, fitting[0], inputs, fields)
    if fitting:
        raise TopicUnclear(
            f"{log.path}: {len(fitting)} topics fit the model: say which with --topic: {', '.join(fitting)}"
        )
    lines = [f"{name}: {reason}" for name, reason in islice(reasons.items(), TOPICS_TOLD_MAX)]
    more = [f"and {len(reasons) - TOPICS_TOLD_MAX} more"] if len(reasons) > TOPICS_TOLD_MAX else []
    raise LogError("\n".join([f"{log.path}: no topic fits the model, which takes {wanted}", *lines, *more]))


def misfit(feed: Feed) -> str:
    """Why a topic does not feed the model; empty: it does. Its first messages are looked at."""
    channel = feed.channel
    if not sum(each.messages for each in feed.log.topics[feed.topic]):
        return "no messages"
    if channel.schema in SOUND:
        if len(feed.inputs) != 1 or not takes_sound(feed.inputs[0]):
            return f"sound ({channel.schema})"
    elif channel.schema in COMPRESSED | RAW and (len(feed.inputs) != 1 or not takes_pictures(feed.inputs[0])):
        return f"pictures ({channel.schema})"
    reasons: list[str] = []
    decoder = Decoder()
    for logged in islice(feed._messages(lambda error: reasons.append(str(error))), TRIED_MAX):
        try:
            message = decoder.decode(logged.channel, logged.data)
            if channel.schema in SOUND:
                _, rate_hz, channels = sound_of(message)
                _check_sound(rate_hz, channels, feed.inputs[0])
            elif _video(message, feed.inputs)[1] is None:
                payload_of(message, feed.inputs, feed.fields)
        except (LogError, RecordingError) as error:
            reasons.append(str(error))
        else:
            return ""
    return reasons[0] if reasons else "no messages"


def _video(message: Message, inputs: tuple[TensorSpec, ...]) -> tuple[Payload, Encoding | None]:
    """The access unit of a message of video, with its encoding; None in place of that: it is another message. Raises
    LogError where the model does not take it.
    """
    found = video_of(message)
    if found is None:
        return b"", None
    data, encoding = found
    if len(inputs) != 1 or encoding not in inputs[0].encodings:
        raise LogError(
            f"compressed video ({encoding}), which the model does not take; pictures would do, one a message"
        )
    return data, encoding


def payload_of(message: Message, inputs: tuple[TensorSpec, ...], fields: tuple[str, ...]) -> Payload:
    """A message as the model takes it. Raises LogError and RecordingError where it does not."""
    picture = picture_of(message)
    if picture is not None:
        if len(inputs) != 1:
            raise LogError("a picture, while the model has several inputs")
        return as_taken(picture, inputs[0]) if isinstance(picture, bytes) else _pixels_as_taken(picture, inputs[0])
    if fields:
        if len(inputs) != 1:
            raise LogError("--field is for models with one input; of several, inputs have the names of fields")
        parts = [field_of(message, field) for field in fields]
        array = parts[0] if len(parts) == 1 else np.concatenate([np.ravel(part) for part in parts])
        return _shaped(array, inputs[0], "+".join(fields))
    arrays = arrays_of(message)
    if len(inputs) > 1 or inputs[0].name in arrays:
        missing = [spec.name for spec in inputs if spec.name not in arrays]
        if missing:
            raise LogError(f"has no array {', '.join(missing)}; it has {_arrays(arrays)}")
        return {spec.name: _shaped(arrays[spec.name], spec, spec.name) for spec in inputs}
    fitting = [name for name, array in arrays.items() if _fits(array, inputs[0])]
    if len(fitting) != 1:
        way = "say which with --field" if arrays else "--field takes numbers that are no arrays"
        raise LogError(f"has {_arrays(arrays)}, of which {len(fitting) or 'none'} fit {taken(inputs[0])}; {way}")
    return _shaped(arrays[fitting[0]], inputs[0], fitting[0])


def _arrays(arrays: dict[str, Array]) -> str:
    return ", ".join(f"{name} {spelled(str(array.dtype), array.shape)}" for name, array in arrays.items()) or "no array"


def _fits(array: Array, spec: TensorSpec) -> bool:
    try:
        _shaped(array, spec, "")
    except LogError:
        return False
    return True


def _shaped(array: Array, spec: TensorSpec, name: str) -> Array:
    """Numbers in the type and shape that an input has. Integers are not made of fractions."""
    integers = array.dtype.kind in "iu" and spec.dtype.kind in "iu"
    same_kind = integers or _same_kind(array.dtype, spec.dtype)
    open_extents = sum(extent < 0 for extent in spec.shape)
    fixed = int(np.prod([extent for extent in spec.shape if extent >= 0]))
    if array.shape != spec.shape and open_extents <= 1 and fixed and array.size % fixed == 0:
        fits = bool(open_extents) or array.size == fixed
        array = array.reshape(spec.shape) if fits else array
    agrees = len(array.shape) == len(spec.shape) and all(
        there == wanted or wanted < 0 for there, wanted in zip(array.shape, spec.shape, strict=True)
    )
    if not (same_kind and agrees):
        raise LogError(f"field {name!r} is {spelled(str(array.dtype), array.shape)}; the model takes {taken(spec)}")
    converted = np.ascontiguousarray(array, spec.dtype)
    if integers and (converted != array).any():
        raise LogError(f"field {name!r} has numbers that {spec.datatype} cannot hold")
    return converted


def _same_kind(there: "np.dtype[Any]", taken: "np.dtype[Any]") -> bool:
    """Whether elements may become others: only text is text, and BFLOAT16 is made of nothing else."""
    if {there, taken}.isdisjoint((TEXT, BFLOAT16)):
        return np.can_cast(there, taken, "same_kind")
    return there == taken


def _pixels_as_taken(picture: Array, spec: TensorSpec) -> Value:
    if takes_pixels(spec) and picture.dtype == spec.dtype:
        return gray_or_colours(picture, spec)
    if {"JPEG", "PNG"}.isdisjoint(spec.encodings) or picture.dtype != np.uint8:
        raise LogError(f"pixels {spelled(str(picture.dtype), picture.shape)}; the model takes {taken(spec)}")
    cv2 = opencv("Encoding pictures")
    stored = picture[:, :, ::-1] if picture.ndim == 3 else picture
    if "JPEG" not in spec.encodings:
        return bytes(cv2.imencode(".png", stored)[1])
    return bytes(cv2.imencode(".jpg", stored, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1])


def _check_sound(rate_hz: int, channels: int, spec: TensorSpec) -> None:
    if channels != 1 or rate_hz != (spec.sample_rate_hz or rate_hz) or rate_hz < 1:
        wanted = f" at {spec.sample_rate_hz} Hz" if spec.sample_rate_hz else ""
        raise LogError(f"{channels} channel(s) at {rate_hz} Hz; the model takes 1{wanted}")


def _sound_as_taken(chunk: bytes, spec: TensorSpec) -> tuple[Value, Encoding | None]:
    if "PCM_S16LE" in spec.encodings:
        return chunk, "PCM_S16LE"
    samples = np.frombuffer(chunk, "<i2")
    return (samples, None) if spec.datatype == "INT16" else (samples.astype(np.float32) / np.float32(1 << 15), None)


def _listed(log: Log) -> str:
    names = list(log.topics)
    more = f" and {len(names) - TOPICS_TOLD_MAX} more" if len(names) > TOPICS_TOLD_MAX else ""
    return f"it has {', '.join(names[:TOPICS_TOLD_MAX]) or 'none'}{more}"
