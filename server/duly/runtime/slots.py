"""The slots of a worker's region as its batches take them in turn: which is next, and what is copied there when.

While the worker reads one slot, the next one may be filled already, with frames that are likely to be in its next
batch. Nothing is sent here: who holds the worker's sockets tells it.
"""

from collections.abc import Callable, Sequence

from duly.core.events import DispatchBatch
from duly.core.types import Frame
from duly.models.spec import Signature
from duly.runtime.held_frames import InputData
from duly.runtime.shared_memory import ClientMemory
from duly.runtime.slot_filling import fill_slot, put
from duly.runtime.staged_rows import StagedRows, as_dispatched
from duly.runtime.worker_port import BatchResult
from duly.worker import channel, shared_frames
from duly.worker.slot_layout import layout


class Slots:
    def __init__(self, signature: Signature, region: channel.Region) -> None:
        """Raises ValueError where the inputs have no room in the region."""
        self.current = 0
        """The slot of the newest batch."""
        self.staged = StagedRows(max(signature.batch_sizes))
        """What lies in the slot of the next batch already."""
        self.sizes_vary = any(-1 in spec.shape or spec.encodings or spec.is_text for spec in signature.inputs)
        """Whether there are inputs of open size, so that the input areas are trimmed."""
        self._region = region
        self._bytes_max = [spec.bytes_max for spec in signature.inputs]
        self._bases, needed = layout(self._bytes_max, max(signature.batch_sizes))
        if needed > region.input_bytes:
            raise ValueError(f"its region has {region.input_bytes} bytes for inputs that take {needed}")
        self._order: Sequence[int] | None = None
        """The index of the frame of each row of the newest batch; None: that of the row."""

    @property
    def next(self) -> int:
        """The slot of the next batch."""
        return (self.current + 1) % channel.SLOTS

    def fill(
        self,
        action: DispatchBatch,
        payloads: Sequence[Sequence[InputData]],
        variant: int,
        last: frozenset[int],
        shares: Callable[[ClientMemory], bool],
    ) -> tuple[channel.Run, list[shared_frames.Piece]]:
        """Takes the next slot for a batch, and copies there what does not lie there yet. `variant`: its index. `last`:
        the indices of the frames that are the last of their streams. `shares`: whether the worker reads that memory of
        a client itself.

        Returns what the worker is to run, and what it has to read itself. Raises ValueError where a payload does not
        fit the model, and OSError where the system has no memory for it.
        """
        slot = self.current = self.next
        order: Sequence[int] = range(len(action.frames))
        there: Sequence[int] = ()
        told = channel.NONE_STAGED
        self._order = None
        if self.staged.used:
            order = self.staged.order(action.frames)
            there, told = self.staged.known(action.frames, order)
            self.staged.clear()
            if any(row != index for row, index in enumerate(order)):
                self._order = order
                last = frozenset([row for row, index in enumerate(order) if index in last])
        if self.sizes_vary and not there:
            self._region.trim(slot, outputs=False)
        frames, pieces, filled = fill_slot(
            self._region, slot, action, payloads, self._bases, self._bytes_max, shares, order, there
        )
        self._region.filled[slot, False] += filled
        return channel.Run(action.batch_id, slot, frames, variant, last, told, self.staged.number), pieces

    def skip(self) -> int:
        """Takes the next slot for a run that no frame is for. Returns it."""
        self.current = self.next
        self.staged.clear()
        self._order = None
        return self.current

    def as_dispatched(self, result: BatchResult) -> BatchResult:
        """Returns the result of the newest batch with its frames in the order of its dispatch."""
        return result if self._order is None else as_dispatched(result, self._order)

    def stage(
        self, frames: Sequence[Frame], payloads: Sequence[Sequence[InputData]], bytes_max: int
    ) -> tuple[list[int], bool]:
        """Copies payloads into the slot of the next batch. What does not fit, or cannot be read from memory that is
        shared with a client, is left to `fill`. Returns the rows that are new there, and whether it was `bytes_max` or
        more that was copied.
        """
        region, staged, slot = self._region, self.staged, self.next
        if len(frames) > len(staged.seqs):
            return [], False
        if self.sizes_vary and not staged.used:
            region.trim(slot, outputs=False)
        staged.refused.intersection_update([frame.seq for frame in frames])  # else it would grow where nothing runs
        rows: list[int] = []
        copied = 0
        order = staged.order(frames)
        for row, index in enumerate(order):
            frame, payload = frames[index], payloads[index]
            if staged.seqs[row] == frame.seq or frame.seq in staged.refused:
                continue
            if copied >= bytes_max:
                break
            staged.put(row, 0)
            whole = len(payload) == len(self._bases)
            try:
                for position, (_, _, data) in enumerate(payload if whole else ()):
                    size_bytes = self._bytes_max[position]
                    offset = self._bases[position] + row * size_bytes
                    whole &= put(region, slot, position, offset, data, size_bytes)
                    region.filled[slot, False] += len(data)
                    copied += len(data)
            except (ValueError, OSError):
                whole = False
            if whole:
                staged.put(row, frame.seq)
                rows.append(row)
            else:  # whoever runs it says so
                staged.refused.add(frame.seq)
        return rows, copied >= bytes_max
