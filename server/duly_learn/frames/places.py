"""Where frames come from: folders of samples, recordings of all kinds, logs of drives.

What lies in a place is read once, from its beginning to its end, and `limit` frames of all are kept: by chance
(Vitter's reservoir, seeded), or, for a model that remembers what came before, the first ones of each place.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from duly.models.spec import Signature, TensorSpec
from duly_client import types as client
from duly_client.convert import DTYPES
from duly_client.recordings import RecordingError, recording_for
from duly_learn.errors import LearnError
from duly_learn.frames.frame import Encoded, LearnFrame, Value, as_array
from duly_learn.frames.samples import Which, frames_of, is_sample_folder, samples_in

FRAMES_READ_MAX = 200_000
"""Of one place, no more frames are looked at: at 30 a second, almost two hours."""
BYTES_MAX = 4 << 30
"""Reading ends with an error where the frames that are kept are larger together."""
REASONS_MAX = 3
_LOGS = {".mcap", ".bag"}
_MAGIC: tuple[tuple[bytes, str], ...] = ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"))


class NoFrames(LearnError):
    """Nothing in the places fits the model."""


@dataclass(slots=True)
class _Kept:
    """The frames that are kept of all that come."""

    limit: int
    chance: random.Random | None
    """None: the first ones are kept."""
    frames: list[tuple[int, LearnFrame]]
    came: int = 0

    @property
    def is_full(self) -> bool:
        return self.chance is None and len(self.frames) >= self.limit

    def take(self, frame: LearnFrame) -> int:
        """Returns how many bytes more are kept now."""
        self.came += 1
        if len(self.frames) < self.limit:
            self.frames.append((self.came, frame))
            return frame.nbytes
        if self.chance is not None and (place := self.chance.randrange(self.came)) < self.limit:
            before = self.frames[place][1].nbytes
            self.frames[place] = (self.came, frame)
            return frame.nbytes - before
        return 0


def frames_from(
    places: Sequence[Path],
    signature: Signature,
    limit: int,
    seed: int,
    topic: str = "",
    told: Callable[[str], None] = lambda line: None,
    model: str = "",
    flagged: bool = False,
) -> list[LearnFrame]:
    """Returns at most `limit` frames of all places, by place and in their order.

    A place is a folder of samples (.npz) or of pictures, an .npz of frames, a log (MCAP, a bag of ROS), or any other
    recording that `duly stream` takes. `topic`: that of logs in which several fit. `told` hears what cannot be used.
    Of what a server has kept, frames of other models than `model` are passed over (empty: none are), those on which a
    guard has found something unless `flagged` says so, and for a model that keeps state those that do not follow one
    another.

    Raises:
        NoFrames: there is none; the message says what was wrong with the first ones.
        LearnError: they do not fit into memory.
        OSError: a place cannot be read.
    """
    if not places:
        raise NoFrames("no place is named that frames could come from; say --frames PATH")
    kept: list[LearnFrame] = []
    reasons: list[str] = []
    chance = None if signature.stateful else random.Random(seed)
    whole = _Kept(limit, chance, [])
    which = Which(model, flagged, signature.stateful)
    there_bytes = 0
    for nth, place in enumerate(places):
        here = whole if chance else _Kept(_share(limit, len(places), nth), None, [])
        for found in islice(_frames(place, signature.inputs, topic, which), FRAMES_READ_MAX):
            if isinstance(found, str):
                reasons.append(found)
                told(found)
            else:
                there_bytes += here.take(found)
            if there_bytes > BYTES_MAX:
                raise LearnError(
                    f"the first {len(kept) + len(here.frames)} frames take {there_bytes:,} bytes, more than the "
                    f"{BYTES_MAX:,} that are kept in memory; take fewer (--frames-max)"
                )
            if here.is_full:
                break
        if chance is None:
            kept += [frame for _, frame in here.frames]
    kept = kept or [frame for _, frame in sorted(whole.frames, key=lambda entry: entry[0])]
    if not kept:
        named = ", ".join(map(str, places[:REASONS_MAX])) + (", …" if len(places) > REASONS_MAX else "")
        why = "; ".join(dict.fromkeys(reasons[:REASONS_MAX])) or "there is nothing in it"
        raise NoFrames(f"no frame of {named} fits the model: {why}")
    return kept


def _share(limit: int, places: int, nth: int) -> int:
    return max(1, limit // places + (nth < limit % places))


def _frames(place: Path, inputs: tuple[TensorSpec, ...], topic: str, which: Which) -> Iterator[LearnFrame | str]:
    """Gives the frames of one place, and in place of what cannot be used, why not."""
    if place.is_dir() and is_sample_folder(place):
        yield from samples_in(place, inputs, which)
    elif place.suffix == ".npz" and place.is_file():
        yield from frames_of(place, inputs)
    elif place.suffix in _LOGS or (place / "metadata.yaml").exists():
        yield from _of_log(place, inputs, topic)
    else:
        yield from _of_recording(place, inputs)


def _of_recording(place: Path, inputs: tuple[TensorSpec, ...]) -> Iterator[LearnFrame | str]:
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        yield f"{place}: a recording feeds models with one input; this one takes {names}: give samples (.npz)"
        return
    spec = _for_client(inputs[0])
    passed_over: list[str] = []
    try:
        recording = recording_for(place, spec)
        for index, frame in enumerate(recording.frames(lambda error: passed_over.append(str(error)))):
            yield from passed_over
            passed_over.clear()
            value = _value(frame.value, recording.encoding, inputs[0])
            yield LearnFrame({inputs[0].name: value}, str(place), round(index * recording.period_s * 1e9))
    except RecordingError as error:
        yield str(error)
    yield from passed_over


def _of_log(place: Path, inputs: tuple[TensorSpec, ...], topic: str) -> Iterator[LearnFrame | str]:
    try:
        from duly_logs.feeds import find_feed
        from duly_logs.log import LogError
        from duly_logs.opening import open_log
    except ModuleNotFoundError as error:
        raise LearnError(f"{place}: a log needs the module {error.name}: pip install 'duly[logs]'") from error
    passed_over: list[str] = []
    try:
        feed = find_feed(open_log(place), _terms(inputs), topic)
        for frame in feed.frames(lambda error: passed_over.append(str(error))):
            yield from passed_over
            passed_over.clear()
            given = frame.value if isinstance(frame.value, dict) else {inputs[0].name: frame.value}
            values = {spec.name: _value(given[spec.name], frame.encoding, spec) for spec in inputs}
            yield LearnFrame(values, f"{place}:{feed.topic}", frame.stamp_ns or frame.time_ns)
    except LogError as error:
        yield str(error)
    yield from passed_over


def _value(value: object, encoding: str | None, spec: TensorSpec) -> Value:
    """A value of a client as a frame holds it. Pictures say by their first bytes what they are."""
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        found = encoding or next((name for magic, name in _MAGIC if data.startswith(magic)), "")
        if found == "JPEG" and "JPEG" not in spec.encodings and "MJPEG" in spec.encodings:
            found = "MJPEG"
        return Encoded(found, data)
    return as_array(value)


def _for_client(spec: TensorSpec) -> client.TensorSpec:
    return client.TensorSpec(
        spec.name,
        spec.datatype,
        DTYPES[spec.datatype],
        spec.shape,
        spec.encodings,
        spec.labels,
        spec.sample_rate_hz,
        spec.finite,
    )


def _terms(inputs: tuple[TensorSpec, ...]) -> client.StreamTerms:
    """The terms of a stream of the model, of which a log reads what the inputs are."""
    return client.StreamTerms(
        stream_id=0,
        version="",
        inputs=tuple(map(_for_client, inputs)),
        outputs=(),
        variants=(),
        stream_class="",
        backlog="",
        backlog_frames=0,
        ordering="",
        gap="",
        default_budget_ns=0,
        planned_latency_ns=0,
        utilisation=0.0,
        frames_in_flight_max=0,
        bytes_in_flight_max=0,
        message_bytes_max=0,
    )
