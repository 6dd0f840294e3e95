"""The wall clock against the monotonic one, by which everything is paced and measured."""

import time

_READS = 16


def unix_minus_monotonic_ns() -> int:
    """What the wall clock shows more than the monotonic one.

    Between the reads of the two a process may be stopped; of several, the pair that was read in the shortest time
    counts. The two run at the same speed, also where the time is being adjusted (clock_gettime(2)): their difference
    stays, to the microsecond, unless someone sets the wall clock.
    """
    took_ns, difference_ns = 1 << 62, 0
    for _ in range(_READS):
        before_ns, unix_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if after_ns - before_ns < took_ns:
            took_ns, difference_ns = after_ns - before_ns, unix_ns - (before_ns + after_ns) // 2
    return difference_ns
