"""The results of one stream that its client has not taken: they are counted, and withheld where they are too many.

The only one of a stream is always kept, and results of less critical streams give way to those of more critical ones.
"""

from collections.abc import Iterable, Sequence

from duly.core.fates import UNREAD_BYTES
from duly.runtime.outcome import Outcome
from duly.streams.memory import Holder, Memory


class Results:
    def __init__(self, bytes_max: int, memory: Memory) -> None:
        """`bytes_max`: for this stream. `memory`: where the results of all streams are counted."""
        self.bytes = 0
        """Bytes of results that are not written yet."""
        self._writing_bytes = 0
        """Those of them that the transport is being given."""
        self._bytes_max = bytes_max
        self._memory = memory

    def keep(self, stream: Holder, outcome: Outcome) -> bool:
        """Counts the result of the stream's outcome until it is written, or withholds it where the results that wait
        hold too many bytes. Returns whether it is kept.
        """
        size_bytes = sum([len(data) for _, _, data in outcome.outputs or ()])
        memory = self._memory
        over_stream = self.bytes > 0 and self.bytes + size_bytes > self._bytes_max
        over_server = memory.result_bytes + size_bytes > memory.bytes_max
        if over_stream or (over_server and not memory.evict_results(stream, size_bytes) and self.bytes):
            _withhold(outcome, self._bytes_max if over_stream else memory.bytes_max)
            return False
        outcome.result_bytes = size_bytes
        self.bytes += size_bytes
        memory.result_bytes += size_bytes
        return True

    def shed(self, outcomes: Iterable[Outcome]) -> None:
        """Withholds the results of these outcomes, which the transport has not been given."""
        for outcome in outcomes:
            if outcome.result_bytes:
                self.drop(outcome)
                _withhold(outcome, self._memory.bytes_max)

    def drop(self, outcome: Outcome) -> None:
        """Counts the result of an outcome no more that leaves without it."""
        self._count_off(outcome.result_bytes)
        outcome.result_bytes = 0

    def writing(self, outcomes: Sequence[Outcome]) -> None:
        """Notes that the transport is given these outcomes, until `written`."""
        for outcome in outcomes:
            self._writing_bytes += outcome.result_bytes

    def written(self) -> None:
        if self._writing_bytes:
            self._count_off(self._writing_bytes)
            self._writing_bytes = 0

    def clear(self) -> None:
        """Counts nothing any more, as nobody reads."""
        self._count_off(self.bytes)
        self._writing_bytes = 0

    def _count_off(self, size_bytes: int) -> None:
        self.bytes -= size_bytes
        self._memory.result_bytes -= size_bytes


def _withhold(outcome: Outcome, bytes_max: int) -> None:
    outcome.turned_out, outcome.outputs = UNREAD_BYTES, None
    outcome.reason = UNREAD_BYTES.says(bytes_max=bytes_max)
