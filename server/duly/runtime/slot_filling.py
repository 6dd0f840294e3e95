"""Copies the payloads of a batch into the slot that its worker reads, which is the one copy that is made of them."""

from collections.abc import Callable, Collection, Sequence

from duly.core.events import DispatchBatch
from duly.runtime.held_frames import InputData
from duly.runtime.shared_memory import ClientMemory, SharedData
from duly.worker import channel, shared_frames


def fill_slot(
    region: channel.Region,
    slot: int,
    action: DispatchBatch,
    payloads: Sequence[Sequence[InputData]],
    bases: Sequence[int],
    bytes_max: Sequence[int],
    shares: Callable[[ClientMemory], bool],
    order: Sequence[int],
    there: Collection[int],
) -> tuple[list[tuple[int, bool, list[channel.TensorRef]]], list[shared_frames.Piece], int]:
    """Fills a slot of the region. `bases`: where the first frame's place for each input begins; `bytes_max`: how large
    such a place is. `shares`: whether the worker reads that memory of a client itself. `order`: the index of the frame
    that goes to each row. `there`: the rows that are filled already.

    Returns the frames as the worker is told of them, what it has to read itself, and how many bytes were filled with
    either. Raises ValueError where a payload does not fit its place, and OSError where the system has no memory for it.
    """
    frames: list[tuple[int, bool, list[channel.TensorRef]]] = []
    pieces: list[shared_frames.Piece] = []
    filled = 0
    resets = action.resets_state
    for row, index in enumerate(order):
        frame, payload = action.frames[index], payloads[index]
        if len(payload) != len(bases):
            raise ValueError(f"a frame with {len(payload)} inputs, the model takes {len(bases)}")
        refs: list[channel.TensorRef] = []
        for position, (encoding, shape, data) in enumerate(payload):
            offset, length = bases[position] + row * bytes_max[position], len(data)
            refs.append((offset, length, encoding, shape))
            if row in there:
                continue
            if isinstance(data, SharedData) and length <= bytes_max[position] and shares(data.memory):
                pieces.append((data.memory.stream_id, data.offset, offset, length))
            else:
                put(region, slot, position, offset, data, bytes_max[position])
            filled += length
        frames.append((frame.stream_id, frame.seq in resets, refs))
    return frames, pieces, filled


def put(
    region: channel.Region,
    slot: int,
    position: int,
    offset: int,
    data: bytes | memoryview | SharedData,
    bytes_max: int,
) -> bool:
    """Copies the data of one input to its place. Returns whether all of it was there. Raises as `fill_slot` does."""
    length = len(data)
    if length > bytes_max:  # it would reach into its neighbour's place
        raise ValueError(f"a frame with {length} bytes for input {position}, the model takes {bytes_max}")
    region.reserve(slot, offset, length)
    area = region.inputs[slot]
    if isinstance(data, SharedData):
        return data.read_into(area[offset : offset + length])
    area[offset : offset + length] = data
    return True
