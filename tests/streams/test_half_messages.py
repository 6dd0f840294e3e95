"""When the process's memory grows by what nobody counts, streams that have been silent are ended, and only then."""

from dataclasses import dataclass

from duly.core.types import StreamClass
from duly.streams.half_messages import (
    ALLOWED_BYTES,
    HURRIED_NS,
    SILENT_NS,
    STREAMS_A_TIME,
    HalfMessages,
    own_bytes,
)

NOW_NS = 10**15
USUAL = 100 << 20


@dataclass(eq=False)
class Stream:
    heard_ns: int = NOW_NS - SILENT_NS - 1
    connection: str = "greedy"
    stream_class: StreamClass = StreamClass.STANDARD


class Process:
    def __init__(self) -> None:
        self.bytes = USUAL
        self.kept_bytes = 0
        self.found = HalfMessages(4 * ALLOWED_BYTES, lambda: self.bytes + self.kept_bytes, self.give_back)
        self.found.too_much(NOW_NS, [], 0)

    def give_back(self) -> None:
        self.kept_bytes = 0

    def ends(self, streams: list[Stream], counted_bytes: int = 0) -> list[Stream]:
        return self.found.too_much(NOW_NS, streams, counted_bytes)


def test_nothing_is_ended_while_memory_is_accounted_for() -> None:
    process, streams = Process(), [Stream() for _ in range(3)]
    process.bytes += ALLOWED_BYTES
    assert process.ends(streams) == []
    process.bytes += 5 * ALLOWED_BYTES
    assert process.ends(streams, counted_bytes=5 * ALLOWED_BYTES) == []


def test_nothing_is_ended_for_memory_that_was_freed_and_kept() -> None:
    process, streams = Process(), [Stream() for _ in range(3)]
    process.kept_bytes = 2 * ALLOWED_BYTES
    assert process.ends(streams) == []
    process.bytes += ALLOWED_BYTES + 1
    assert set(process.ends(streams)) == set(streams)


def test_the_silent_of_the_connection_that_has_most_end_some_at_a_time() -> None:
    process = Process()
    honest = [Stream(heard_ns=NOW_NS), Stream(connection="honest"), Stream(connection="honest")]
    greedy = [Stream(heard_ns=NOW_NS - SILENT_NS - 1 - n) for n in range(2 * STREAMS_A_TIME)]
    greedy[3].stream_class = StreamClass.BEST_EFFORT
    process.bytes += 2 * ALLOWED_BYTES
    first = process.ends(honest + greedy)
    assert first[:2] == [greedy[3], greedy[-1]]
    assert len(first) == STREAMS_A_TIME
    process.bytes -= ALLOWED_BYTES // 2
    left = [stream for stream in greedy if stream not in first]
    assert set(process.ends(honest + left)) == set(left)
    process.bytes -= ALLOWED_BYTES
    assert process.ends(honest) == []


def test_beyond_all_that_messages_may_take_nobody_has_long_to_end_one() -> None:
    process = Process()
    honest, dribbling = Stream(heard_ns=NOW_NS), Stream(heard_ns=NOW_NS - HURRIED_NS - 1)
    process.bytes += 4 * ALLOWED_BYTES
    assert process.ends([honest, dribbling]) == []
    process.bytes += 1
    assert process.ends([honest, dribbling]) == [dribbling]


def test_where_that_gives_nothing_back_no_more_are_ended() -> None:
    process, streams = Process(), [Stream() for _ in range(2 * STREAMS_A_TIME)]
    process.bytes += 2 * ALLOWED_BYTES
    assert len(process.ends(streams)) == STREAMS_A_TIME
    assert process.ends(streams) == []
    assert process.ends(streams) == []
    process.bytes += 2 * ALLOWED_BYTES
    assert len(process.ends(streams)) == STREAMS_A_TIME


def test_a_process_knows_what_it_has() -> None:
    before = own_bytes()
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])
    assert own_bytes() - before > 48 << 20
