"""Inputs on their way to a device with memory of its own: copied while the batch before runs, where the server says so.

    server -> worker   STAGE (number, slot, rows)    on a socket of its own, while RUN or nothing is under way
                       RUN (..., staged, number)     these of its rows have been told of, the last time as `number`

Each input that the graph takes as it lies in the region has room on the device for the largest batch, in each slot. A
row lies there where it lies in the region, whatever the size of the batch turns out to be, so that it can be copied
before that is known. A STAGE is a hint: it says that rows of a slot that is not running hold their bytes, and a thread
of its own has them copied on a stream of its own, beside the run. The session is never touched by that thread.

Before a run the rows that were not told of are copied, and those too whose STAGE nobody has come to yet. Then the
stream is waited for. That costs some microseconds where everything is there, and needs no event that ONNX Runtime's
stream would have to wait for: that stream is its own, unless it is given one (`stream_priority`).
"""

import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from threading import Lock
from typing import Protocol

from duly.worker import channel
from duly.worker.dtypes import Array
from duly.worker.errors import RunError


class Copies(Protocol):
    """What copies, in order: `cuda_runtime.CopyStream`."""

    def use(self) -> None: ...

    def copy(self, target: int, source: int, size_bytes: int) -> None: ...

    def wait(self) -> None: ...


class InputCopies:
    """The rows of a region on the device. `stage` is called by a thread of its own, all else by the one that runs."""

    def __init__(self, slots: Sequence[Mapping[int, Array]], allocate: Callable[[Array], int], stream: Copies) -> None:
        """`slots`: for each slot the rows [batch_max, ...] of the region, by the input's position. `allocate` makes
        room on the device for as much as an array has, and returns where. Raises RunError where the device refuses.
        """
        self._stream = stream
        self._rows = slots
        self._targets = [{position: allocate(rows) for position, rows in slot.items()} for slot in slots]
        self._lock = Lock()
        self._newest = [0] * len(slots)
        """The number of the last STAGE that was carried out, for each slot."""
        self._passed = 0
        """A STAGE with this number or an earlier one comes too late."""
        for slot, of_slot in enumerate(slots):  # rows that pad a batch must be numbers that a frame may have
            self._copy(slot, 0, max(map(len, of_slot.values())))
        stream.wait()

    def addresses(self, slot: int) -> Mapping[int, int]:
        """Where the rows of a slot begin on the device, by the input's position."""
        return self._targets[slot]

    def stage(self, number: int, slot: int, rows: Sequence[int]) -> None:
        """Begins to copy rows, unless their run has begun. Raises RunError."""
        with self._lock:
            if number > self._passed:
                for first, last in stretches(rows):
                    self._copy(slot, first, last)
                self._newest[slot] = number

    def bring(self, slot: int, count: int, staged: Collection[int], number: int) -> None:
        """Returns when the first `count` rows of the slot are on the device. `staged`, `number`: as RUN says. Raises
        RunError.
        """
        with self._lock:
            there = staged if self._newest[slot] == number else ()
            self._passed = max(self._passed, number)
        for first, last in stretches([row for row in range(count) if row not in there]):
            self._copy(slot, first, last)
        self._stream.wait()

    def copy_ahead(self, connection: socket.socket) -> None:
        """Carries out each STAGE that comes until the server hangs up, or the device refuses: runs then say why."""
        with connection:
            try:
                self._stream.use()
                while message := connection.recv(channel.MESSAGE_BYTES_MAX):
                    self.stage(*channel.decode_stage(message))
            except (OSError, RunError):
                pass

    def _copy(self, slot: int, first: int, last: int) -> None:
        for position, rows in self._rows[slot].items():
            row_bytes = rows.nbytes // len(rows)
            offset = first * row_bytes
            self._stream.copy(
                self._targets[slot][position] + offset, rows.ctypes.data + offset, (last - first) * row_bytes
            )


def stretches(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Goes through the stretches of rows that lie one after another, as (first, behind the last)."""
    ends = [nth + 1 for nth, (row, following) in enumerate(pairwise(rows)) if following != row + 1]
    for begin, end in pairwise([0, *ends, len(rows)]) if rows else ():
        yield rows[begin], rows[end - 1] + 1
