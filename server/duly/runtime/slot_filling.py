"""Copies the payloads of a batch into the slot that its worker reads, which is the one copy that is made of them."""

from collections.abc import Callable, Sequence

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
) -> tuple[list[tuple[int, bool, list[channel.TensorRef]]], list[shared_frames.Piece], int]:
    """Fills a slot of the region. `bases`: where the first frame's place for each input begins; `bytes_max`: how large
    such a place is. `shares`: whether the worker reads that memory of a client itself.

    Returns the frames as the worker is told of them, what it has to read itself, and how many bytes were filled with
    either. Raises ValueError where a payload does not fit its place, and OSError where the system has no memory for it.
    """
    frames: list[tuple[int, bool, list[channel.TensorRef]]] = []
    pieces: list[shared_frames.Piece] = []
    filled = 0
    area = region.inputs[slot]
    resets = action.resets_state
    for index, (frame, payload) in enumerate(zip(action.frames, payloads, strict=True)):
        if len(payload) != len(bases):
            raise ValueError(f"a frame with {len(payload)} inputs, the model takes {len(bases)}")
        refs: list[channel.TensorRef] = []
        for position, (encoding, shape, data) in enumerate(payload):
            offset, length = bases[position] + index * bytes_max[position], len(data)
            if length > bytes_max[position]:  # it would reach into its neighbour's place
                text = f"a frame with {length} bytes for input {position}, the model takes {bytes_max[position]}"
                raise ValueError(text)
            if isinstance(data, SharedData) and shares(data.memory):
                pieces.append((data.memory.stream_id, data.offset, offset, length))
            else:
                region.reserve(slot, offset, length)
                if isinstance(data, SharedData):
                    data.read_into(area[offset : offset + length])
                else:
                    area[offset : offset + length] = data
            refs.append((offset, length, encoding, shape))
            filled += length
        frames.append((frame.stream_id, frame.seq in resets, refs))
    return frames, pieces, filled
