"""Which frames lie in a slot of a worker already, before the batch that they are for has begun.

Frames keep the rows where they lie, whatever else is in the batch in the end, so that the batch goes to the worker in
another order than it was dispatched in. Only frames of one stream keep their order.
"""

from collections.abc import Sequence
from itertools import count

from duly.core.types import Frame
from duly.runtime.worker_port import BatchResult
from duly.worker.channel import NONE_STAGED


class StagedRows:
    """The rows of the slot that the next batch will have."""

    def __init__(self, rows_max: int) -> None:
        self.seqs = [0] * rows_max
        """The frame that lies in each row, by its seq; 0: none."""
        self.told: set[int] = set()
        """The rows of which the worker was told."""
        self.refused: set[int] = set()
        """Frames, by seq, that cannot be put there."""
        self.number = 0
        """The number of what it was last told."""
        self._numbers = count(1)

    def order(self, frames: Sequence[Frame]) -> list[int]:
        """Returns for each row of a batch of these frames the index of the one that belongs there."""
        index_of = {frame.seq: index for index, frame in enumerate(frames)}
        order = [index_of.pop(seq, -1) for seq in self.seqs[: len(frames)]]
        if len(index_of) == len(frames):
            return list(range(len(frames)))
        others = iter(index_of.values())
        order = [next(others) if index < 0 else index for index in order]
        newest: dict[int, int] = {}
        for index in order:
            stream_id = frames[index].stream_id
            if newest.get(stream_id, -1) > index:
                return list(range(len(frames)))
            newest[stream_id] = index
        return order

    def put(self, row: int, seq: int) -> None:
        """Notes that the frame lies in the row from now on, and that the worker does not know it yet; 0: none does."""
        self.seqs[row] = seq
        self.told.discard(row)

    def tell(self, rows: Sequence[int]) -> int:
        """Notes that the worker is told of rows. Returns the number of the message."""
        self.told.update(rows)
        self.number = next(self._numbers)
        return self.number

    def known(self, frames: Sequence[Frame], order: Sequence[int]) -> tuple[list[int], frozenset[int]]:
        """Returns the rows of a batch whose frames lie there already, and which of them the worker was told of."""
        if not any(self.seqs):
            return [], NONE_STAGED
        there = [row for row, index in enumerate(order) if self.seqs[row] == frames[index].seq]
        return there, frozenset(self.told.intersection(there))

    def clear(self) -> None:
        self.seqs = [0] * len(self.seqs)
        self.told.clear()
        self.refused.clear()


def as_dispatched(result: BatchResult, order: Sequence[int]) -> BatchResult:
    """Returns the result of a batch that ran in that order, with its frames in the order of its dispatch."""
    row_of = {index: row for row, index in enumerate(order)}
    outputs = result.outputs
    result.outputs = lambda index: outputs(row_of[index])
    result.invalid = {order[row]: reason for row, reason in result.invalid.items()}
    result.failed = {order[row]: reason for row, reason in result.failed.items()}
    if result.read_ns:
        result.read_ns = [result.read_ns[row_of[index]] for index in range(len(order))]
    if result.guards is not None:
        result.guards = {order[row]: names for row, names in result.guards.items()}
    return result
