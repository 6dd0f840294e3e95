"""Frames whose inputs are arrays, which is what can be harmed: pictures and sound are decoded as a worker would."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from duly.models.spec import Signature, TensorSpec
from duly.worker.decode import ENCODINGS
from duly.worker.errors import InvalidFrame
from duly_learn.errors import LearnError
from duly_learn.frames.frame import Array, Encoded, LearnFrame, Value
from duly_learn.robustness.kinds import Extent, Kind, extent_of, kind_of

DECODED_BYTES_MAX = 4 << 30
"""Frames that are larger together once they are decoded are not kept in memory."""
HARMED = (Kind.PICTURE, Kind.SIGNAL, Kind.TABLE)


@dataclass(frozen=True, slots=True)
class Harmable:
    """An input that can be harmed."""

    name: str
    kind: Kind
    extent: Extent


@dataclass(frozen=True, slots=True)
class Plain:
    """Frames with arrays, and which of their inputs can be harmed."""

    frames: tuple[LearnFrame, ...]
    harmable: tuple[Harmable, ...]
    notes: tuple[str, ...]
    """Which inputs cannot be harmed, and why."""

    @property
    def judged(self) -> list[int]:
        """The places of the frames whose answers count: all but those that warm up."""
        return [index for index, frame in enumerate(self.frames) if not frame.warms_up]

    def array(self, frame: int, name: str) -> Array:
        """Returns the input of a frame that can be harmed."""
        value = self.frames[frame].inputs[name]
        assert not isinstance(value, Encoded)
        return value


def plain(
    frames: Sequence[LearnFrame],
    signature: Signature,
    only: Sequence[str] = (),
    stated: Mapping[str, Kind] | None = None,
) -> Plain:
    """Decodes what is encoded. `only`: the inputs to be harmed, all where none is named. `stated`: what kinds inputs
    are, where that is not what they look like.

    Raises LearnError: an input is not there, nothing can be harmed, a frame cannot be decoded, or they do not fit into
    memory.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    for name in (*only, *(stated or ())):
        if name not in specs:
            raise LearnError(f"input {name!r}: there is none; the model takes {', '.join(specs)}")
    kinds: dict[str, Kind] = {}
    notes: list[str] = []
    for name, spec in specs.items():
        kind = (stated or {}).get(name) or kind_of(spec, frames[0].inputs[name])
        if kind in HARMED and (not only or name in only):
            kinds[name] = kind
        elif kind not in HARMED:
            notes.append(f"input {name!r} is left as it is: {_WHY[kind]}")
    if not kinds:
        raise LearnError(f"nothing of this model's frames can be harmed: {'; '.join(notes)}")
    decoded: list[LearnFrame] = []
    size_bytes = 0
    for index, frame in enumerate(frames):
        arrays = {name: _array(specs[name], frame.inputs[name], index, frame.stream) for name in kinds}
        decoded.append(replace(frame, inputs={**frame.inputs, **arrays}))
        size_bytes += sum(array.nbytes for array in arrays.values())
        if size_bytes > DECODED_BYTES_MAX:
            raise LearnError(
                f"{index + 1} of {len(frames)} frames take more than {DECODED_BYTES_MAX:,} bytes once they are "
                "decoded; take fewer (--frames-max)"
            )
    harmable = [
        Harmable(name, kind, _extent(kind, frames[0].inputs[name], [frame.inputs[name] for frame in decoded], name))
        for name, kind in kinds.items()
    ]
    return Plain(tuple(decoded), tuple(harmable), tuple(notes))


_WHY = {
    Kind.TEXT: "it is text",
    Kind.OTHER: "it is neither a picture, nor samples in time, nor columns of numbers",
}


def _array(spec: TensorSpec, value: Value, index: int, stream: str) -> Array:
    if not isinstance(value, Encoded):
        return value
    decode = ENCODINGS[value.encoding].decode
    if decode is None:
        raise LearnError(f"frame {index} of {stream}: {value.encoding} cannot be harmed frame by frame; give pictures")
    try:
        return decode(memoryview(value.data), value.encoding, spec)
    except InvalidFrame as error:
        raise LearnError(f"frame {index} of {stream}: {error}") from error


def _extent(kind: Kind, first: Value, values: Sequence[Value], name: str) -> Extent:
    arrays = [value for value in values if not isinstance(value, Encoded)]
    shapes = {array.ndim for array in arrays}
    if len(shapes) > 1 or (kind is Kind.PICTURE and shapes & {0, 1}) or arrays[0].dtype.kind not in "uif":
        raise LearnError(f"input {name!r}: is no {kind}: {arrays[0].dtype}{list(arrays[0].shape)}")
    return extent_of(kind, first, arrays)
