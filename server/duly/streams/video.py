"""The access units of a stream's video that no worker has been given yet.

A decoder needs every access unit, also those of frames that were never run: superseded ones, expired ones, cancelled
ones. So they are kept until the next frame of the stream runs, which comes with them. A key picture needs none before
it. What is kept is bounded. Beyond that, and where a frame was refused at the door or never sent, units are missing,
which the decoder sees by the ids of their frames (`worker/video`): frames are INVALID until the next key picture.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from duly.models.spec import VIDEO
from duly.runtime.held_frames import InputData
from duly.runtime.shared_memory import SharedData
from duly.worker.channel import ENCODINGS
from duly.worker.video_units import UNITS_MAX, is_key, pack, packed_bytes

UNITS_BYTES_MAX = 4 << 20
"""A stream keeps no more bytes of access units than this whose frames were not run."""
KEPT_NS_MAX = 10_000_000_000
"""So long an access unit is kept whose frame was not run. What a stream keeps is lost to all others."""
_VIDEO = {ENCODINGS.index(name): name for name in VIDEO}


@dataclass(slots=True)
class _Unit:
    """What a frame holds, where an input of it is video."""

    frame_id: int
    data: dict[int, bytes]
    """Access units by input."""
    keys: frozenset[int]
    """The inputs for which it is a key picture."""
    size_bytes: int
    passed_ns: int | None = None
    """When its frame got its outcome without being run; None: it has none yet."""


class Video:
    """What one stream keeps."""

    def __init__(self, stream_id: int = 0) -> None:
        self.stream_id = stream_id
        """Whose ids the frames have. Members of a fusion group follow one another at one decoder."""
        self._units: list[_Unit] = []
        """Those of frames since the last that ran, in their order."""
        self.kept_bytes = 0
        """Bytes that are kept of frames that were not run."""

    def taken(self, frame_id: int, payload: Sequence[InputData], bytes_max: Sequence[int]) -> Sequence[InputData]:
        """Takes a frame that goes to the scheduler. Returns its payload, which has what is not run before it as well.

        `bytes_max`: of each input, the bytes of its largest payload.
        """
        data: dict[int, bytes] = {}
        own = list(payload)
        for index, (encoding, _, unit) in enumerate(payload):
            if encoding in _VIDEO:
                assert not isinstance(unit, SharedData)  # what is encoded is copied as soon as it comes
                data[index] = bytes(unit)
                own[index] = payload[index]._replace(data=b"")  # a view would keep its whole message beside the copy
        if not data:
            return payload
        keys = frozenset(index for index, unit in data.items() if is_key(unit, _VIDEO[payload[index].encoding]))
        self._units.append(_Unit(frame_id, data, keys, sum(map(len, data.values()))))
        return _Payload(own, self, frame_id, bytes_max)

    def answered(self, now_ns: int, frame_id: int, ran: bool) -> int:
        """Notes that a frame has its outcome. `ran`: whether a worker was given it, and all before it. Returns how many
        bytes more are kept of frames that were not run.
        """
        before_bytes = self.kept_bytes
        at = next((at for at, unit in enumerate(self._units) if unit.frame_id == frame_id), None)
        if at is None:
            return 0
        if ran:
            self.kept_bytes -= sum(unit.size_bytes for unit in self._units[: at + 1] if unit.passed_ns is not None)
            del self._units[: at + 1]
        else:
            self._units[at].passed_ns = now_ns
            self.kept_bytes += self._units[at].size_bytes
            passed = sum(unit.passed_ns is not None for unit in self._units)
            while passed >= UNITS_MAX or self.kept_bytes > UNITS_BYTES_MAX:
                self.forget(1)
                passed -= 1
        return self.kept_bytes - before_bytes

    def forget(self, count: int = sys.maxsize, until_ns: int | None = None) -> int:
        """Drops so many units whose frames have their outcome, the oldest first, and of these only what had it until
        `until_ns`. Returns by how many bytes more are kept, which is none or less.
        """
        before_bytes = self.kept_bytes
        kept: list[_Unit] = []
        for unit in self._units:
            if unit.passed_ns is not None and count and (until_ns is None or unit.passed_ns <= until_ns):
                self.kept_bytes -= unit.size_bytes
                count -= 1
            else:
                kept.append(unit)
        self._units = kept
        return self.kept_bytes - before_bytes

    def packed(self, frame_id: int, index: int, bytes_max: int) -> bytes:
        """Returns what a worker is given for input `index` of a frame: its access unit and those that go before it, as
        far as they fit into `bytes_max`. A worker may have the first of them already.
        """
        first, units = 0, list[bytes]()
        for unit in self._units:
            if index in unit.data:
                if index in unit.keys or first + len(units) != unit.frame_id:
                    first, units = unit.frame_id, []  # what was before is not needed, or of no use
                units.append(unit.data[index])
            if unit.frame_id == frame_id:
                break
        size_bytes = sum(map(len, units))
        while len(units) > 1 and (len(units) > UNITS_MAX or packed_bytes(len(units), size_bytes) > bytes_max):
            first += 1
            size_bytes -= len(units.pop(0))
        return pack(self.stream_id, first, units)

    @property
    def units(self) -> int:
        """How many access units are kept or held."""
        return len(self._units)


class _Payload(Sequence[InputData]):
    """The payload of a frame with video, as it is when it is read: it grows until its frame runs."""

    def __init__(self, own: Sequence[InputData], video: Video, frame_id: int, bytes_max: Sequence[int]) -> None:
        self._own = own
        self._video = video
        self._frame_id = frame_id
        self._bytes_max = bytes_max

    def __len__(self) -> int:
        return len(self._own)

    @overload
    def __getitem__(self, index: int) -> InputData: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[InputData]: ...
    def __getitem__(self, index: int | slice) -> InputData | Sequence[InputData]:
        if isinstance(index, slice):
            return list(self)[index]
        own = self._own[index]
        if own.encoding not in _VIDEO:
            return own
        return own._replace(data=self._video.packed(self._frame_id, index, self._bytes_max[index]))

    def __iter__(self) -> Iterator[InputData]:
        return map(self.__getitem__, range(len(self._own)))
