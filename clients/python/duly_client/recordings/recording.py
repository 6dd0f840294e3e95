"""What a recording is, whatever kind of file it comes from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from duly_client.convert import spelled
from duly_client.types import Encoding, TensorSpec, Value

PERIOD_S = 0.1
"""Period of pictures and arrays, which state none."""


class RecordingError(ValueError):
    """The recording, or a piece of it, cannot be read, or is not what the model takes. The message names the file."""


PassOver = Callable[[RecordingError], None]
"""Hears which piece of a recording cannot be used, and why. The recording goes on after it, unless this raises."""


class Frame(NamedTuple):
    value: Value
    name: str = ""
    """Where it comes from, for people; empty where the recording's own name says it."""


def refuse(error: RecordingError) -> None:
    """Passes over nothing: the first piece that cannot be used ends the recording."""
    raise error


@dataclass(frozen=True, slots=True)
class Recording:
    """Frames of one sensor. Iterating gives payloads for `Stream.send`; it works again only if `repeatable`."""

    description: str
    """What the recording is and how long, for people."""
    period_s: float
    """Time between frames; 0: not known, they are live."""
    encoding: Encoding | None
    """Encoding to pass to `Stream.send`."""
    repeatable: bool
    _frames: Callable[[PassOver], Iterator[Frame]]
    left_out: str = ""
    """What lies beside it and is no part of it, for people; empty: nothing."""

    def __iter__(self) -> Iterator[Value]:
        """Gives the frames. Raises RecordingError at the first piece that cannot be used."""
        return (frame.value for frame in self.frames())

    def frames(self, pass_over: PassOver = refuse) -> Iterator[Frame]:
        """Gives the frames with their names, and tells `pass_over` what cannot be used. Raises what that raises."""
        return self._frames(pass_over)


def taken(spec: TensorSpec) -> str:
    """What an input takes, for messages."""
    return " or ".join((spelled(spec.datatype, spec.shape), *spec.encodings))
