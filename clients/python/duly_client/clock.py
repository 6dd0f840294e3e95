"""Estimates how far the server's wall clock is from the client's, from exchanges of four time stamps.

The client sends at t1 (its clock), the server receives at t2 and answers at t3 (its clock), the client receives at t4.
Neither way takes negative time, so the server's clock minus the client's lies within half the round trip of
((t2 - t1) + (t3 - t4)) / 2, however unequal the two ways are. Each exchange gives such an interval, widened by the
drift since t1. The true offset lies in all of them, and the quickest exchanges bound it best.

Nothing here reads a clock. Out of scope: clocks that drift faster than DRIFT_MAX for long.
"""

from collections import deque
from typing import NamedTuple

EXCHANGES = 16
"""Number of exchanges that are remembered. With one each 10 s the oldest bounds the offset no better than 16 ms."""
DRIFT_MAX_PPM = 100
"""Largest drift between two quartz oscillators of +-50 ppm each."""


class ClockEstimate(NamedTuple):
    """Server wall clock minus client wall clock, ns, and the bound of its error, ns."""

    offset_ns: int
    uncertainty_ns: int


class _Exchange(NamedTuple):
    sent_ns: int
    offset_ns: int
    uncertainty_ns: int

    def interval(self, now_ns: int) -> tuple[int, int]:
        drift_ns = max(0, now_ns - self.sent_ns) * DRIFT_MAX_PPM // 1_000_000
        uncertainty_ns = self.uncertainty_ns + drift_ns
        return self.offset_ns - uncertainty_ns, self.offset_ns + uncertainty_ns


class Clock:
    """Remembers the newest exchanges and says what they prove."""

    def __init__(self) -> None:
        self._exchanges: deque[_Exchange] = deque(maxlen=EXCHANGES)

    def add(self, sent_ns: int, server_received_ns: int, server_sent_ns: int, received_ns: int) -> bool:
        """Adds an exchange, t1 to t4. Where it contradicts the older ones, a clock was set, and they are forgotten.
        Returns whether that is so.
        """
        offset_ns = ((server_received_ns - sent_ns) + (server_sent_ns - received_ns)) // 2
        round_trip_ns = (received_ns - sent_ns) - (server_sent_ns - server_received_ns)
        newest = _Exchange(sent_ns, offset_ns, max(0, round_trip_ns) // 2 + 2)  # 2: both divisions round down
        self._exchanges.append(newest)
        low_ns, high_ns = self._bounds(received_ns)
        contradicts = low_ns > high_ns
        if contradicts:
            self._exchanges.clear()
            self._exchanges.append(newest)
        return contradicts

    def moved(self, ahead_ns: int) -> None:
        """Notes that the client's clock was set ahead by `ahead_ns`: the exchanges hold as if made with the new one."""
        self._exchanges = deque(
            (
                _Exchange(exchange.sent_ns + ahead_ns, exchange.offset_ns - ahead_ns, exchange.uncertainty_ns)
                for exchange in self._exchanges
            ),
            maxlen=EXCHANGES,
        )

    def estimate(self, now_ns: int) -> ClockEstimate | None:
        """What holds at `now_ns` of the client's clock, which may lie ahead; None before the first exchange."""
        if not self._exchanges:
            return None
        low_ns, high_ns = self._bounds(now_ns)
        return ClockEstimate((low_ns + high_ns) // 2, (high_ns - low_ns) // 2 + 1)

    def _bounds(self, now_ns: int) -> tuple[int, int]:
        intervals = [exchange.interval(now_ns) for exchange in self._exchanges]
        return max(low for low, _ in intervals), min(high for _, high in intervals)
