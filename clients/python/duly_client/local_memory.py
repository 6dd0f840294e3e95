"""The memory that a client shares with a server on the same machine: where frames lie, and what is free of it."""

import mmap
import os
import weakref
from bisect import bisect_left
from collections import deque
from typing import Any

import numpy as np

from duly_client.convert import Array

ALIGNMENT = 64
"""Frames, and the inputs in them, begin at multiples of this."""
STEPS = 16
"""In so many steps the system gives all of the memory, as it is needed."""


def aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


class FrameMemory:
    """Shares out the memory for frames, first fit. What is taken is given back by its offset.

    Frames of a stream are mostly alike, so what is given back is kept as it is for the next one of its size: that is
    quick, and its pages are there. It is put together with what lies beside it when there is no other room.

    A page that the system does not have as it is written to would end this process (SIGBUS), so it is asked for them
    before. Where it has no more, there is only as much memory as it has given so far.
    """

    def __init__(self, area: mmap.mmap, fd: int = -1, reserved_bytes: int = 0) -> None:
        """`fd`: of the area, of which it takes ownership, and by which `reserved_bytes` of it were had from the system;
        -1: all of it is there.
        """
        self._area = area
        self.size_bytes = len(area)
        """It becomes less where the system has no more."""
        self._fd = fd
        self._reserved = self.size_bytes if fd < 0 else reserved_bytes
        self._address = np.frombuffer(area, np.uint8).__array_interface__["data"][0]
        self._taken: dict[int, int] = {}
        self._free: list[tuple[int, int]] = [(0, self.size_bytes)]
        """(offset, bytes) of what is free, by offset; no two of them touch."""
        self._kept: dict[int, list[int]] = {}
        """Offsets of what is free besides, by its bytes."""
        self._divided: dict[int, int] = {}
        """Of blocks that several frames share: how many of these have not given it back."""
        self._lent: dict[int, tuple[weakref.finalize[..., Array], int]] = {}
        """What was lent and not sent yet, and its bytes, by offset."""
        self._dropped: deque[int] = deque()
        """What nobody has any more of it, as whichever thread has noted it that dropped it."""

    def has_room(self, size_bytes: int) -> bool:
        if self._dropped:
            self._take_back()
        if self._kept.get(aligned(size_bytes)):
            return True
        for offset, free_bytes in self._free:
            if free_bytes >= size_bytes:
                if offset + size_bytes <= self._reserved or self._reserve(offset + size_bytes):
                    return True
                break
        return (self._put_together() and self.has_room(size_bytes)) or not self._taken

    def take(self, size_bytes: int) -> int:
        """Returns the offset of so many bytes; -1: there are none in one piece."""
        if self._dropped:
            self._take_back()
        wanted = aligned(size_bytes) or ALIGNMENT
        kept = self._kept.get(wanted)
        if kept:
            offset = kept.pop()
            self._taken[offset] = wanted
            return offset
        offset = self._first_fit(wanted)
        return self._first_fit(wanted) if offset < 0 and self._put_together() else offset

    def _first_fit(self, wanted: int) -> int:
        for index, (offset, free_bytes) in enumerate(self._free):
            if free_bytes >= wanted:
                if offset + wanted > self._reserved and not self._reserve(offset + wanted):
                    return -1
                if free_bytes == wanted:
                    del self._free[index]
                else:
                    self._free[index] = (offset + wanted, free_bytes - wanted)
                self._taken[offset] = wanted
                return offset
        return -1

    def _reserve(self, end: int) -> bool:
        """Has the system give what lies before `end`, and some more. Returns False where it has no more to give: then
        what it has not given is no memory any more.
        """
        end = min(max(end, self._reserved + self.size_bytes // STEPS), self.size_bytes)
        try:
            os.posix_fallocate(self._fd, self._reserved, end - self._reserved)
        except OSError:
            end = self.size_bytes = self._reserved = self._reserved // ALIGNMENT * ALIGNMENT
            self._free = [(offset, min(size, end - offset)) for offset, size in self._free if offset < end]
            return False
        self._reserved = end
        return True

    def close(self) -> None:
        """Asks for no more of it. What was lent stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def write(self, offset: int, data: Any, size_bytes: int) -> None:
        """Copies an array, or bytes, to a place that was taken."""
        if size_bytes:
            self._area[offset : offset + size_bytes] = data

    def divide(self, offset: int, count: int) -> None:
        """What was taken there is free again once it was given back so many times."""
        if count > 1:
            self._divided[offset] = count

    def give_back(self, offset: int) -> None:
        if self._divided and (left := self._divided.get(offset, 0)):
            if left > 2:
                self._divided[offset] = left - 1
            else:
                del self._divided[offset]
            return
        size_bytes = self._taken.pop(offset, 0)
        if size_bytes:
            kept = self._kept.get(size_bytes)
            if kept is None:
                self._kept[size_bytes] = [offset]
            else:
                kept.append(offset)

    def _put_together(self) -> bool:
        """Puts what is kept together with what lies beside it. Returns whether there was anything."""
        kept, self._kept = self._kept, {}
        for size_bytes, offsets in kept.items():
            for offset in offsets:
                self._free_up(offset, size_bytes)
        return bool(kept)

    def _free_up(self, offset: int, size_bytes: int) -> None:
        free = self._free
        index = bisect_left(free, (offset, 0))
        if index < len(free) and free[index][0] == offset + size_bytes:
            size_bytes += free.pop(index)[1]
        if index and sum(free[index - 1]) == offset:
            offset, before = free[index - 1]
            free[index - 1] = (offset, before + size_bytes)
        else:
            free.insert(index, (offset, size_bytes))

    # ---- arrays that the application fills itself ----

    def lend(self, shape: tuple[int, ...], dtype: "np.dtype[np.generic]", size_bytes: int) -> Array | None:
        """Returns an array of so many bytes to be filled; None: there is no room now. It is given back when it was
        sent and answered, or when nobody has it any more.
        """
        offset = self.take(size_bytes)
        if offset < 0:
            return None
        root = np.frombuffer(memoryview(self._area)[offset : offset + size_bytes], dtype)
        # Arrays that are made of it hold it as their base, so that it lives as long as the last of them.
        self._lent[offset] = weakref.finalize(root, self._dropped.append, offset), size_bytes
        return root.reshape(shape)

    def _take_back(self) -> None:
        while self._dropped:
            offset = self._dropped.popleft()
            if self._lent.pop(offset, None) is not None:
                self.give_back(offset)

    def holds(self, array: Array) -> bool:
        """Whether the array was lent and not sent yet."""
        return bool(self._lent) and self._lent_at(array) >= 0

    def sent(self, array: Array) -> int:
        """Takes over what was lent. Returns its offset; -1: the array is none that was lent and not sent yet."""
        offset = self._lent_at(array) if self._lent else -1
        if offset >= 0:
            self._lent.pop(offset)[0].detach()
        return offset

    def _lent_at(self, array: Array) -> int:
        """Returns where all of the array lies, and nothing but it; -1: it is none that was lent, or a part of one."""
        offset: int = array.__array_interface__["data"][0] - self._address
        lent = self._lent.get(offset)
        return offset if lent is not None and lent[1] == array.nbytes else -1
