"""When the machine stood still: on a machine that is shared, every process does so now and then, for up to seconds.

A thread that does nothing but sleep notices it, because it wakes too late. A stall is no property of the server.
"""

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from duly_load.results.record import Ints

NAP_NS = 2_000_000
STALL_NS_MIN = 2_000_000
"""Waking later than this is a stall; less is what the kernel's and the interpreter's own turns take."""
STALLS_MAX = 1_000_000


class Watch:
    """Watches inside a `with` block."""

    def __init__(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="stalls", daemon=True)
        self._over = threading.Event()
        self._seen: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def stalls(self, begin_ns: int) -> "Stalls":
        """The stalls seen so far, in times since `begin_ns` of the monotonic clock."""
        seen = np.array(self._seen, np.int64).reshape(-1, 2) - begin_ns
        return Stalls(seen[:, 0].copy(), seen[:, 1].copy())

    def _watch(self) -> None:
        while not self._over.is_set() and len(self._seen) < STALLS_MAX:
            due_ns = time.monotonic_ns() + NAP_NS
            time.sleep(NAP_NS / 1e9)
            woke_ns = time.monotonic_ns()
            if woke_ns - due_ns > STALL_NS_MIN:
                self._seen.append((due_ns, woke_ns))


@dataclass(frozen=True, slots=True)
class Stalls:
    """Stretches of time, disjoint and in order."""

    from_ns: Ints
    to_ns: Ints

    def share(self, from_ns: int, to_ns: int) -> float:
        """The share of the time between the two instants that lies in stalls."""
        lost_ns = np.minimum(self.to_ns, to_ns) - np.maximum(self.from_ns, from_ns)
        return float(np.maximum(lost_ns, 0).sum()) / (to_ns - from_ns)
