"""A frame as a client would send it, with what is known of it besides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture, an access unit of video, or sound, as it is encoded."""

    encoding: str
    """Such as JPEG, by the names of `worker.channel.ENCODINGS`."""
    data: bytes

    @property
    def nbytes(self) -> int:
        return len(self.data)


Value = Array | Encoded


@dataclass(frozen=True, slots=True)
class LearnFrame:
    """One sensor's sample, without a batch dimension."""

    inputs: Mapping[str, Value]
    """By the names of the model's inputs."""
    stream: str
    """Which frames are of one sensor, one after the other; a name for people."""
    when_ns: int
    """When it was captured. Only the order and distances within a stream mean something."""
    label: Mapping[str, Array] | None = None
    """What would have been right, by the names of outputs and in their form; None: nobody has said."""
    warms_up: bool = False
    """Whether it is run so that the model's state is known after it, and not judged."""

    @property
    def nbytes(self) -> int:
        """Bytes of its inputs."""
        return sum(value.nbytes for value in self.inputs.values())


def as_array(value: object) -> Array:
    """Returns text as an array of it, and arrays as they are."""
    if isinstance(value, str):
        array: Array = np.empty(1, object)
        array[0] = value
        return array
    return np.asarray(value)
