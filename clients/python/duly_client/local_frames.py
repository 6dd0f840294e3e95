"""Puts frames into the memory that is shared with the server, and says in bytes where they lie and what they are."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from duly_client import local_wire, wire
from duly_client.local_memory import FrameMemory

_WITHIN = 8
"""Inputs of one frame begin at multiples of this, which is no more than gRPC's heads take that sizes count."""


class FrameWriter:
    """Writes the frames of one connection."""

    def __init__(self, memory: FrameMemory, names: Sequence[str], most: Callable[[], str]) -> None:
        """`names`: of the inputs, in their order. `most`: says how large frames may be."""
        self._memory = memory
        self._most = most
        self._places = {name: place for place, name in enumerate(names)}
        if len(names) == 1:
            self._places[""] = 0
        self._tail: tuple[object, int, bytes] = (None, 0, b"")
        """What the last input was, as described and in bytes, and what was said of it."""
        self._alike = local_wire.AlikeFrames()

    def frame(
        self, frame_id: int, captured_ns: int, budget_ns: int, must_run: bool, inputs: wire.Inputs
    ) -> tuple[int, bytes]:
        """Returns where the frame lies, and what is said of it. Raises ValueError where it is too large."""
        if len(inputs.described) == 1:
            block, tail = self._one(inputs)
            return block, local_wire.frame_of_one(frame_id, captured_ns, budget_ns, must_run, block, tail)
        parts = [local_wire.frame_head(frame_id, captured_ns, budget_ns, must_run, len(inputs.described))]
        block = self._several(inputs, parts)
        return block, b"".join(parts)

    def place(self, alike: wire.Alike, count: int) -> int:
        """Puts the first frames of these into one block. Returns where they lie; -1: there is no room in one piece."""
        memory, arrays, size_bytes = self._memory, alike.arrays, alike.data_bytes
        block = memory.sent(arrays) if isinstance(arrays, np.ndarray) and count == len(arrays) else -1
        if block < 0:
            block = memory.take(count * size_bytes)
            if block < 0:
                return -1
            if isinstance(arrays, np.ndarray):
                memory.write(block, arrays[:count], count * size_bytes)
            else:
                for nth in range(count):
                    memory.write(block + nth * size_bytes, arrays[nth], size_bytes)
        memory.divide(block, count)
        return block

    def alike(
        self, ids: range, captured_ns: int, budget_ns: int, must_run: bool, alike: wire.Alike, block: int
    ) -> memoryview:
        """Returns a message with these frames, which lie one behind the other. It holds until the next one is made."""
        tail = self._tail_of(alike.described[0], alike.data_bytes)
        return self._alike.message(ids, captured_ns, budget_ns, must_run, block, alike.data_bytes, tail)

    def _one(self, inputs: wire.Inputs) -> tuple[int, bytes]:
        """Puts a frame's only input into the memory. Returns where it lies, and the tail of what to say of it."""
        memory = self._memory
        data = inputs.pieces[1]
        size_bytes = data.nbytes if isinstance(data, np.ndarray) else len(data)
        tail = self._tail_of(inputs.described[0], size_bytes)
        block = memory.sent(data) if isinstance(data, np.ndarray) else -1
        if block < 0:
            block = self._room(size_bytes)
            memory.write(block, data, size_bytes)
        return block, tail

    def _tail_of(self, described: wire.Described, size_bytes: int) -> bytes:
        before, before_bytes, tail = self._tail
        if described is not before or size_bytes != before_bytes:
            name, kind, shape = described
            tail = local_wire.tensor_tail(size_bytes, self._places.get(name, 0xFFFF), kind, shape)
            self._tail = described, size_bytes, tail
        return tail

    def _several(self, inputs: wire.Inputs, parts: list[bytes]) -> int:
        """Puts inputs into the memory, and what to say of them into `parts`. Returns where they lie."""
        pieces: tuple[Any, ...] = inputs.pieces
        sizes = [data.nbytes if isinstance(data, np.ndarray) else len(data) for data in pieces[1::2]]
        block = offset = self._room(sum([-(-size // _WITHIN) * _WITHIN for size in sizes]))
        for (name, kind, shape), data, size_bytes in zip(inputs.described, pieces[1::2], sizes, strict=True):
            self._memory.write(offset, data, size_bytes)
            parts.append(local_wire.tensor(offset, size_bytes, self._places.get(name, 0xFFFF), kind, shape))
            offset += -(-size_bytes // _WITHIN) * _WITHIN
        return block

    def _room(self, size_bytes: int) -> int:
        block = self._memory.take(size_bytes)
        if block < 0:
            raise ValueError(f"a frame of {size_bytes} bytes is too large: {self._most()}")
        return block
