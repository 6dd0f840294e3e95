"""Reads what clients say of their frames, and makes payloads of what lies in shared memory.

The client may change what lies there at any moment, so nothing of it is read twice: of large arrays no more is known
than their number of bytes, and of all else a copy is taken before it is looked at.
"""

import struct
from collections.abc import Sequence

from duly.models.spec import Signature
from duly.rpc.duly_v1.tensors import DATATYPE_NAME, FORMAT_NAME
from duly.rpc.local.areas import FrameArea
from duly.rpc.local.errors import malformed
from duly.rpc.local.layout import (
    ENCODED,
    EXTENTS,
    FRAME,
    FRAME_OF_ONE,
    FRAMES_HEAD,
    FRAMES_MAX,
    MUST_RUN,
    TENSOR,
    TENSOR_PLACE,
    TENSOR_REST,
)
from duly.runtime.held_frames import InputData
from duly.runtime.shared_memory import READ_THERE_BYTES_MIN, SharedData
from duly.streams.inputs import InputChecks

Rest = tuple[int, ...]
"""What TENSOR_REST holds: bytes, place of the input, kind, dimensions, extents."""
Tensor = tuple[int, Rest]
"""What TENSOR holds: offset, and the rest."""
Described = tuple[int, int, int, bool, Sequence[Tensor], int, int]
"""A frame as its client describes it: id, capture time, budget, whether it must run, its inputs, all their bytes, and
those of them that are encoded.
"""


RUN_BYTES_MAX = 256 << 10
"""Small arrays of one local message that lie one behind the other are read at once where they have no more bytes."""
_new = tuple.__new__


class FrameReader:
    """Reads the frames of one stream, whose model version may change."""

    def __init__(self, signature: Signature, area: FrameArea) -> None:
        """`signature`: what the client was told of when the stream opened; it names inputs by their place there."""
        self._names = [spec.name for spec in signature.inputs]
        self._rest_bytes = bytes(TENSOR_REST.size)
        self._rest: Rest = TENSOR_REST.unpack(self._rest_bytes)
        """What the newest input is, and the bytes that say so. Whose bytes are the same has the same object."""
        self._run_at = self._run_end = 0
        """Where the arrays of the newest message lie that are read at once."""
        self._run = b""
        """They, once the first of them was asked for."""
        self._memory = area.memory
        self._area_bytes = area.size_bytes
        self._take_up(signature)

    def _take_up(self, signature: Signature) -> None:
        self._signature = signature
        self._checks = InputChecks(signature)
        same = [spec.name for spec in signature.inputs] == self._names
        self._only_one = same and len(self._names) == 1
        self._fitting: Rest = ()
        self._shape: tuple[int, ...] = ()
        """What has fit as the only input, and its shape."""

    def described(self, message: memoryview) -> list[Described]:
        """Reads a FRAMES message, all of whose inputs lie in the area. Raises CallError."""
        self._run_at = self._run_end = 0  # what was read for an earlier message may have changed
        self._run = b""
        try:
            _, count, _ = FRAMES_HEAD.unpack_from(message)
            if not 0 < count <= FRAMES_MAX:
                raise malformed(f"it has {count} frames, 1 to {FRAMES_MAX} are taken")
            frames = self._alike(message, count)
            return self._one_by_one(message, count) if frames is None else frames
        except struct.error:
            raise malformed("it ends in the middle of a frame") from None

    def _alike(self, message: memoryview, count: int) -> list[Described] | None:
        """Reads a message all of whose frames have one input, as nearly always; None: it is another one."""
        if len(message) != FRAMES_HEAD.size + count * FRAME_OF_ONE.size:
            return None
        frames: list[Described] = []
        run_at = run_end = -1
        in_order = True
        for frame_id, captured_unix_ns, budget_ns, flags, inputs, _, offset, rest_bytes in FRAME_OF_ONE.iter_unpack(
            message[FRAMES_HEAD.size :]
        ):
            if inputs != 1:
                return None
            tensor = self._tensor(offset, rest_bytes)
            size_bytes: int = tensor[1][0]
            encoded_bytes = size_bytes if tensor[1][2] >= ENCODED else 0
            must_run = flags & MUST_RUN != 0
            frames.append((frame_id, captured_unix_ns, budget_ns, must_run, [tensor], size_bytes, encoded_bytes))
            if run_at < 0:
                run_at = run_end = offset
            in_order = in_order and offset == run_end and 0 < size_bytes < READ_THERE_BYTES_MIN
            run_end += size_bytes
        if in_order and count > 1 and run_end - run_at <= RUN_BYTES_MAX:
            self._run_at, self._run_end = run_at, run_end
        return frames

    def _one_by_one(self, message: memoryview, count: int) -> list[Described]:
        at = FRAMES_HEAD.size
        frames: list[Described] = []
        for _ in range(count):
            frame_id, captured_unix_ns, budget_ns, flags, inputs, _ = FRAME.unpack_from(message, at)
            at += FRAME.size
            tensors: list[Tensor] = []
            size_bytes = encoded_bytes = 0
            for _ in range(inputs):
                (offset,) = TENSOR_PLACE.unpack_from(message, at)
                tensor = self._tensor(offset, bytes(message[at + TENSOR_PLACE.size : at + TENSOR.size]))
                at += TENSOR.size
                tensors.append(tensor)
                size_bytes += tensor[1][0]
                if tensor[1][2] >= ENCODED:
                    encoded_bytes += tensor[1][0]
            must_run = flags & MUST_RUN != 0
            frames.append((frame_id, captured_unix_ns, budget_ns, must_run, tensors, size_bytes, encoded_bytes))
        if at != len(message):
            raise malformed(f"{len(message) - at} bytes follow its last frame")
        return frames

    def _tensor(self, offset: int, rest_bytes: bytes) -> Tensor:
        if rest_bytes != self._rest_bytes:
            rest: Rest = TENSOR_REST.unpack(rest_bytes)
            if rest[3] > EXTENTS:
                raise malformed(f"an input has {rest[3]} dimensions, at most {EXTENTS} are taken")
            self._rest_bytes, self._rest = rest_bytes, rest
        size_bytes = self._rest[0]
        if offset + size_bytes > self._area_bytes:
            text = f"an input lies at {offset} with {size_bytes} bytes, the memory for frames has {self._area_bytes}"
            raise malformed(text)
        return offset, self._rest

    def payload(self, signature: Signature, tensors: Sequence[Tensor]) -> Sequence[InputData]:
        """Makes the payload of a frame with these inputs, which were described. Raises InvalidFrame."""
        if signature is not self._signature:
            self._take_up(signature)
        if self._only_one and len(tensors) == 1:
            offset, rest = tensors[0]
            if rest is self._fitting:
                return (_new(InputData, (0, self._shape, self._array(offset, rest[0]))),)
            if not rest[1]:
                made = self._input(0, offset, rest)
                if not made.encoding:
                    self._fitting, self._shape = rest, made.shape
                return (made,)
        checks = self._checks
        payload: list[InputData | None] = [None] * checks.count
        for offset, rest in tensors:
            place = rest[1]
            index = checks.index(self._names[place] if place < len(self._names) else f"number {place}")
            checks.put(payload, index, self._input(index, offset, rest))
        return checks.complete(payload)

    def _input(self, index: int, offset: int, rest: Rest) -> InputData:
        size_bytes, kind, dimensions = rest[0], rest[2], rest[3]
        if kind < ENCODED:
            shape = rest[4 : 4 + dimensions] if dimensions else ()
            return self._checks.tensor(index, DATATYPE_NAME[kind], shape, self._array(offset, size_bytes))
        name = FORMAT_NAME.get(kind - ENCODED) or f"format {kind - ENCODED}"
        self._checks.check_encoded(index, name, size_bytes)  # before it is copied
        return self._checks.encoded(index, name, SharedData(self._memory, offset, size_bytes).copy())

    def _array(self, offset: int, size_bytes: int) -> bytes | SharedData:
        if self._run_at <= offset and offset + size_bytes <= self._run_end:
            at = offset - self._run_at
            if not self._run:
                self._run = SharedData(self._memory, self._run_at, self._run_end - self._run_at).copy()
            return self._run[at : at + size_bytes]
        there = SharedData(self._memory, offset, size_bytes)
        return there if size_bytes >= READ_THERE_BYTES_MIN else there.copy()
