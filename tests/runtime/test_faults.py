"""Whatever raises on a frame's way, and whatever a worker says: every frame has one outcome, and the lane goes on."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs

from duly.core.events import (
    Action,
    Advice,
    BatchFinished,
    DrainRequested,
    Event,
    FramesCancelled,
    ResolveFrame,
)
from duly.core.types import OutcomeStatus
from duly.runtime.catalogue import VersionState
from duly.runtime.driver import FAILURES_MAX, Driver
from duly.runtime.hang import ProcessState
from duly.worker import channel
from tests.runtime.held import take
from tests.runtime.scripted import LANE, Bench, Change, Injected, S, ScriptedProcess, Stream, but

SEEDS = 150


def full(done: channel.Done, size_max: int) -> bytes:
    """The failure of a batch of which it is said that there is memory for no more than so many frames."""
    return channel.encode_text(channel.FAILED, {"reason": "no memory", "size_max": size_max}, done.batch_id)


LIES: list[Change] = [
    lambda done: b"\xff",
    lambda done: channel.encode_done(done)[:-3],
    lambda done: channel.encode_text(channel.FAILED, {"reason": "?"}, done.batch_id + 1),
    lambda done: full(done, len(done.frames)),
    lambda done: full(done, 3),
    lambda done: full(done, -1),
    but(batch_id=12345),
    lambda done: but(slot=1 - done.slot)(done),
    lambda done: but(frames=done.frames[1:])(done),
    lambda done: but(frames=[(channel.OK, [(1 << 40, 8, 0, (2,))]) for _ in done.frames])(done),
    lambda done: but(frames=[(channel.OK, [(0, 4, 0, (2,))]) for _ in done.frames])(done),
    lambda done: but(finished_ns=done.started_ns - 1)(done),
]


class Faulty:
    """A scheduler, or what holds frames, of which one method raises when it is next asked for. A compiled one takes no
    other methods.
    """

    def __init__(self, real: Any, name: str) -> None:
        self.real = real
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            self._name = ""
            raise Injected(name)
        return getattr(self.real, name)

    def __len__(self) -> int:
        return len(self.real)


def once(target: Any, name: str) -> None:
    """The next call of it raises, and no other. Of a driver it is its scheduler's, or that of what holds its frames."""
    if isinstance(target, Driver):
        if name == "payloads":
            target.held = Faulty(target.held, name)  # type: ignore[assignment]
        else:
            target.scheduler = Faulty(target.scheduler, name)  # type: ignore[assignment]
        return

    def raising(*arguments: Any) -> Any:
        disarm(target, name)
        raise Injected(name)

    setattr(target, name, raising)


def disarm(target: Any, name: str) -> None:
    if isinstance(target, Driver):
        while isinstance(target.scheduler, Faulty):
            target.scheduler = target.scheduler.real
        while isinstance(target.held, Faulty):
            target.held = target.held.real
    else:
        vars(target).pop(name, None)


def places(bench: Bench) -> list[tuple[Any, str]]:
    """Where something may raise."""
    workers = [worker for served in bench.catalogue.all_versions() for worker in served.workers.values()]
    return [
        (bench.driver, "step"),
        (bench.driver, "next_wake_ns"),
        (bench.driver, "payloads"),
        (bench.metrics, "batch"),
        (bench.metrics, "outcome"),
        (bench.metrics, "worker_restarted"),
        *((worker, name) for worker in workers for name in ("run", "stage")),
    ]


def failing_tap(*seen: object) -> NoReturn:
    raise Injected("tap")


def inject(bench: Bench, rng: random.Random) -> None:
    """Something is about to raise."""
    match rng.choice(["sink", "recorder", "tap", "place", "place", "place"]):
        case "sink" if bench.streams:
            rng.choice(list(bench.streams.values()))[0].raises = True
        case "recorder":
            bench.recording.raises = True
        case "tap":
            bench.driver.add_tap(failing_tap)
        case _:
            once(*rng.choice(places(bench)))


async def act(bench: Bench, rng: random.Random) -> None:
    """One thing that may happen."""
    bench.clock.now_ns += 1_000_000
    running = bench.running
    acts = ["open", "close", "send", "send", "send", "cancel", "answer", "answer", "lie", "silence", "die", "full"]
    match rng.choice(acts):
        case "open":
            bench.open(rng.choice(["m/1", "n/1"]))
        case "close" if bench.streams:
            bench.close(rng.choice(list(bench.streams)))
        case "send" if bench.streams:
            bench.send(rng.choice(list(bench.streams)), rng.randint(1, 6))
        case "cancel" if bench.streams:
            stream_id = rng.choice(list(bench.streams))
            bench.driver.submit(FramesCancelled(stream_id, tuple(bench.streams[stream_id][0].sent[-2:])))
        case "answer" if running is not None:
            running.answer()
        case "lie" if running is not None:
            running.answer(rng.choice(LIES))
        case "full" if running is not None:
            running.answer(lambda done: full(done, len(done.frames) // 2))
        case "silence":
            await bench.silence(rng.choice([0.5, 11]))
        case "die" if running is not None:
            running.kill()
    await bench.turn(rng.randint(0, 5))


@pytest.mark.parametrize("lane", [LANE, "cuda:0"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_law_under_faults(monkeypatch: pytest.MonkeyPatch, seed: int, lane: str) -> None:
    """On the lane of a GPU frames are brought there ahead."""

    async def story() -> None:
        rng = random.Random(seed)
        bench = Bench(monkeypatch, lane)
        await bench.start()
        everyone = [bench.open(), bench.open("n/1")]
        for _ in range(rng.randint(5, 40)):
            before = set(bench.streams)
            await act(bench, rng)
            everyone += [bench.streams[stream_id][0] for stream_id in bench.streams.keys() - before]
            if rng.random() < 0.25:
                inject(bench, rng)
            for stream_id, (stream, _) in list(bench.streams.items()):
                if stream.broken:
                    del bench.streams[stream_id]
        for stream in everyone:
            stream.raises = False
        await bench.until(lambda: not bench.driver.held)
        assert bench.driver.held.bytes == 0
        still_open = [stream for stream, _ in bench.streams.values()]
        for stream in everyone:
            stream.check(is_open=any(stream is other for other in still_open))
        for place in places(bench):
            disarm(*place)
        await bench.serves()
        assert len(bench.placement.claims) == 2, "one for each worker"
        await bench.supervisor.close()
        assert not any(process.alive for process in bench.processes)
        assert bench.placement.claims == ()

    with capture_logs():
        asyncio.run(story())


@pytest.mark.parametrize("seed", range(SEEDS // 3))
def test_the_law_when_a_version_turns_out_to_be_another(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """From some moment on, whoever loads m/1 finds other files, or the same files with other outputs."""

    async def story() -> None:
        rng = random.Random(seed)
        bench = Bench(monkeypatch)
        await bench.start()
        everyone = [bench.open(), bench.open("n/1")]
        served = bench.catalogue.find("m", "1")
        acts = rng.randint(10, 40)
        changes_at = rng.randrange(acts)
        for nth in range(acts):
            if nth == changes_at and rng.random() < 0.5:
                bench.found.sha256["m/1"] = "1" * 64
            elif nth == changes_at:
                before = bench.found.signature["m/1"]
                bench.found.signature["m/1"] = before.model_copy(update={"outputs": before.outputs * 2})
            opened = set(bench.streams)
            await act(bench, rng)
            everyone += [bench.streams[stream_id][0] for stream_id in bench.streams.keys() - opened]
        for worker in served.workers.values():
            worker.kill()
        await bench.until(lambda: served.state is VersionState.FAILED and not bench.driver.held)
        for stream in everyone:
            stream.check(is_open=any(stream is other for other, _ in bench.streams.values()))
        assert not served.workers
        await bench.serves(("n/1",))
        await bench.supervisor.close()
        assert not any(process.alive for process in bench.processes)

    with capture_logs():
        asyncio.run(story())


# ---- one by one ----


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    bench = Bench(monkeypatch)
    await bench.start()
    yield bench
    await bench.supervisor.close()


async def running_and_waiting(bench: Bench) -> tuple[Stream, ScriptedProcess]:
    """A stream whose first frame runs while two more wait."""
    stream = bench.open()
    stream_id = next(reversed(bench.streams))
    bench.send(stream_id)
    await bench.turn()
    bench.send(stream_id, 2)
    await bench.turn()
    assert bench.running is not None
    return stream, bench.running


async def test_a_scheduler_that_fails_is_followed_by_one_that_knows_what_is_true(bench: Bench) -> None:
    stream, process = await running_and_waiting(bench)
    failed = bench.driver.scheduler
    once(bench.driver, "step")
    bench.send(next(iter(bench.streams)))
    await bench.turn()
    assert [outcome.status for outcome in stream.outcomes.values()] == [OutcomeStatus.FAILED] * 4
    assert {o.reason for o in stream.outcomes.values()} == {
        "the scheduler failed while the frame was waiting or running"
    }
    assert bench.driver.scheduler is not failed
    assert stream.told == [(Advice.SPEED_UP, 0)], "it does not know what the stream was told"
    assert not process.alive, "what runs for a scheduler that is gone is given up"
    assert (bench.recording.failures, bench.recording.fresh) == (1, 1)
    bench.send(next(iter(bench.streams)))  # of the stream that was open all the while
    await bench.until(lambda: len(stream.outcomes) == 5)
    assert stream.outcomes[stream.sent[-1]].status is OutcomeStatus.ON_TIME
    assert not bench.fatal


async def test_frames_of_a_batch_that_the_scheduler_invents_are_answered_all_the_same(bench: Bench) -> None:
    stream, process = await running_and_waiting(bench)
    real = bench.driver.scheduler

    class Inventive:
        def step(self, now_ns: int, event: Event) -> list[Action]:
            actions = real.step(now_ns, event)
            return [replace(action, batch_id=77) if isinstance(action, ResolveFrame) else action for action in actions]

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    bench.driver.scheduler = Inventive()  # type: ignore[assignment]
    process.answer()
    await bench.until(lambda: not bench.driver.held)
    assert sorted(stream.outcomes) == stream.sent
    assert bench.driver.held.bytes == 0


async def test_a_worker_that_is_idle_outlives_the_scheduler(bench: Bench) -> None:
    _, process = await running_and_waiting(bench)
    once(bench.driver, "step")
    process.answer()  # which the scheduler fails on
    await bench.turn()
    assert process.alive
    await bench.serves()


async def test_a_scheduler_that_fails_again_and_again_ends_the_process(bench: Bench) -> None:
    for nth in range(FAILURES_MAX + 1):
        assert not bench.fatal, nth
        once(bench.driver, "step")
        bench.driver.submit(BatchFinished(7))
    assert bench.fatal == [f"the scheduler failed {FAILURES_MAX + 1} times within a minute"]


async def test_failures_long_ago_do_not_count(bench: Bench) -> None:
    for _ in range(3 * FAILURES_MAX):
        bench.clock.now_ns += 60_000_000_000 // FAILURES_MAX
        once(bench.driver, "step")
        bench.driver.submit(BatchFinished(7))
    assert not bench.fatal


async def test_a_scheduler_that_can_not_be_told_what_is_true_ends_the_process(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, _ = await running_and_waiting(bench)

    def step(*_: object) -> NoReturn:
        raise Injected

    monkeypatch.setattr("duly.runtime.driver.Scheduler.step", step)
    bench.send(next(iter(bench.streams)))
    await bench.turn()
    assert sorted(stream.outcomes) == stream.sent
    assert bench.fatal[0] == "the scheduler cannot be started anew"


async def test_a_batch_that_can_not_be_handed_over_fails_alone(bench: Bench) -> None:
    stream, process = await running_and_waiting(bench)
    once(bench.catalogue.find("m", "1").workers[LANE], "run")
    process.answer()
    await bench.until(lambda: len(stream.outcomes) == 3)
    assert [outcome.status.name for outcome in stream.outcomes.values()] == ["ON_TIME", "FAILED", "FAILED"]
    assert stream.outcomes[stream.sent[-1]].reason == "the batch could not be handed to its worker"
    assert process.alive


async def test_a_payload_that_does_not_fit_fails_its_batch_and_not_its_neighbours(bench: Bench) -> None:
    stream = bench.open()
    take(bench.driver, bench.clock.monotonic_ns, next(reversed(bench.streams)), 1, "m/1", S, bytes(12), (3,))
    await bench.until(lambda: bool(stream.outcomes))
    assert stream.outcomes[1].status is OutcomeStatus.FAILED
    await bench.serves()


async def test_a_sink_that_raises_loses_its_stream_and_no_other(bench: Bench) -> None:
    broken, _ = await running_and_waiting(bench)
    other = bench.open()
    bench.send(next(reversed(bench.streams)))
    broken.raises = True
    await bench.until(lambda: bool(other.outcomes))
    assert broken.broken
    assert not broken.outcomes
    assert not bench.driver.held
    del bench.streams[1]
    await bench.serves()


async def test_a_recording_that_raises_stops_with_one_line(bench: Bench) -> None:
    bench.recording.raises = True
    with capture_logs() as lines:
        await bench.serves()
    assert [line["event"] for line in lines] == ["recording stopped, it failed"]
    assert bench.recording.closed


async def test_a_worker_that_lies_is_named_once_and_its_batch_fails(bench: Bench) -> None:
    stream, process = await running_and_waiting(bench)
    with capture_logs() as lines:
        process.answer(but(batch_id=99))
        await bench.turn()
    broken = [line for line in lines if line["event"] == "worker is broken, it is killed"]
    assert [(line["model"], line["lane"]) for line in broken] == [("m/1", LANE)]
    assert "batch 99" in broken[0]["answer"]
    assert not process.alive
    assert [o.reason for o in stream.outcomes.values()] == ["the model's worker gave an answer that makes no sense"]
    await bench.until(lambda: len(stream.outcomes) == 3)
    assert [o.status.name for o in stream.outcomes.values()] == ["FAILED", "ON_TIME", "ON_TIME"]


async def test_a_worker_that_never_answers_is_seen_by_the_watchdog(bench: Bench) -> None:
    stream, process = await running_and_waiting(bench)
    await bench.silence(9.9)
    assert process.alive
    await bench.silence(0.3)
    assert not process.alive
    (outcome,) = stream.outcomes.values()
    assert outcome.reason == "its worker did not answer for 10.1 s and was killed"
    await bench.serves()


async def test_a_server_that_was_paused_reads_answers_before_it_judges(bench: Bench) -> None:
    """It was stopped for a minute with everything else going on."""
    stream, process = await running_and_waiting(bench)
    bench.process_state = ProcessState(stopped=False, runs=False, cpu_ns=0)
    process.answer()
    bench.clock.now_ns += 60 * S
    bench.samplers.kill_hung_workers()
    assert process.alive
    await bench.turn()
    assert len(stream.outcomes) == 1


async def test_the_end_of_a_process_is_seen_even_if_its_socket_stays_open(bench: Bench) -> None:
    stream, process = await running_and_waiting(bench)
    process._code, process.asked = -9, None
    bench.samplers.kill_hung_workers()
    assert [outcome.status.name for outcome in stream.outcomes.values()] == ["FAILED"]
    await bench.serves()
    asyncio.get_running_loop().remove_reader(process._socket)
    process._socket.close()


async def test_an_idle_worker_that_answers_no_ping_is_replaced(bench: Bench) -> None:
    bench.process_state = ProcessState(stopped=False, runs=False, cpu_ns=0)
    process = bench.processes[0]
    await bench.silence(30)
    assert process.alive, "it answers"
    asyncio.get_running_loop().remove_reader(process._socket)
    await bench.silence(2)
    assert not process.alive
    await bench.serves()


async def test_what_runs_when_a_drain_is_over_is_failed(bench: Bench) -> None:
    stream, process = await running_and_waiting(bench)
    bench.driver.submit(DrainRequested(bench.clock.now_ns + S))
    bench.clock.now_ns += S
    bench.supervisor.replace_no_more()
    bench.driver.stop_running("the server stopped while the frame ran")
    await bench.driver.drained()
    assert {o.held.frame.frame_id: (o.status.name, o.reason) for o in stream.outcomes.values()} == {
        1: ("FAILED", "the server stopped while the frame ran"),
        2: ("SHED", "the server stopped before its turn"),
        3: ("SHED", "the server stopped before its turn"),
    }
    assert not process.alive
    bench.send(next(iter(bench.streams)))
    await bench.turn()
    assert stream.outcomes[4].reason == "the server is draining"
    assert len(bench.processes) == 2, "nobody replaces a worker now"
