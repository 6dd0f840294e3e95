"""A recording as a sensor streams it: payloads one after the other, at the sensor's rate."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from duly_client import StreamTerms
from duly_client.recordings import open_recording
from duly_client.types import Encoding, Payload

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording in memory, at the rate of its sensor; it begins again when it ends."""

    payloads: list[Payload]
    period_ns: int
    encoding: Encoding | None = None
    """How the payloads are encoded; None: they are arrays."""

    def at(self, elapsed_ns: int) -> tuple[int, Payload]:
        """Index and payload of what the sensor captures `elapsed_ns` after its start."""
        index = elapsed_ns // self.period_ns % len(self.payloads)
        return index, self.payloads[index]


def read_clip(path: Path, terms: StreamTerms, start: int, stop: int) -> Clip:
    """Reads the frames from `start` to before `stop` of a file, in the form that a stream of such `terms` takes."""
    recording = open_recording(path, terms)
    return Clip(list(islice(recording, start, stop)), round(recording.period_s * _NS), recording.encoding)
