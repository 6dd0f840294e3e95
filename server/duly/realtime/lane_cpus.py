"""Which processors the lanes have for themselves, from what a user writes: `2-3,4` are two lanes' processors, 2 and 3
for the first and 4 for the second. Several ranges of one lane are joined by `+`: `2+4-5`.
"""

import contextlib
import os
import re
import threading
from collections.abc import Iterable, Sequence

_RANGE = re.compile(r"(0|[1-9][0-9]{0,3})(?:-(0|[1-9][0-9]{0,3}))?")


def parse(entry: str) -> frozenset[int]:
    """Returns the numbers of one lane's processors. Raises ValueError."""
    numbers: set[int] = set()
    for part in entry.split("+"):
        match = _RANGE.fullmatch(part)
        first = int(match[1]) if match else 0
        last = int(match[2] or match[1]) if match else -1
        if last < first:
            raise ValueError("should be processors of each lane, such as 2-3,4 or 2+4-5")
        numbers.update(range(first, last + 1))
    return frozenset(numbers)


def check(entries: Sequence[str]) -> None:
    """Raises ValueError where the entries make no sense, or name a processor that this process cannot have."""
    lanes = [parse(entry) for entry in entries]
    taken: set[int] = set()
    for lane in lanes:
        if twice := taken & lane:
            raise ValueError(f"should give each processor to one lane, and gives {told(twice)} to two")
        taken |= lane
    if not taken:
        return
    there = set(range(os.sysconf("SC_NPROCESSORS_CONF")))
    if missing := taken - there:
        raise ValueError(f"should be processors of this machine, which has {told(there)} and not {told(missing)}")
    if refused := taken - _usable(taken):
        raise ValueError(
            f"should be processors that this process may run on: {told(refused)} may not be had (off, or not in the "
            "cpuset of the container or unit)"
        )
    if not os.sched_getaffinity(0) - taken:
        raise ValueError("should leave the server a processor of its own, beside those of the lanes")


def of_lanes(lanes: Sequence[str], entries: Sequence[str]) -> dict[str, frozenset[int]]:
    """Returns the processors of each lane; empty: none has any for itself. Raises ValueError."""
    if entries and len(entries) != len(lanes):
        raise ValueError(
            f"should have an entry for each lane: lanes are {', '.join(lanes)}, entries are {len(entries)}"
        )
    return {lane: parse(entry) for lane, entry in zip(lanes, entries, strict=False)}


def move(numbers: Iterable[int]) -> set[int]:
    """Puts all threads of this process, and what they start, on these processors. Returns where its first thread could
    run before. Raises OSError.
    """
    before = os.sched_getaffinity(0)
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), numbers)
    return before


def told(numbers: "set[int] | frozenset[int]") -> str:
    """Writes numbers of processors as people do: `0-1, 5`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _usable(numbers: set[int]) -> set[int]:
    """Returns those that a thread can be put on. Whether an isolated one (isolcpus=) can be had only a try tells, as it
    is in nobody's affinity; so a thread tries that ends at once.
    """
    found: set[int] = set()

    def attempt() -> None:
        for number in numbers:
            try:
                os.sched_setaffinity(0, {number})
            except OSError:
                continue
            found.add(number)

    thread = threading.Thread(target=attempt, name="processors")
    thread.start()
    thread.join()
    return found
