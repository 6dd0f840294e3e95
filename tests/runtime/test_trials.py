"""Trials in a runtime whose workers are scripted: nothing that goes wrong in one costs anybody a frame."""

import asyncio
import contextlib
import os
import random
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from duly.agreement.measures import Outputs
from duly.core.types import Frame, OutcomeStatus, StreamClass
from duly.models.repository import ModelVersion
from duly.models.spec import VIDEO, ModelConfig
from duly.models.trial import Trial
from duly.runtime.catalogue import LoadedVersion, ModelError
from duly.runtime.comparing import WAITING_MAX
from duly.runtime.held_frames import HeldFrame, InputData
from duly.runtime.outcome import BatchRun, Outcome, Output
from duly.runtime.running_trial import TrialReport
from duly.runtime.shadow import HELD_BYTES_MAX
from duly.runtime.shared_memory import ClientMemory, SharedData
from duly.runtime.trial_memory import TrialMemory
from duly.runtime.trials import Trials
from duly.trials.trial import Stage
from duly.worker import channel
from duly.worker.channel import ENCODINGS, ROW
from tests.runtime.held import SIGNATURE
from tests.runtime.scripted import MS, Bench, S, but
from tests.runtime.scripted import payload as payload_of
from tests.runtime.test_faults import act, disarm, inject, places

SETTINGS = Trial(shadow_share=1.0, comparisons_per_s_max=1000.0, frames_min=20, agreement_min=0.5, rolled_back="KEEP")
GOES_ON = SETTINGS.model_copy(update={"at_limit": "GO_ON"})
SEEDS = 40


class Tried(Bench):
    """A runtime with version 2 of m beside the active one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self.decided: list[TrialReport] = []
        self.observers: list[object] = []
        self.trials = Trials(
            self.host,
            self.catalogue,
            self.driver,
            TrialMemory(None),
            lambda name: [],
            self.observers.append,
            self.decided.append,
        )

    async def start(self, settings: Trial = SETTINGS) -> None:
        await super().start()
        self.catalogue.activate(self.catalogue.find("m", "1"))
        self.candidate = await self.load("2", settings)

    async def load(self, version: str, settings: Trial = SETTINGS) -> LoadedVersion:
        return await self.host._load(ModelVersion("m", version, Path(), Path(), ModelConfig(trial=settings), ()))

    async def frames(self, count: int) -> None:
        """A stream of m/1 gets so many results, a second apart."""
        stream = self.open()
        for _ in range(count):
            self.send(next(reversed(self.streams)))
            await self.until(lambda: len(stream.outcomes) == len(stream.sent))  # called at once
            await self.until(lambda: not self.driver.held)
            await self.turn()
            await self.trials._comparing.finished()
            self.clock.now_ns += S
        stream.check(is_open=True)
        assert {outcome.status for outcome in stream.outcomes.values()} == {OutcomeStatus.ON_TIME}

    def report(self) -> TrialReport:
        report = self.trials.report("m", "2")
        assert report is not None
        return report


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tried]:
    bench = Tried(monkeypatch)
    await bench.start()
    yield bench
    await bench.trials.close()
    await bench.supervisor.close()


async def test_copies_run_on_the_candidate_and_nobody_hears_of_them(bench: Tried) -> None:
    heard: list[Outcome] = []
    tapped: list[str] = []
    bench.driver._delivery._unheard = lambda now_ns, outcome: heard.append(outcome)
    bench.driver.add_tap(lambda pieces, payload, status, outputs, run: tapped.append(run.batch.model))
    await bench.trials.begin(bench.candidate)
    await bench.frames(12)
    report = bench.report()
    assert report.stage is Stage.SHADOW
    assert report.figures.frames_compared > 0
    assert report.figures.agreement == 1.0
    assert set(tapped) == {"m/1"}
    assert not heard
    assert bench.trials._held_bytes.bytes == 0
    await bench.frames(40)
    assert bench.report().stage is Stage.CANARY
    assert bench.catalogue.has_canary("m")


async def test_nothing_is_left_of_a_trial_that_is_over(bench: Tried) -> None:
    await bench.trials.begin(bench.candidate)
    await bench.frames(5)
    bench.send(next(reversed(bench.streams)))
    await bench.until(lambda: any(held.spare for held in bench.driver.held.all()))
    await bench.trials.veto("m", "2", "ann", "")
    assert bench.report().stage is Stage.VETOED
    await bench.until(lambda: not bench.driver.held)
    await bench.turn()
    assert bench.driver._delivery.taps is None
    assert bench.driver._delivery.sinks.keys() == bench.streams.keys()
    assert bench.trials._held_bytes.bytes == 0
    assert bench.observers[-1] is None
    assert [report.stage for report in bench.decided] == [Stage.SHADOW, Stage.VETOED]
    assert not bench.catalogue.has_canary("m")
    await bench.serves(("m/1", "m/2", "n/1"))


async def test_what_there_is_no_room_for_is_counted_and_not_tried(
    bench: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.trials.begin(bench.candidate)
    bench.trials._held_bytes.bytes = HELD_BYTES_MAX
    await bench.frames(3)
    assert bench.report().shadow.not_drawn == 3
    bench.trials._held_bytes.bytes = 0
    monkeypatch.setattr("duly.runtime.shadow.COMPARED_BYTES_MAX", 0)
    await bench.frames(2)
    assert bench.report().shadow.not_drawn == 5
    assert bench.report().figures.frames_compared == 0


Seen = tuple[Sequence[HeldFrame], Sequence[InputData], OutcomeStatus, Sequence[Output], BatchRun]


async def seen(bench: Tried) -> Seen:
    """What a tap is shown of one frame of m/1, in a trial that has begun."""
    shown: list[Seen] = []
    bench.driver.add_tap(lambda *what: shown.append(what))
    await bench.trials.begin(bench.candidate)
    await bench.frames(1)
    return shown[0]


@pytest.mark.parametrize("encoding", [ROW, ENCODINGS.index(VIDEO[0])])
async def test_frames_that_are_no_longer_as_they_were_sent_are_not_tried(bench: Tried, encoding: int) -> None:
    pieces, _, status, outputs, run = await seen(bench)
    shadow = bench.trials._running["m"].shadow
    assert shadow is not None
    shadow.see(pieces, [InputData(encoding, (), payload_of(7))], status, outputs, run)
    assert bench.report().shadow.not_drawn == 1
    assert not shadow._held


@pytest.mark.parametrize("length", [-1, 0, 4])
async def test_a_client_that_has_gone_costs_one_comparison_and_not_the_trial(bench: Tried, length: int) -> None:
    """`length`: of the memory that is left; -1: there is none."""
    memory = ClientMemory(1, os.memfd_create("frames") if length >= 0 else -1)
    if length > 0:
        os.write(memory.fd, b"x" * length)
    pieces, _, status, outputs, run = await seen(bench)
    shadow = bench.trials._running["m"].shadow
    assert shadow is not None
    shadow.see(pieces, [InputData(0, (2,), SharedData(memory, 0, 8))], status, outputs, run)
    assert bench.report().shadow.not_drawn == 1
    assert not shadow._held
    memory.close()


async def test_a_shadow_that_is_shown_nothing_any_more_ends_the_trial_with_that_reason(bench: Tried) -> None:
    await bench.trials.begin(bench.candidate)
    shadow = bench.trials._running["m"].shadow
    assert shadow is not None
    shadow._share = None  # type: ignore[assignment]  # comparing with it raises
    await bench.frames(1)
    bench.trials.look()
    assert bench.report().stage is Stage.ROLLED_BACK
    assert bench.report().reason == "the server failed on a copy for it; see the server's log"


async def copy_of(bench: Tried) -> None:
    """A copy runs on the candidate."""
    await bench.trials.begin(bench.candidate)
    await bench.frames(3)
    bench.send(next(reversed(bench.streams)))
    await bench.until(lambda: any(held.spare and bench.running for held in bench.driver.held.all()))


async def test_what_only_the_candidate_finds_invalid_is_no_failure_but_another_answer(bench: Tried) -> None:
    await copy_of(bench)
    assert bench.running is not None
    bench.running.answer(but(frames=[(channel.INVALID, [])], reasons={0: "a guard"}))
    await bench.turn()
    figures = bench.report().figures
    assert (figures.errors, figures.frames_compared, figures.agreement) == (0, 4, 0.75)


async def test_a_copy_that_the_server_loses_is_no_error(bench: Tried) -> None:
    await copy_of(bench)
    bench.driver._start_anew("the scheduler failed")
    await bench.turn()
    assert (bench.report().stage, bench.report().figures.errors) == (Stage.SHADOW, 0)
    await bench.trials.veto("m", "2", "ann", "")


async def test_a_copy_on_which_the_candidate_fails_is_an_error(bench: Tried) -> None:
    await copy_of(bench)
    assert bench.running is not None
    bench.running.answer(but(frames=[(channel.FRAME_FAILED, [])], reasons={0: "no number"}))
    await bench.turn()
    assert bench.report().stage is Stage.ROLLED_BACK
    assert bench.report().reason.endswith("the last: no number")


async def test_comparing_holds_up_nobody_and_what_waits_for_it_is_bounded(bench: Tried) -> None:
    go_on = threading.Event()

    class Slow:
        name = "slow"

        def of(self, expected: Outputs, got: Outputs) -> float:
            go_on.wait(60)
            return 1.0

    await bench.trials.begin(bench.candidate)
    shadow = bench.trials._running["m"].shadow
    assert shadow is not None
    shadow._measure = Slow()
    finished = bench.trials._comparing.finished
    bench.trials._comparing.finished = bench.turn  # type: ignore[method-assign]
    await bench.frames(WAITING_MAX + 3)
    await bench.until(lambda: not bench.trials._held_bytes.bytes)
    assert bench.report().shadow.compared == 0
    assert bench.report().shadow.not_drawn == 3
    go_on.set()
    await finished()
    await bench.turn()
    assert bench.report().shadow.compared == WAITING_MAX


async def test_no_more_answers_are_compared_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Tried(monkeypatch)
    await bench.start(SETTINGS.model_copy(update={"comparisons_per_s_max": 0.01}))
    await bench.trials.begin(bench.candidate)
    await bench.frames(30)
    assert bench.report().figures.frames_compared <= 2
    assert bench.report().shadow.not_drawn >= 28
    await bench.trials.close()
    await bench.supervisor.close()


async def test_what_cannot_be_tried_is_refused_with_the_reason(bench: Tried) -> None:
    with pytest.raises(ModelError, match="m/1 is active already"):
        await bench.trials.begin(bench.catalogue.find("m", "1"))
    with pytest.raises(ModelError, match="no version of n serves, with which 1 could be compared"):
        await bench.trials.begin(bench.catalogue.find("n", "1"))
    await bench.trials.begin(bench.candidate)
    with pytest.raises(ModelError, match="m/2 is on trial already"):
        await bench.trials.begin(await bench.load("3"))
    with pytest.raises(ModelError, match="m/2 is on trial, which decides"):
        await bench.host.activate("m", "3")
    with pytest.raises(ModelError, match="there is no model 'o'"):
        await bench.trials.veto("o", "1", "ann", "")


async def test_the_streams_of_a_canary_go_over_in_turns_and_come_back_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Tried(monkeypatch)
    await bench.start(GOES_ON.model_copy(update={"canary_share": 1.0}))
    await bench.trials.begin(bench.candidate)
    bench.clock.now_ns += 3600 * S
    bench.trials.look()
    await bench.until(lambda: bench.catalogue.has_canary("m"))
    active, turns = bench.catalogue.find("m", "1"), []
    for _ in range(40):
        follows = bench.catalogue.follows("m", "a camera", active)
        assert follows in (active, bench.candidate)
        assert bench.catalogue.draws("m", "a camera")
        turns.append(follows is bench.candidate)
        changes = bench.catalogue.changes_count
        bench.clock.now_ns += S
        bench.trials.look()
        assert bench.catalogue.changes_count - changes == (bench.catalogue._canaries["m"].has_turn is not turns[-1])
    assert all(first is not second for first, second in zip(turns[::2], turns[1::2], strict=True))
    await bench.trials.veto("m", "2", "ann", "")
    assert bench.catalogue.follows("m", "a camera", active) is active
    assert not bench.catalogue.draws("m", "a camera")
    await bench.trials.close()
    await bench.supervisor.close()


@pytest.mark.parametrize(
    ("settings", "signature"),
    [({"canary_streams": "NEW"}, {}), ({}, {"stateful": True})],
    ids=["new streams alone", "state that is not carried over"],
)
async def test_where_streams_cannot_go_in_turns_they_stay_and_the_report_says_why(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], signature: dict[str, object]
) -> None:
    bench = Tried(monkeypatch)
    for key in ("m/1", "m/2"):
        bench.found.signature[key] = bench.found.signature[key].model_copy(update=signature)
    await bench.start(GOES_ON.model_copy(update={"canary_share": 1.0, **settings}))
    await bench.trials.begin(bench.candidate)
    if bench.report().stage is Stage.SHADOW:
        bench.clock.now_ns += 3600 * S
        bench.trials.look()
    await bench.until(lambda: bench.catalogue.has_canary("m"))
    stage = bench.report().stage
    for _ in range(10):
        bench.clock.now_ns += S
        bench.trials.look()
        assert bench.catalogue.follows("m", "a camera", None) is bench.candidate
    assert stage is Stage.CANARY
    running = bench.trials._running["m"]
    frame = Frame(1, 1, 1, "m/2", 0)
    running.outcome(Outcome(HeldFrame(frame, StreamClass.STANDARD, SIGNATURE, 0, 0), OutcomeStatus.ON_TIME, ""))
    assert "as if those were alike (" in running.trial._said_on_time()
    await bench.trials.close()
    await bench.supervisor.close()


async def test_a_version_does_not_loosen_the_rules_by_which_it_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Trial(agreement_min=0.0, on_time_worse_max=0.5, errors_max=9, risk=0.01, at_limit="GO_ON", canary_share=1.0)
    operators = Trial(agreement_min=0.9, drift="ROLL_BACK", frames_min=50)
    bench = Tried(monkeypatch)
    await bench.start(own)
    active = bench.catalogue.find("m", "1")
    active.version = replace(active.version, config=ModelConfig(trial=operators))
    for from_own_file, expected in (
        (True, operators.model_copy(update={"risk": 0.01, "frames_min": 200})),
        (False, own),
    ):
        bench.candidate.version = replace(bench.candidate.version, own=frozenset({"trial"} if from_own_file else ()))
        report = await bench.trials.begin(bench.candidate)
        assert bench.trials._running["m"].settings == expected
        assert report.reason.endswith("and those of version 1 the stricter hold") is from_own_file
        await bench.trials.veto("m", "2", "ann", "")
    await bench.trials.close()
    await bench.supervisor.close()


async def test_drift_ends_a_trial_where_model_toml_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Tried(monkeypatch)
    await bench.start(SETTINGS.model_copy(update={"drift": "ROLL_BACK"}))
    await bench.trials.begin(bench.candidate)
    bench.trials.drifted("n", "inputs")
    assert bench.report().stage is Stage.SHADOW
    bench.trials.drifted("m", "inputs")
    assert (bench.report().stage, bench.report().reason) == (Stage.ROLLED_BACK, "drift: inputs")
    await bench.trials.close()
    await bench.supervisor.close()


async def test_a_candidate_that_is_unloaded_is_on_trial_no_more(bench: Tried) -> None:
    await bench.trials.begin(bench.candidate)
    bench.catalogue.remove(bench.candidate)
    bench.trials.look()
    assert (bench.report().stage, bench.report().reason) == (Stage.ROLLED_BACK, "it was unloaded")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_law_holds_with_a_trial_on_under_faults(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    async def story() -> None:
        rng = random.Random(seed)
        bench = Tried(monkeypatch)
        await bench.start(SETTINGS.model_copy(update={"errors_max": 1000}))
        await bench.trials.begin(bench.candidate)
        everyone = [bench.open(), bench.open("n/1"), bench.open("m/2")]
        for _ in range(rng.randint(5, 40)):
            before = set(bench.streams)
            await act(bench, rng)
            bench.clock.now_ns += rng.choice([0, 300 * MS])
            bench.trials.look()
            if rng.random() < 0.03 and not bench.trials.on_trial("m"):
                await again(bench)
            everyone += [bench.streams[stream_id][0] for stream_id in bench.streams.keys() - before]
            if rng.random() < 0.2:
                inject(bench, rng)
            for stream_id, (stream, _) in list(bench.streams.items()):
                if stream.broken:
                    del bench.streams[stream_id]
        for stream in everyone:
            stream.raises = False
        await bench.trials.close()
        await bench.until(lambda: not bench.driver.held)
        assert bench.driver.held.bytes == 0
        still_open = [stream for stream, _ in bench.streams.values()]
        for stream in everyone:
            stream.check(is_open=any(stream is other for other in still_open))
        for place in places(bench):
            disarm(*place)
        await bench.serves()
        await bench.supervisor.close()
        assert not any(process.alive for process in bench.processes)

    async def again(bench: Tried) -> None:
        """Another trial of the same version, where it is there."""
        with contextlib.suppress(ModelError):
            await bench.trials.begin(bench.catalogue.find("m", "2"))

    with capture_logs():
        asyncio.run(story())


async def promoting(bench: Tried) -> None:
    """Brings the trial to where admission is asked whether the candidate may be active."""
    await bench.trials.begin(bench.candidate)
    for _ in range(2):  # first to the canary, then to the promotion
        bench.clock.now_ns += 3600 * S
        bench.trials.look()
        if not bench.catalogue.has_canary("m"):
            await bench.until(lambda: bench.catalogue.has_canary("m"))


async def test_a_veto_while_the_promotion_waits_for_admission_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Tried(monkeypatch)
    await bench.start(GOES_ON)
    await promoting(bench)
    await bench.trials.veto("m", "2", "ann", "")
    await bench.until(lambda: not bench.trials._tasks)
    assert bench.report().stage is Stage.VETOED
    assert bench.catalogue.active("m") is bench.catalogue.find("m", "1")
    await bench.trials.close()
    await bench.supervisor.close()


async def test_a_drain_while_the_promotion_waits_for_admission_leaves_what_is_active(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Tried(monkeypatch)
    await bench.start(GOES_ON)
    await promoting(bench)
    bench.trials.drain()
    await bench.until(lambda: not bench.trials._tasks)
    assert bench.report().stage is Stage.CANARY
    assert bench.catalogue.active("m") is bench.catalogue.find("m", "1")
    await bench.trials.close()
    await bench.supervisor.close()


async def test_a_promotion_on_which_the_server_fails_ends_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object, **__: object) -> LoadedVersion:
        raise RuntimeError("no")

    bench = Tried(monkeypatch)
    await bench.start(GOES_ON)
    monkeypatch.setattr(bench.host, "activate", fails)
    await promoting(bench)
    await bench.until(lambda: not bench.trials._tasks)
    assert (bench.report().stage, bench.report().reason) == (
        Stage.ROLLED_BACK,
        "not activated: the server failed on it: RuntimeError",
    )
    await bench.trials.close()
    await bench.supervisor.close()


async def test_a_drain_decides_nothing_whatever_becomes_of_copies(bench: Tried) -> None:
    await bench.trials.begin(bench.candidate)
    await bench.frames(5)
    bench.send(next(reversed(bench.streams)))
    await bench.until(lambda: any(held.spare for held in bench.driver.held.all()))
    bench.trials.drain()
    for held in list(bench.driver.held.all()):
        bench.driver._delivery.fail(bench.clock.now_ns, held, None, "the grace is over")
    await bench.turn()
    assert bench.report().stage is Stage.SHADOW
    assert bench.trials.memory.ended("m/2") is None
    assert bench.trials._held_bytes.bytes == 0
    with pytest.raises(ModelError, match="the server drains"):
        await bench.trials.begin(await bench.load("3"))
    await bench.trials.veto("m", "2", "ann", "")
    assert bench.trials.memory.ended("m/2") is not None
