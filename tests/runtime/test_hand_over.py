"""State of streams on its way from one version to another: whatever goes wrong there, every frame has one outcome, and
no stream that insists on its state is answered without it.
"""

import mmap
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from duly.core.events import Advice, DrainRequested
from duly.core.types import GapPolicy, OutcomeStatus
from duly.models.repository import ModelVersion
from duly.models.spec import ModelConfig, Signature, TensorSpec
from duly.runtime import hand_over
from duly.worker import handed_state
from tests.runtime import scripted
from tests.runtime.scripted import LANE, Bench, ScriptedProcess, Stream

SEEDS = 60
_SPEC = TensorSpec(name="x", datatype="FP32", shape=(2,), bytes_max=8)
_KEPT = TensorSpec(name="count", datatype="INT64", shape=(1,), bytes_max=8)
_SIGNATURE = Signature(
    inputs=(_SPEC,), outputs=(_SPEC,), batch_sizes=(1, 2, 4), any_size=True, stateful=True, states=(_KEPT,)
)
LIES: list[Callable[[bytes], bytes]] = [
    lambda answer: handed_state.encode_state(77, [True]),
    lambda answer: answer + b"\x01",
    lambda answer: answer[:-1],
    lambda answer: answer[:-1] + b"\x02",
    lambda answer: answer[:3],
]


class StateBench(Bench):
    """A runtime that serves s/1 and s/2, which go on with each other's state."""

    async def start(self) -> None:
        self.policies: dict[int, GapPolicy] = {}
        for version in ("1", "2"):
            await self.load(version)

    async def load(self, version: str) -> None:
        self.found.signature[f"s/{version}"] = _SIGNATURE
        config = ModelConfig(version_change="CARRY")
        await self.host._load(ModelVersion("s", version, Path(), Path(), config, ()))

    def open_with(self, gap: GapPolicy) -> int:
        stream = Stream()
        stream_id = self.driver.open_stream(stream, replace(scripted.TERMS, gap=gap, model="s/1"))
        self.streams[stream_id] = stream, "s/1"
        self.policies[stream_id] = gap
        return stream_id

    def move(self, stream_id: int, version: int) -> None:
        """Another version is active for the stream from its next frame on."""
        self.streams[stream_id] = self.streams[stream_id][0], f"s/{version}"

    def process(self, version: int) -> ScriptedProcess:
        worker = self.driver._workers[f"s/{version}", LANE]
        return worker._process  # type: ignore[attr-defined, no-any-return]

    @property
    def asked(self) -> ScriptedProcess | None:
        return next((process for process in self.processes if process.asked_state is not None), None)

    def time_out(self) -> None:
        """No batch waits for its states any longer."""
        for each in list(self.driver._hand_overs.values()):
            each._overdue()

    async def until(self, true: Callable[[], bool]) -> None:
        def given() -> bool:
            if self.asked is not None:
                self.asked.give()
            return true()

        await super().until(given)

    async def ask(self, stream_id: int) -> OutcomeStatus:
        """Sends a frame that is served well, and returns how it ended."""
        stream = self.streams[stream_id][0]
        self.send(stream_id)
        await self.until(lambda: len(stream.outcomes) == len(stream.sent))
        return stream.outcomes[stream.sent[-1]].status

    def before(self, stream_id: int) -> list[int]:
        """What workers had kept of the stream when its frames ran."""
        return [self.found.before[frame_id] for frame_id in self.streams[stream_id][0].sent]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hand_over, "WAIT_SECONDS", 600.0)


@pytest_asyncio.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StateBench]:
    bench = StateBench(monkeypatch)
    await bench.start()
    yield bench
    await bench.supervisor.close()


async def on_its_way(bench: StateBench, *gaps: GapPolicy) -> list[int]:
    """Streams that have run one frame on s/1, and whose next ones wait for their state on s/2."""
    streams = [bench.open_with(gap) for gap in gaps]
    for stream_id in streams:
        assert await bench.ask(stream_id) is OutcomeStatus.ON_TIME
        bench.move(stream_id, 2)
    for stream_id in streams:
        bench.send(stream_id)
    await bench.turn()
    assert bench.asked is bench.process(1)
    assert bench.running is None
    return streams


async def test_states_move_and_are_forgotten_where_they_were(bench: StateBench) -> None:
    streams = await on_its_way(bench, *GapPolicy)
    await bench.until(lambda: not bench.driver.held)
    assert bench.process(1).states == {}
    assert bench.process(2).states == dict.fromkeys(streams, 2)
    for stream_id in streams:
        assert bench.before(stream_id) == [0, 1]
        bench.move(stream_id, 1)
        assert await bench.ask(stream_id) is OutcomeStatus.ON_TIME
        assert bench.before(stream_id) == [0, 1, 2]


def lies(bench: StateBench) -> None:
    bench.process(1).give(LIES[0])


def dies(bench: StateBench) -> None:
    bench.process(1).kill()


def has_nothing(bench: StateBench) -> None:
    bench.process(1).states.clear()
    bench.process(1).give()


def keeps_the_memory(bench: StateBench) -> None:
    _, _, fd = bench.process(1).asked_state  # type: ignore[misc]
    bench.kept = mmap.mmap(fd, 8)  # type: ignore[attr-defined]
    bench.process(1).give()


@pytest.mark.parametrize("wrong", [lies, dies, has_nothing, keeps_the_memory])
async def test_streams_whose_state_does_not_come_start_anew_or_fail(
    bench: StateBench, wrong: Callable[[StateBench], None]
) -> None:
    anew, strict = await on_its_way(bench, GapPolicy.CONTINUE, GapPolicy.SKIP)
    wrong(bench)
    await bench.until(lambda: not bench.driver.held)
    stream, strict_stream = bench.streams[anew][0], bench.streams[strict][0]
    assert [outcome.status for outcome in stream.outcomes.values()] == [OutcomeStatus.ON_TIME] * 2
    assert bench.before(anew) == [0, 0]
    assert Advice.VERSION_CHANGED in [advice for advice, _ in stream.told]
    failed = strict_stream.outcomes[strict_stream.sent[-1]]
    assert failed.status in (OutcomeStatus.FAILED, OutcomeStatus.SKIPPED)
    assert "state" in failed.reason
    assert await bench.ask(strict) is OutcomeStatus.SKIPPED
    assert await bench.ask(anew) is OutcomeStatus.ON_TIME
    assert bench.before(anew) == [0, 0, 1]


async def test_states_that_take_too_long_are_not_waited_for(bench: StateBench) -> None:
    anew, strict = await on_its_way(bench, GapPolicy.RESET, GapPolicy.SKIP)
    bench.time_out()
    await bench.turn()
    assert bench.running is bench.process(2)
    bench.running.answer()
    await bench.turn()
    assert bench.before(anew) == [0, 0]
    last = bench.streams[strict][0]
    assert last.outcomes[last.sent[-1]].status is OutcomeStatus.FAILED
    bench.process(1).give()  # too late, and nobody takes it
    bench.move(anew, 1)
    assert await bench.ask(anew) is OutcomeStatus.ON_TIME
    assert bench.before(anew) == [0, 0, 1]


async def test_a_stream_that_closes_meanwhile_leaves_nothing_behind(bench: StateBench) -> None:
    closes, stays = await on_its_way(bench, GapPolicy.CONTINUE, GapPolicy.SKIP)
    bench.close(closes)
    await bench.until(lambda: not bench.driver.held)
    await bench.turn()
    assert bench.before(stays) == [0, 1]
    assert (bench.process(1).states, bench.process(2).states) == ({}, {stays: 2})


async def test_the_new_worker_dies_meanwhile(bench: StateBench) -> None:
    (stream_id,) = await on_its_way(bench, GapPolicy.SKIP)
    bench.process(2).kill()
    await bench.until(lambda: not bench.driver.held)
    stream = bench.streams[stream_id][0]
    assert stream.outcomes[stream.sent[-1]].status is OutcomeStatus.FAILED
    assert bench.driver.blame.peaceful
    assert await bench.ask(stream_id) is OutcomeStatus.SKIPPED


@pytest.mark.parametrize("version", ["1", "2"])
async def test_a_version_is_unloaded_meanwhile(bench: StateBench, version: str) -> None:
    streams = await on_its_way(bench, GapPolicy.CONTINUE, GapPolicy.SKIP)
    await bench.host.unload("s", version)
    await bench.until(lambda: not bench.driver.held)
    for stream_id in streams:
        bench.streams[stream_id][0].check(is_open=True)
    assert bench.streams[streams[1]][0].outcomes[bench.streams[streams[1]][0].sent[-1]].status is OutcomeStatus.FAILED


async def test_a_drain_ends_meanwhile(bench: StateBench) -> None:
    streams = await on_its_way(bench, *GapPolicy)
    bench.driver.submit(DrainRequested(bench.clock.now_ns))
    bench.driver.stop_running("the server stops")
    assert not bench.driver.held
    bench.process(1).give()
    await bench.turn()
    assert bench.running is None
    for stream_id in streams:
        bench.streams[stream_id][0].check(is_open=True)


async def act(bench: StateBench, rng: random.Random) -> None:
    """One thing that may happen."""
    bench.clock.now_ns += 1_000_000
    running, asked = bench.running, bench.asked
    stream_id = rng.choice(list(bench.streams)) if bench.streams else 0
    # A load that goes wrong would be tried again after a pause on the real clock.
    loaded = [version for version in (1, 2) if (f"s/{version}", LANE) in bench.driver._workers]
    loaded = [version for version in loaded if bench.process(version).alive]
    match rng.choice(
        ["open", "close", "send", "send", "send", "answer", "answer", "give", "give", "lie", "die", "say", "late"]
    ):
        case "open":
            bench.open_with(rng.choice(list(GapPolicy)))
        case "close" if stream_id and rng.random() < 0.3:
            bench.close(stream_id)
        case "send" if stream_id:
            bench.move(stream_id, rng.choice([1, 2]))
            bench.send(stream_id, rng.randint(1, 2))
        case "answer" if running is not None:
            running.answer()
        case "give" if asked is not None:
            asked.give()
        case "lie" if asked is not None and rng.random() < 0.3:
            asked.give(rng.choice(LIES))
        case "die" if loaded and rng.random() < 0.3:
            bench.process(rng.choice(loaded)).kill()
        case "late":
            bench.time_out()
        case "say" if loaded and rng.random() < 0.1:
            bench.process(rng.choice(loaded)).say(handed_state.encode_state(9999, [True]))
    await bench.turn(rng.randint(0, 5))


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_the_law_while_states_move(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = random.Random(seed)
    bench = StateBench(monkeypatch)
    await bench.start()
    everyone = {}
    for _ in range(60):
        await act(bench, rng)
        everyone.update(bench.streams)
    await bench.until(lambda: not bench.driver.held and not bench.driver._hand_overs)
    for stream_id, (stream, _) in everyone.items():
        stream.check(is_open=stream_id in bench.streams)
        if bench.policies[stream_id] is GapPolicy.SKIP:
            served = [f for f, outcome in stream.outcomes.items() if outcome.status is OutcomeStatus.ON_TIME]
            assert [bench.found.before[frame_id] for frame_id in sorted(served)] == list(range(len(served)))
    await bench.supervisor.close()
