"""What looks at frames that have run: what it sees and when, and that it harms nobody where it fails."""

from collections.abc import Sequence
from typing import NamedTuple

from structlog.testing import capture_logs

from duly.core.types import OutcomeStatus
from duly.runtime.delivery import TAP_FAILURES_MAX
from duly.runtime.held_frames import HeldFrame, InputData
from duly.runtime.outcome import BatchRun, Output
from tests.streams.bench import MS, Bench, statuses, written

ON_TIME, LATE, FAILED = OutcomeStatus.ON_TIME, OutcomeStatus.LATE, OutcomeStatus.FAILED


class Seen(NamedTuple):
    frame_id: int
    data: object
    status: OutcomeStatus
    outputs: Sequence[Output]
    batch: int


class Tap:
    """Keeps what it sees."""

    def __init__(self, bench: Bench) -> None:
        self.seen: list[Seen] = []
        self.raises = False
        bench.driver.add_tap(self.take)

    def take(
        self,
        pieces: Sequence[HeldFrame],
        payload: Sequence[InputData],
        status: OutcomeStatus,
        outputs: Sequence[Output],
        run: BatchRun,
    ) -> None:
        if self.raises:
            raise ValueError("the tap")
        ((held,), (data,)) = pieces, payload
        self.seen.append(Seen(held.frame.frame_id, data.data, status, outputs, len(run.batch.frames)))


async def test_a_tap_sees_frames_with_results_and_their_payloads_and_no_others() -> None:
    bench = Bench()
    tap = Tap(bench)
    stream = bench.open()
    bench.send(stream, 1, size_bytes=3)
    bench.end_batch()
    bench.send(stream, 2)
    bench.send(stream, 3, budget_ns=MS)  # it expires while the one before it runs
    bench.clock.now_ns += 2 * MS
    bench.lane.end(bench.driver, failed={0: "it broke"})
    outcomes = await written(stream)
    assert statuses(outcomes) == {1: ON_TIME, 2: FAILED, 3: OutcomeStatus.EXPIRED}
    assert tap.seen == [Seen(1, bytes(3), ON_TIME, [(0, (1,), bytes(6))], 1)]
    assert not any(outcome.held.payload for outcome in outcomes), "it is let go all the same"
    assert bench.driver.held.bytes == 0


async def test_a_tap_sees_late_results_and_nothing_of_streams_that_have_closed() -> None:
    bench = Bench()
    tap = Tap(bench)
    stream = bench.open()
    bench.send(stream, 1)
    bench.clock.now_ns += 1000 * MS
    bench.end_batch()
    assert tap.seen[0].status is LATE
    bench.send(stream, 2)
    stream.close()
    bench.end_batch()
    assert [seen.frame_id for seen in tap.seen] == [1]


async def test_a_tap_that_raises_costs_no_outcome_and_sees_the_next_frame() -> None:
    bench = Bench()
    broken, sound = Tap(bench), Tap(bench)
    stream = bench.open()
    outcomes: dict[int, OutcomeStatus] = {}
    frames = range(1, 3 * TAP_FAILURES_MAX + 1)
    with capture_logs() as logs:
        for frame_id in frames:
            broken.raises = frame_id % TAP_FAILURES_MAX != 0
            bench.send(stream, frame_id)
            bench.end_batch()
            outcomes |= statuses(await written(stream))
    assert outcomes == dict.fromkeys(frames, ON_TIME)
    assert [seen.frame_id for seen in sound.seen] == list(frames)
    assert [seen.frame_id for seen in broken.seen] == list(frames[TAP_FAILURES_MAX - 1 :: TAP_FAILURES_MAX])
    assert [line["frames"] for line in logs] == [1, 2, 4, 8, 16, 32], "45 failures fill no log"
    assert bench.driver.has_tap(broken.take)


async def test_a_tap_that_raises_again_and_again_is_let_go() -> None:
    bench = Bench()
    broken, sound = Tap(bench), Tap(bench)
    broken.raises = True
    stream = bench.open()
    with capture_logs() as logs:
        for frame_id in range(1, TAP_FAILURES_MAX + 3):
            bench.send(stream, frame_id)
            bench.end_batch()
    assert len(sound.seen) == TAP_FAILURES_MAX + 2
    assert not bench.driver.has_tap(broken.take)
    assert bench.driver.has_tap(sound.take)
    assert logs[-1]["event"] == "what looks at frames failed again and again, it sees no more"
    bench.driver.add_tap(broken.take)
    bench.send(stream, 100)
    bench.end_batch()
    assert bench.driver.has_tap(broken.take), "it begins anew"
