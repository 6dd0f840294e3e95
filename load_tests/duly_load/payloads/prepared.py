"""What the frames of a sensor hold: random numbers, or what was recorded, in the form that the model takes.

Theory of operation. All payloads are made before the run and held in memory, since to make one while the schedule runs
would make the generator late. They follow from the scenario, the model and the seed: equal ones give equal payloads.

Nothing is guessed that changes what the server has to do: extents that the model leaves free come from `shape` of the
scenario, else from the recording, else from what is usual for pictures and sound; where none of them says, it is an
error. `duly_load.payloads.random_frames` says what is drawn, `duly_load.payloads.pictures` how pictures are made to
fit, `duly_logs.messages` what is read out of logs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, repeat
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from duly_client.convert import DATATYPES, DTYPES, Array, spelled
from duly_client.recordings import ARRAYS, PICTURES, VIDEOS, RecordingError, recording_for
from duly_client.types import Encoding, Payload, TensorSpec, Value
from duly_load.payloads.pictures import PictureError, as_taken, takes_any_size
from duly_load.payloads.random_frames import draw, usual_extents
from duly_load.scenario.mcap_log import read_messages
from duly_load.scenario.tables import Payloads
from duly_logs.log import LogError

if TYPE_CHECKING:
    from duly_logs.messages import Message

PAYLOAD_BYTES_MAX = 512 * 2**20
"""The most bytes of all payloads of one sensor together."""
PROCESS_BYTES_MAX = 2**30
"""The most bytes of all payloads that one sender process holds."""

_PAYLOADS = 0xB0
"""What the generator is for; part of its seed, as in `duly_load.scenario.arrivals`."""
_PIXELS = TensorSpec("pixels", "UINT8", DTYPES["UINT8"], (-1, -1, 3))


class PayloadError(Exception):
    """Payloads of the scenario, recording and model do not go together; says what does not and what would be right."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The payloads of one sensor."""

    frames: list[Payload]
    """One or more payloads, which are sent in turn, over and over."""
    encoding: Encoding | None
    """The encoding of byte strings; None: payloads are arrays, or pictures, which name it themselves."""


def prepare(payloads: Payloads, inputs: Sequence[TensorSpec], seed: int, source: str) -> Prepared:
    """The payloads for a model that takes `inputs`; empty: the target does not say, and the scenario must.

    At most `payloads.distinct` of them, of a recording the first. `source` names the sensor in messages.
    Raises PayloadError.
    """
    specs = tuple(inputs)
    file = payloads.recording
    try:
        if len(specs) <= 1:
            specs = (_only_input(payloads, specs),)
        elif payloads.shape:
            raise PayloadError(f"payloads.shape is for models of one input, this one takes {_all_taken(specs)}")
        if file is None:
            return _random(specs, payloads.distinct, np.random.default_rng([seed, _PAYLOADS]))
        if len(specs) > 1:
            raise PayloadError(f"a recording feeds models of one input, this one takes {_all_taken(specs)}")
        return _recorded(file, payloads.topic, specs[0], payloads.distinct)
    except (PayloadError, RecordingError) as error:
        raise PayloadError(f"{source}: {error}") from error
    except (LogError, PictureError) as error:
        raise PayloadError(f"{source}: {file}: {error}") from error
    except OSError as error:
        raise PayloadError(f"{source}: {file}: can't be read: {error.strerror or error}") from error


def check_held(prepared: Iterable[Prepared]) -> None:
    """Raises PayloadError where these, all that one process is to send, are more than it may hold."""
    held_bytes = sum(bytes_of(frame) for each in prepared for frame in each.frames)
    if held_bytes > PROCESS_BYTES_MAX:
        raise PayloadError(
            f"stream: the payloads of all sensors of one sender process may take {PROCESS_BYTES_MAX >> 20} MiB, would "
            f"take {-(-held_bytes >> 20)} or more; payloads.distinct should be less"
        )


def _only_input(payloads: Payloads, inputs: tuple[TensorSpec, ...]) -> TensorSpec:
    """The model's, with the extents that `shape` says in place of free ones."""
    shape = payloads.shape
    if not inputs:
        if not shape:
            raise PayloadError(
                "the target does not say what the model takes: payloads.shape should, and payloads.datatype where it "
                "is not FP32"
            )
        return TensorSpec("x", payloads.datatype, DTYPES[payloads.datatype], shape)
    if not shape:
        return inputs[0]
    if not _fits(shape, inputs[0]):
        raise PayloadError(f"payloads.shape is {list(shape)}, while the model takes {_all_taken(inputs)}")
    return replace(inputs[0], shape=shape)


def _random(specs: tuple[TensorSpec, ...], distinct: int, rng: np.random.Generator) -> Prepared:
    if len(specs) == 1:
        specs = (usual_extents(specs[0]),)
    for spec in specs:
        if -1 in spec.shape:
            how = "payloads.shape should say them" if len(specs) == 1 else "no model of several inputs may have such"
            raise PayloadError(f"the model takes {_all_taken(specs)}, where extents may be any: {how}")
    if (frame_bytes := sum(prod(spec.shape) * spec.dtype.itemsize for spec in specs)) > PAYLOAD_BYTES_MAX:
        raise PayloadError(f"one frame takes {frame_bytes >> 20} MiB, more than the {PAYLOAD_BYTES_MAX >> 20} allowed")
    frames = _held((draw(specs, rng) for _ in repeat(None)), distinct)
    encoding: Encoding | None = "PCM_S16LE" if len(specs) == 1 and "PCM_S16LE" in specs[0].encodings else None
    return Prepared(frames, encoding)


def _recorded(file: Path, topic: str, spec: TensorSpec, distinct: int) -> Prepared:
    suffix = file.suffix.lower()
    if topic and suffix != ".mcap":
        raise PayloadError(f"payloads.topic goes with a recording that is an .mcap, not with {file}")
    encoding: Encoding | None = None
    frames: Iterable[Payload]
    if suffix == ".mcap":
        frames = (_of_message(message, spec) for message in read_messages(file, topic, distinct))
    elif suffix in PICTURES | VIDEOS or file.is_dir():
        pictures = recording_for(file, spec if takes_any_size(spec) else _PIXELS)
        frames = (as_taken(picture, spec) for picture in pictures)
    elif suffix in ARRAYS:
        frames = (_as_stored(array, spec, file) for array in recording_for(file, spec))
    else:
        frames = sound = recording_for(file, spec)
        encoding = sound.encoding
    return Prepared(_held(frames, distinct), encoding)


def _of_message(message: "Message", spec: TensorSpec) -> Value:
    from duly_logs.messages import arrays_of, picture_of  # its packages are there, or there would be no message

    picture = picture_of(message)
    if picture is not None:
        if isinstance(picture, bytes):
            return as_taken(picture, spec)
        if picture.dtype != np.uint8:
            raise LogError(f"has a {message.schema} of {picture.dtype}; pictures should have 8 bits a channel")
        return as_taken(np.repeat(picture[:, :, None], 3, axis=2) if picture.ndim == 2 else picture, spec)
    arrays = arrays_of(message)
    for array in arrays.values():
        value = _as_numbers(array, spec)
        if value is not None:
            return value
    found = ", ".join(f"{name} {spelled(_datatype(array), array.shape)}" for name, array in arrays.items())
    raise LogError(
        f"{message.schema or 'a message without a schema'} has {found or 'no pictures and no arrays of numbers'}, "
        f"while the model takes {_taken(spec)}"
    )


def _as_numbers(array: Array, spec: TensorSpec) -> Array | None:
    """`array` in the model's shape and datatype; None where it does not fit, or its numbers do not."""
    free = spec.shape.count(-1)
    if not _fits(array.shape, spec):
        # Messages mostly hold flat arrays, whatever the shape of the data.
        fixed = prod(extent for extent in spec.shape if extent >= 0)
        if array.ndim != 1 or free > 1 or (array.size % fixed if free else array.size != fixed):
            return None
        array = array.reshape(spec.shape)
    if spec.dtype.kind == "f" and array.dtype.kind != "b":
        return np.ascontiguousarray(array, spec.dtype)
    with np.errstate(invalid="ignore"):
        converted = np.ascontiguousarray(array, spec.dtype)
    return converted if np.array_equal(converted, array) else None


def _as_stored(array: Value, spec: TensorSpec, file: Path) -> Array:
    assert isinstance(array, np.ndarray)
    if array.dtype != spec.dtype or not _fits(array.shape, spec):
        raise PayloadError(f"{file}: arrays {spelled(_datatype(array), array.shape)}, the model takes {_taken(spec)}")
    return np.array(array)  # out of the file, which is mapped


def _held(frames: Iterable[Payload], distinct: int) -> list[Payload]:
    """The first `distinct` of them, in memory, as far as that is allowed."""
    held: list[Payload] = []
    held_bytes = 0
    for frame in islice(frames, distinct):
        held_bytes += bytes_of(frame)
        if held_bytes > PAYLOAD_BYTES_MAX:
            raise PayloadError(
                f"{distinct} frames are more than the {PAYLOAD_BYTES_MAX >> 20} MiB that are held in memory: "
                + (f"payloads.distinct should be at most {len(held)}" if held else "one alone is larger")
            )
        held.append(frame)
    if not held:
        raise PayloadError("there is not a single whole frame in the recording")
    return held


def bytes_of(frame: Payload) -> int:
    """The size of a frame's contents."""
    if isinstance(frame, Mapping):
        return sum(bytes_of(value) for value in frame.values())
    return frame.nbytes if isinstance(frame, np.ndarray) else len(frame)


def _fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    return len(shape) == len(spec.shape) and all(
        wanted in (-1, extent) for wanted, extent in zip(spec.shape, shape, strict=True)
    )


def _datatype(array: Array) -> str:
    return DATATYPES.get(array.dtype, str(array.dtype))


def _taken(spec: TensorSpec) -> str:
    return " or ".join((spelled(spec.datatype, spec.shape), *spec.encodings))


def _all_taken(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {_taken(spec)}" for spec in specs)
