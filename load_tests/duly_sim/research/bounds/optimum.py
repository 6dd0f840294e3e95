"""The most frames that any scheduler could deliver on time: one model, one lane, equal budgets, exact.

The scheduler that is bounded here knows every arrival beforehand, and a batch of b frames takes exactly
`times_ns[b-1]`. A batch starts when the lane is free and all its frames have arrived, is never interrupted, and ends
by the earliest deadline among them. Frames may be dropped.

Theory. Call frames 0, 1, ... in order of arrival; budgets are equal, so this is the order of deadlines too.

1. *Batches take frames in order.* Let a batch that starts earlier hold frame j and a later one frame i < j.
   Exchanged, i arrived before j and so before the earlier batch started, and its deadline, which the later batch met,
   is met by the earlier one; j arrived before the earlier batch started and has the later deadline. Both batches keep
   their size and place, and there is one inversion less.
2. *Batches hold neighbours.* Let a frame m that is dropped lie between the first frame f and the last of a batch.
   With m in the place of f the batch starts no later, its earliest deadline is no earlier, and 1 still holds. The sum
   of the frames' numbers rises with each exchange, so this ends, and then no batch has a gap.
3. So a schedule only says of each prefix whether its last frame is dropped or ends a batch of b. Let E(i, d) be the
   earliest instant at which the lane can be free when d of the first i frames were dropped and the rest were on time:

       E(i, d) = min( E(i-1, d-1),  min over b of  max(E(i-b, d), arrival of frame i-1) + times_ns[b-1] )

   the latter where it is no later than the deadline of frame i-b, the first of the batch. Earliest is best, since lane
   time is all that the past leaves to the future. The optimum is i - d for i = all and the least d with a finite E.

After P. Baptiste, "Batching identical jobs", Mathematical Methods of Operations Research 52 (2000), whose table counts
the jobs on time; counting drops instead puts the rows that a batch connects in one column.

What makes it fast, and stays exact: where E(i, d) is not after the next arrival, more drops gain nothing, so a row
ends there; where E(i, d) is infinite it stays so, as a batch less its last frame is feasible too. What lies between
are frames of batches that end after this arrival: no more than one batch that runs and what fits within one budget
(`_width`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEVER_NS = 1 << 62
ROWS = 512
"""The rows of the table that are held at once."""
BATCH_MAX = 255
"""The largest number that fits into the byte that holds a choice."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames `first`, ..., `first + size - 1` in order of arrival, run together."""

    first: int
    size: int
    start_ns: int
    end_ns: int


def optimum(arrival_ns: NDArray[np.int64], budget_ns: int, times_ns: Sequence[int]) -> int:
    """The most frames that can be on time; arguments and errors as for `best_schedule`."""
    return sum(batch.size for batch in best_schedule(arrival_ns, budget_ns, times_ns))


def best_schedule(arrival_ns: NDArray[np.int64], budget_ns: int, times_ns: Sequence[int]) -> list[Batch]:
    """A schedule with the most frames on time, in order of time.

    `arrival_ns`: shape (frames,), in order. A frame is on time when its batch ends at most `budget_ns` after its
    arrival. `times_ns`: of batches of 1, 2, ..., the largest allowed. Raises ValueError where arrivals are not in
    order, times fall with batch size or are not positive, or more than `BATCH_MAX` sizes fit within the budget.
    """
    arrivals = np.asarray(arrival_ns, np.int64)
    if np.any(np.diff(arrivals) < 0):
        raise ValueError(f"arrivals should be in order, got a fall after frame {int(np.argmax(np.diff(arrivals) < 0))}")
    times = np.array(times_ns, np.int64)
    if len(times) == 0 or times[0] <= 0 or np.any(np.diff(times) < 0):
        raise ValueError(f"times should be positive and not fall with batch size, got {list(times_ns)}")
    times = times[times <= budget_ns]
    if len(times) > BATCH_MAX:
        raise ValueError(f"at most {BATCH_MAX} batch sizes should fit within the budget, got {len(times)}")
    if len(times) == 0 or len(arrivals) == 0:
        return []
    return _trace(arrivals, times, *_table(arrivals, budget_ns, times))


def _width(budget_ns: int, times: NDArray[np.int64]) -> int:
    """How many columns a row can have: a batch that runs at the last arrival, all that fits after it, and two ends."""
    return len(times) + max(budget_ns * size // int(time_ns) for size, time_ns in enumerate(times, 1)) + 2


def _largest(arrivals: NDArray[np.int64], budget_ns: int, times: NDArray[np.int64]) -> list[int]:
    """For each frame, the largest batch that may end with it if the lane is free when it arrives."""
    largest = np.zeros(len(arrivals), np.int64)
    for size, time_ns in enumerate(times, 1):
        first = arrivals[: len(arrivals) - size + 1]
        largest[size - 1 :][arrivals[size - 1 :] + time_ns <= first + budget_ns] = size
    return [int(size) for size in largest]


def _table(arrivals: NDArray[np.int64], budget_ns: int, times: NDArray[np.int64]) -> tuple[list[bytes], list[int], int]:
    """For each row, the best choice in each of its columns (0: drop, b: end a batch) and its first column; least
    drops.
    """
    batch_max = len(times)
    # Of the row filled last, columns `low` to `high` matter, counted from `base`; the next has at most one more.
    free_ns = np.full((batch_max + ROWS, _width(budget_ns, times) + ROWS), NEVER_NS, np.int64)
    row, low, high, base = batch_max, 0, 0, 0
    free_ns[row, 0] = arrivals[0]
    # A batch of one comes from the row before, the last of those held, so sizes run downwards.
    times_up = times[::-1, None].copy()
    choices, lows = [b""], [0]
    largest = _largest(arrivals, budget_ns, times)
    arrival_list = arrivals.tolist()
    for index, arrival_ns in enumerate(arrival_list):
        row += 1
        if row == len(free_ns):
            kept = free_ns[-batch_max:, low : high + 1].copy()
            free_ns.fill(NEVER_NS)
            row, base, high, low = batch_max, base + low, high - low, 0
            free_ns[:batch_max, : high + 1] = kept
        new = free_ns[row, low : high + 2]
        new[1:] = free_ns[row - 1, low : high + 1]
        choice = np.zeros(high + 2 - low, np.uint8)
        size_max = largest[index]
        if size_max:
            end_ns = np.maximum(free_ns[row - size_max : row, low : high + 2], arrival_ns)
            end_ns += times_up[batch_max - size_max :]
            end_ns[end_ns > arrivals[index - size_max + 1 : index + 1, None] + budget_ns] = NEVER_NS
            at = end_ns.argmin(axis=0)
            best_ns = end_ns[at, np.arange(len(choice))]
            batched = best_ns < new
            new[batched] = best_ns[batched]
            choice[batched] = (size_max - at)[batched]
        choices.append(choice.tobytes())
        lows.append(base + low)
        next_ns = arrival_list[index + 1] if index + 1 < len(arrival_list) else NEVER_NS - 1
        high = low + int((new <= next_ns).argmax())
        low += int((new < NEVER_NS).argmax())
        free_ns[row, high + 1 :] = NEVER_NS
    return choices, lows, base + low


def _trace(
    arrivals: NDArray[np.int64], times: NDArray[np.int64], choices: list[bytes], lows: list[int], drops: int
) -> list[Batch]:
    """Reads the table backwards, then starts every batch as early as it can."""
    spans: list[tuple[int, int]] = []
    row = len(arrivals)
    while row:
        size = choices[row][drops - lows[row]]
        if size:
            spans.append((row - size, size))
            row -= size
        else:
            row -= 1
            drops -= 1
    batches: list[Batch] = []
    free_ns = int(arrivals[0])
    for first, size in reversed(spans):
        start_ns = max(free_ns, int(arrivals[first + size - 1]))
        free_ns = start_ns + int(times[size - 1])
        batches.append(Batch(first, size, start_ns, free_ns))
    return batches
