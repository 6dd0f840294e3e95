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
from duly.rpc.local.layout import ENCODED, EXTENTS, FRAME, FRAMES_HEAD, FRAMES_MAX, MUST_RUN, TENSOR
from duly.runtime.held_frames import InputData
from duly.runtime.shared_memory import READ_THERE_BYTES_MIN, SharedData
from duly.streams.inputs import InputChecks

Tensor = tuple[int, ...]
"""What TENSOR holds: offset, bytes, place of the input, kind, dimensions, extents."""
Described = tuple[int, int, int, bool, Sequence[Tensor], int, int]
"""A frame as its client describes it: id, capture time, budget, whether it must run, its inputs, all their bytes, and
those of them that are encoded.
"""


class FrameReader:
    """Reads the frames of one stream, whose model version may change."""

    def __init__(self, signature: Signature, area: FrameArea) -> None:
        """`signature`: what the client was told of when the stream opened; it names inputs by their place there."""
        self._names = [spec.name for spec in signature.inputs]
        self._memory = area.memory
        self._area_bytes = area.size_bytes
        self._take_up(signature)

    def _take_up(self, signature: Signature) -> None:
        self._signature = signature
        self._checks = InputChecks(signature)
        same = [spec.name for spec in signature.inputs] == self._names
        self._only_one = same and len(self._names) == 1

    def described(self, message: memoryview) -> list[Described]:
        """Reads a FRAMES message, all of whose inputs lie in the area. Raises CallError."""
        try:
            _, count, _ = FRAMES_HEAD.unpack_from(message)
            if not 0 < count <= FRAMES_MAX:
                raise malformed(f"it has {count} frames, 1 to {FRAMES_MAX} are taken")
            at = FRAMES_HEAD.size
            frames: list[Described] = []
            for _ in range(count):
                frame_id, captured_unix_ns, budget_ns, flags, inputs, _ = FRAME.unpack_from(message, at)
                at += FRAME.size
                tensors: list[Tensor] = []
                size_bytes = encoded_bytes = 0
                for _ in range(inputs):
                    tensor: Tensor = TENSOR.unpack_from(message, at)
                    at += TENSOR.size
                    tensor_bytes = tensor[1]
                    if tensor[0] + tensor_bytes > self._area_bytes:
                        text = f"an input lies at {tensor[0]} with {tensor_bytes} bytes, the memory for frames has"
                        raise malformed(f"{text} {self._area_bytes}")
                    if tensor[4] > EXTENTS:
                        raise malformed(f"an input has {tensor[4]} dimensions, at most {EXTENTS} are taken")
                    tensors.append(tensor)
                    size_bytes += tensor_bytes
                    if tensor[3] >= ENCODED:
                        encoded_bytes += tensor_bytes
                must_run = flags & MUST_RUN != 0
                frames.append((frame_id, captured_unix_ns, budget_ns, must_run, tensors, size_bytes, encoded_bytes))
        except struct.error:
            raise malformed("it ends in the middle of a frame") from None
        if at != len(message):
            raise malformed(f"{len(message) - at} bytes follow its last frame")
        return frames

    def payload(self, signature: Signature, tensors: Sequence[Tensor]) -> Sequence[InputData]:
        """Makes the payload of a frame with these inputs, which were described. Raises InvalidFrame."""
        if signature is not self._signature:
            self._take_up(signature)
        if self._only_one and len(tensors) == 1 and not tensors[0][2]:
            return (self._input(0, tensors[0]),)
        checks = self._checks
        payload: list[InputData | None] = [None] * checks.count
        for tensor in tensors:
            place = tensor[2]
            index = checks.index(self._names[place] if place < len(self._names) else f"number {place}")
            checks.put(payload, index, self._input(index, tensor))
        return checks.complete(payload)

    def _input(self, index: int, tensor: Tensor) -> InputData:
        size_bytes, kind, dimensions = tensor[1], tensor[3], tensor[4]
        data = SharedData(self._memory, tensor[0], size_bytes)
        if kind < ENCODED:
            there = data if size_bytes >= READ_THERE_BYTES_MIN else data.copy()
            shape = tensor[5 : 5 + dimensions] if dimensions else ()
            return self._checks.tensor(index, DATATYPE_NAME[kind], shape, there)
        name = FORMAT_NAME.get(kind - ENCODED) or f"format {kind - ENCODED}"
        return self._checks.encoded(index, name, data.copy())
