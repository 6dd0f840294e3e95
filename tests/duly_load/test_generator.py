"""The generator against real servers that do what targets do: answer, dawdle, refuse, break off, or are not there."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from duly.v1 import inference_pb2, inference_pb2_grpc
from duly_load.generator.alarm import Alarm
from duly_load.generator.keep_cpus_awake import keep_cpus_awake
from duly_load.generator.run import Offer, Progress, ScheduledAction, Sending, _Senders, offer
from duly_load.generator.sender import Sender, shares
from duly_load.protocols.address import Address, parse_address
from duly_load.protocols.by_address import target_of
from duly_load.protocols.clock import unix_minus_monotonic_ns
from duly_load.protocols.connection import AllRefused, TargetError
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import Ending, LiveRun, Record
from duly_load.results.validity import Signs, problems
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.scenario import Scenario, parse_scenario
from duly_load.scenario.schedule import schedule_of
from duly_load.scenario.variations import alone, scaled
from tests import graphs
from tests.e2e import serving as real

PERIODIC = {"kind": "periodic", "rate_hz": 100}
NULL = parse_address("null:")


def scenario(**changes: Any) -> Scenario:
    """Two streams of 100 Hz for half a second, with budgets that a busy machine keeps."""
    stream = {"name": "s", "count": 2, "model": "any", "budget_ms": 5000, "backlog": "ALL", "arrivals": PERIODIC}
    stream |= {"payloads": {"shape": [4]}} | changes.pop("stream", {})
    return parse_scenario({"name": "small", "duration_s": 0.5, "stream": [stream]} | changes, "small", Path())


async def run(loaded: Scenario, address: Address, processes: int = 1) -> LiveRun:
    """A whole run, while the test's own server answers in this loop."""
    return await asyncio.to_thread(offer, Offer(loaded, 3, "it", address, Sending(processes, lag_share=1.0)))


async def send(loaded: Scenario, address: Address, answers_wait_s: float = 20.0) -> Sender:
    """What a sender process does, done here."""
    planned = schedule_of(loaded, 3)
    sender = Sender(loaded, 3, planned, planned.sessions)
    async with target_of(address) as target:
        await sender.open(target)
        await sender.run(time.monotonic_ns(), answers_wait_s)
    return sender


def counts(ran: LiveRun | Sender) -> dict[FrameOutcome, int]:
    numbers = np.bincount(ran.record.outcome, minlength=max(FrameOutcome) + 1).tolist()
    assert numbers[0] == 0, "every frame has an outcome"
    return {outcome: numbers[outcome] for outcome in FrameOutcome if numbers[outcome]}


def faults(ran: LiveRun) -> list[str]:
    """Why the run is invalid, but for what the machine of the test did."""
    return [
        each for each in ran.problems if not each.startswith(("the machine stood still", "a sender process was busy"))
    ]


# ---- a server of duly.v1 that a test scripts ----

Answer = Callable[[int, str], Awaitable[inference_pb2.Outcome | None]]


class Scripted(inference_pb2_grpc.InferenceServiceServicer):
    """Answers each frame as `answer(frame_id, stream_name)` says, None: never."""

    def __init__(self, answer: Answer, refused: str = "") -> None:
        self._answer = answer
        self._refused = refused

    async def Stream(self, request_iterator: Any, context: Any) -> None:
        name = ""
        while (message := await context.read()) is not grpc.aio.EOF:
            kind = message.WhichOneof("request")
            if kind == "open":
                name = message.open.stream_name
                if name == self._refused:
                    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room for it")
                await context.write(inference_pb2.StreamResponse(opened=inference_pb2.StreamOpened(version="1")))
            elif kind == "clock_ping":
                pong = inference_pb2.ClockPong(ping_id=message.clock_ping.ping_id)
                pong.client_send_unix_nano = message.clock_ping.client_send_unix_nano
                pong.server_receive_unix_nano = pong.server_send_unix_nano = time.time_ns()
                await context.write(inference_pb2.StreamResponse(clock_pong=pong))
            else:
                for frame in message.frames.frames:
                    outcome = await self._answer(frame.frame_id, name)
                    if outcome is not None:
                        response = inference_pb2.StreamResponse()
                        response.outcomes.outcomes.append(outcome)
                        await context.write(response)


@asynccontextmanager
async def serving(answer: Answer, refused: str = "") -> AsyncIterator[tuple[Address, grpc.aio.Server]]:
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(Scripted(answer, refused), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Address("duly", f"127.0.0.1:{port}"), server
    finally:
        await server.stop(None)


def outcome_of(frame_id: int, status: str = "ON_TIME", batch_size: int = 1) -> inference_pb2.Outcome:
    outcome = inference_pb2.Outcome(
        frame_id=frame_id,
        status=inference_pb2.OutcomeStatus.Value(f"OUTCOME_STATUS_{status}"),
        batch_size=batch_size,
    )
    outcome.timing.received_unix_nano = time.time_ns()
    return outcome


async def at_once(frame_id: int, name: str) -> inference_pb2.Outcome | None:
    return outcome_of(frame_id)


# ---- schedules ----


@pytest.mark.parametrize("scale", ["streams", "rates"])
@pytest.mark.parametrize("factor", [0.3, 1.5, 2, 7.1])
def test_a_load_factor_is_kept_exactly(scale: str, factor: float) -> None:
    loaded = scenario(scale=scale)
    more = scaled(loaded, factor, "small")
    assert more.frames_per_s == pytest.approx(factor * loaded.frames_per_s)
    assert len(more.stream[0].names) == (max(1, round(2 * factor)) if scale == "streams" else 2)


def test_a_factor_beyond_what_a_run_can_hold_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"small at 1e\+06 times its load: stream\[0\].count: should be"):
        scaled(scenario(), 1e6, "small")


@pytest.mark.parametrize(("scale", "factor", "streams"), [("streams", 1.1, 11), ("streams", 0.3, 3), ("rates", 1, 10)])
def test_a_recorded_trace_is_offered_more_or_less_often_and_never_faster(
    tmp_path: Path, scale: str, factor: float, streams: int
) -> None:
    more = scaled(recorded(tmp_path, scale), factor, "small")
    assert more.stream[0].count == streams
    assert len(schedule_of(more, 0).frames) == 3 * streams


@pytest.mark.parametrize(("scale", "factor"), [("streams", 1.15), ("streams", 0.01), ("rates", 2)])
def test_a_factor_that_a_recorded_trace_can_not_have_is_refused(tmp_path: Path, scale: str, factor: float) -> None:
    with pytest.raises(
        ScenarioError, match=r"small at .* times its load: stream\[0\]\.arrivals: a recorded trace is not"
    ):
        scaled(recorded(tmp_path, scale), factor, "small")


def test_alone_is_one_stream_of_the_first_sensor_and_nothing_that_goes_wrong() -> None:
    other = {"name": "other", "model": "any", "budget_ms": 10, "arrivals": PERIODIC}
    first = other | {"name": "first", "count": 3, "class": "CRITICAL", "backlog": "KEEP_LAST:4"}
    loaded = {
        "name": "small",
        "duration_s": 0.5,
        "stream": [first, other],
        "load_step": [{"at_s": 0.1, "factor": 9}],
        "serve": {"fault": [{"lane": "cpu:0", "kind": "die", "at_s": 0.2}]},
    }
    single = alone(parse_scenario(loaded, "small", Path()))
    assert [name for sensor in single.stream for name in sensor.names] == ["first"]
    assert (single.stream[0].stream_class.name, single.stream[0].backlog) == ("CRITICAL", "KEEP_LAST:4")
    assert not single.load_step
    assert not single.serve.fault
    assert single.duration_s == 0.5
    assert len(schedule_of(single, 0).frames) == 50


def test_a_recorded_trace_alone_keeps_its_times(tmp_path: Path) -> None:
    loaded = recorded(tmp_path, "streams")
    all_ns, alone_ns = (schedule_of(each, 0).frames.arrival_ns for each in (loaded, alone(loaded)))
    assert len(alone_ns) == 3
    assert set(alone_ns.tolist()) == set(all_ns.tolist())


def recorded(folder: Path, scale: str) -> Scenario:
    """Ten streams of three frames."""
    np.save(folder / "trace.npy", np.array([0.1, 0.2, 0.4]))
    arrivals = {"kind": "trace", "file": str(folder / "trace.npy")}
    return scenario(scale=scale, stream={"count": 10, "arrivals": arrivals})


def test_a_fault_ends_before_the_scenario_does() -> None:
    fault = {"lane": "cpu:0", "kind": "hang", "at_s": 0.2, "back_s": 0.5}
    with pytest.raises(
        ScenarioError, match=r"serve\.fault\[0\]\.back_s: should be less than duration_s, which is 0.5, got 0.5"
    ):
        scenario(serve={"fault": [fault]})


def test_all_sessions_of_a_stream_are_sent_by_one_process_and_each_has_its_share() -> None:
    churn = {"lifetime_s": 0.1, "gap_s": 0.05}
    planned = schedule_of(scenario(duration_s=20, stream={"count": 12, "churn": churn}), 1)
    parts = shares(planned, 3)
    assert sorted(each.stream_id for part in parts for each in part) == [each.stream_id for each in planned.sessions]
    names = [{each.name for each in part} for part in parts]
    assert [len(each) for each in names] == [4, 4, 4]
    assert len(set.union(*names)) == 12


# ---- what targets do ----


@pytest.mark.parametrize("processes", [1, 2])
async def test_every_frame_is_sent_once_at_its_time_and_answered(processes: int) -> None:
    seen: list[tuple[str, int]] = []

    async def answer(frame_id: int, name: str) -> inference_pb2.Outcome:
        seen.append((name, frame_id))
        return outcome_of(frame_id, batch_size=3)

    async with serving(answer) as (address, _):
        ran = await run(scenario(), address, processes)
    assert counts(ran) == {FrameOutcome.ON_TIME: 100}
    assert sorted(seen) == sorted((name, frame_id) for name in ("s-0", "s-1") for frame_id in range(1, 51))
    assert ran.processes == processes
    assert (ran.record.latency_ns > ran.record.lag_ns).all(), "the answer comes after the send"
    assert (ran.record.lag_ns >= 0).all(), "no frame is sent before its time"
    assert (ran.record.batch_size == 3).all()
    assert ran.record.claimed.all()
    assert not faults(ran)
    assert not ran.endings


async def test_the_null_target_answers_all_and_progress_is_told() -> None:
    told: list[Progress] = []
    ran = await asyncio.to_thread(offer, Offer(scenario(), 0, "null:", NULL, Sending(lag_share=1.0)), told.append)
    assert counts(ran) == {FrameOutcome.ON_TIME: 100}
    assert not ran.record.claimed.any(), "it knows nothing of deadlines"
    assert ran.busiest > 0
    assert told
    assert all(0 <= each.on_time <= each.answered <= each.sent <= 100 for each in told)


async def test_a_result_counts_by_the_clock_of_the_sender_whatever_the_target_calls_it() -> None:
    async def dawdle(frame_id: int, name: str) -> inference_pb2.Outcome:
        await asyncio.sleep(0.02)
        return outcome_of(frame_id)

    async with serving(dawdle) as (address, _):
        ran = await send(scenario(stream={"budget_ms": 1}), address)
    assert counts(ran) == {FrameOutcome.LATE: 100}
    assert ran.record.claimed.all()


async def test_what_the_target_calls_late_is_not_claimed() -> None:
    async def answer(frame_id: int, name: str) -> inference_pb2.Outcome:
        return outcome_of(frame_id, "LATE" if frame_id % 2 else "ON_TIME")

    async with serving(answer) as (address, _):
        ran = await send(scenario(), address)
    assert counts(ran) == {FrameOutcome.ON_TIME: 100}
    assert ran.record.claimed.sum() == 50


async def test_reasons_are_outcomes_in_the_targets_own_words() -> None:
    words = ["ON_TIME", "LATE", "EXPIRED", "SUPERSEDED", "SHED", "SKIPPED", "INVALID", "CANCELLED", "FAILED"]

    async def answer(frame_id: int, name: str) -> inference_pb2.Outcome:
        return outcome_of(frame_id, words[frame_id % len(words)])

    async with serving(answer) as (address, _):
        ran = await send(scenario(stream={"count": 1, "arrivals": {"kind": "periodic", "rate_hz": 180}}), address)
    # A late result that is in time by the sender's clock is in time.
    assert counts(ran) == {FrameOutcome.ON_TIME: 20} | {FrameOutcome[word]: 10 for word in words[2:]}
    assert not ran.endings


async def test_frames_that_nobody_answers_are_unanswered_and_the_run_ends() -> None:
    async def never(frame_id: int, name: str) -> None:
        await asyncio.Event().wait()

    async with serving(never) as (address, _):
        ran = await send(scenario(), address, answers_wait_s=0.1)
    assert counts(ran) == {FrameOutcome.UNANSWERED: 100}
    assert not ran.endings


async def test_a_stream_that_is_refused_is_an_outcome_and_no_fault_of_the_run() -> None:
    async with serving(at_once, refused="s-1") as (address, _):
        ran = await send(scenario(), address)
    assert counts(ran) == {FrameOutcome.ON_TIME: 50, FrameOutcome.REFUSED: 50}
    assert [(each.stream, each.refused, each.reason) for each in ran.endings] == [("s-1", True, "no room for it")]


async def test_streams_that_come_and_go_open_and_close_in_time() -> None:
    names: list[str] = []

    async def answer(frame_id: int, name: str) -> inference_pb2.Outcome:
        if frame_id == 1:
            names.append(name)
        return outcome_of(frame_id)

    loaded = scenario(duration_s=1, stream={"churn": {"lifetime_s": 0.15, "gap_s": 0.05}})
    with_frames = np.unique(schedule_of(loaded, 3).frames.stream_id)
    async with serving(answer) as (address, _):
        ran = await send(loaded, address)
    assert counts(ran) == {FrameOutcome.ON_TIME: len(ran.record.outcome)}
    assert len(with_frames) > 4
    assert len(names) == len(with_frames)


# ---- targets that are not what they should be ----


async def test_a_target_that_is_down_is_told_before_anything_is_measured() -> None:
    with pytest.raises(TargetError, match=r"no answer from 127\.0\.0\.1:1"):
        await run(scenario(), parse_address("duly://127.0.0.1:1"))


async def test_a_target_that_lets_no_stream_in_is_an_error() -> None:
    async with serving(at_once, refused="s") as (address, _):
        churn = {"lifetime_s": 0.2, "gap_s": 0.2}  # later sessions do not count
        with pytest.raises(AllRefused, match="it: all 1 streams were refused"):
            await run(scenario(duration_s=20, stream={"count": 1, "churn": churn}), address)


def test_a_sender_that_dies_before_the_start_is_told() -> None:
    with _Senders(Offer(scenario(), 0, "it", NULL), 1, 0) as senders:
        senders.wait_until_open(2)
        senders._processes[0].kill()
        senders._processes[0].join()
        with pytest.raises(TargetError, match="it: a sender process ended before it had sent anything"):
            senders.begin(0)


def test_a_sender_ends_when_nobody_hears_it() -> None:
    with _Senders(Offer(scenario(duration_s=600), 0, "it", NULL), 1, 0) as senders:
        senders.wait_until_open(2)
        senders.begin(time.monotonic_ns())
        senders._ways[0].close()
        senders._processes[0].join(60)
        assert senders._processes[0].exitcode == 0


def test_senders_do_not_outlive_the_thread_that_started_them() -> None:
    senders = _Senders(Offer(scenario(duration_s=600), 0, "it", NULL), 1, 0)

    def start() -> None:
        senders.__enter__().wait_until_open(2)

    thread = Thread(target=start)
    thread.start()
    thread.join()
    senders._processes[0].join(60)
    assert senders._processes[0].exitcode == -signal.SIGKILL
    senders.__exit__()


def test_deeds_are_done_in_time_and_those_that_undo_others_always() -> None:
    done: list[str] = []

    def action(at_s: float, name: str, always: bool = False) -> ScheduledAction:
        return ScheduledAction(round(at_s * 1e9), lambda: done.append(name), always)

    actions = (action(0, "a"), action(500, "b"), action(501, "c", always=True), action(502, "d", always=True))
    ran = offer(Offer(scenario(), 0, "it", NULL, Sending(lag_share=1.0)), None, actions)
    assert done == ["a", "c", "d"]
    assert faults(ran) == ["the fault at 500 s never came: the run was over"]

    def broken() -> None:
        raise RuntimeError("it can't be done")

    done.clear()
    with pytest.raises(RuntimeError, match="it can't be done"):
        offer(
            Offer(scenario(), 0, "it", NULL),
            None,
            (ScheduledAction(0, broken), action(500, "b"), action(501, "c", always=True)),
        )
    assert done == ["c"]


async def test_payloads_that_the_target_does_not_describe_must_be_said() -> None:
    async with serving(at_once) as (address, _):
        with pytest.raises(ScenarioError, match=r"stream\[0\]\.payloads.*shape"):
            await run(scenario(stream={"payloads": {}}), address)


async def test_a_target_that_breaks_off_makes_the_run_invalid_and_no_frame_is_lost() -> None:
    broken = asyncio.Event()

    async def answer(frame_id: int, name: str) -> inference_pb2.Outcome | None:
        if name == "s-0" and frame_id > 10:
            broken.set()
            return None
        return outcome_of(frame_id)

    async with serving(answer) as (address, server):

        async def stop_when_broken() -> None:
            await broken.wait()
            await server.stop(None)

        stopping = asyncio.create_task(stop_when_broken())
        ran = await run(scenario(), address)
        await stopping
    found = counts(ran)
    assert 10 <= found[FrameOutcome.ON_TIME] < 50
    assert found[FrameOutcome.UNANSWERED] >= 1
    assert found[FrameOutcome.UNSENT] >= 1
    assert sum(found.values()) == 100
    assert len(ran.endings) == 2
    assert faults(ran)[0].startswith("the target broke off 2 stream(s), the first, s-")


async def test_a_scenario_without_frames_shows_nothing() -> None:
    with pytest.raises(TargetError, match="its schedule has no frames"):
        await run(scenario(stream={"arrivals": {"kind": "periodic", "rate_hz": 0.001, "phase": 900_000}}), NULL)


# ---- what makes a run invalid ----


FINE = Signs()


def judged(
    lag_ms: float = 0.0,
    signs: Signs = FINE,
    endings: tuple[Ending, ...] = (),
    warm_ns: int = 0,
    late: int = 2,
) -> list[str]:
    """`late` frames of a hundred were late by `lag_ms`, and one was never sent."""
    planned = schedule_of(scenario(stream={"budget_ms": 100}), 0)
    record = Record.empty(100)
    record.outcome[:] = FrameOutcome.ON_TIME
    record.outcome[99] = FrameOutcome.UNSENT
    record.lag_ns[:late] = round(lag_ms * 1e6)
    return problems(planned, record, endings, warm_ns, signs, 0.05)


def test_a_run_is_valid_unless_something_speaks_against_it() -> None:
    refused = Ending(0, "s-0", True, "no room")
    assert judged(lag_ms=4.9, signs=Signs(0.09, 0.84, -900_000), endings=(refused,)) == []
    assert judged(lag_ms=90, late=0) == []


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            judged(lag_ms=5.2),
            "the generator was late: 2.02% of the frames were sent later after their time than 5.0% of their budget, "
            "1.00% may be",
        ),
        (judged(lag_ms=5.2, late=50), "the generator was late: 50.51% of the frames were sent later after"),
        (judged(signs=Signs(stalled=0.2)), "the machine stood still for 20% of the time, 10% may be"),
        (
            judged(signs=Signs(busiest=0.93)),
            "a sender process was busy for 93% of the time, 85% may be: what it calls blocked may be its own doing",
        ),
        (judged(signs=Signs(set_by_ns=-1_500_000)), "the wall clock was set during the run, by -1.5 ms"),
        (
            judged(endings=(Ending(1_500_000_000, "s-1", False, "gone"),)),
            "the target broke off 1 stream(s), the first, s-1, at 1.50 s: gone",
        ),
        (judged(warm_ns=10**12), "no frame counts"),
    ],
)
def test_what_speaks_against_it_is_told(found: list[str], words: str) -> None:
    assert len(found) == 1
    assert found[0].startswith(words)


# ---- time ----


def test_of_several_reads_of_the_clocks_the_quickest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monotonic_ns = iter([nth * 1000 + late for nth in range(16) for late in (0, 10 if nth == 7 else 400)])
    unix_ns = iter([10**18 + nth * 1000 + (5 if nth == 7 else 399) for nth in range(16)])
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(monotonic_ns))
    monkeypatch.setattr(time, "time_ns", lambda: next(unix_ns))
    assert unix_minus_monotonic_ns() == 10**18


def test_a_sender_takes_the_wall_clock_as_it_is_told() -> None:
    planned = schedule_of(scenario(), 3)
    sender = Sender(scenario(), 3, planned, planned.sessions, difference_ns=10**18)
    sender.begin_ns = 7
    assert sender.capture_unix_ns(5) == planned.captures_ns[5] + 7 + 10**18


async def test_an_alarm_rings_at_its_time_and_not_before() -> None:
    rang: list[int] = []
    done = asyncio.Event()

    def ring() -> None:
        rang.append(time.monotonic_ns())
        done.set()

    alarm = Alarm(ring)
    try:
        for wait_ns in (0, 300_000, 2_700_000):
            due_ns = time.monotonic_ns() + wait_ns
            alarm.set(due_ns + 10**12)  # what is set later counts
            alarm.set(due_ns)
            await done.wait()
            done.clear()
            assert rang[-1] >= due_ns
    finally:
        alarm.close()
    assert len(rang) == 3


def test_what_keeps_processors_awake_is_gone_afterwards() -> None:
    me = psutil.Process()
    before = set(me.children())
    with keep_cpus_awake(True):
        assert len(set(me.children()) - before) == len(os.sched_getaffinity(0))
    assert set(me.children()) == before
    with keep_cpus_awake(False):
        assert set(me.children()) == before


# ---- sensors whose frames run together ----


async def test_sensors_of_a_rig_are_members_of_one_group(tmp_path: Path) -> None:
    """Against a real server: each sends its own input alone, and both have the outcome."""
    graphs.save(tmp_path, "stereo", graphs.stereo(), toml='default_backlog = "ALL"\n')
    fused = {"group": "rig", "inputs": ["left", "right"], "wait": "EXACT"}
    usual = {"count": 2, "model": "stereo", "budget_ms": 5000, "backlog": "ALL"}
    usual["arrivals"] = {"kind": "periodic", "rate_hz": 50, "phase": 5}
    sensors = [usual | {"name": name, "fusion": fused | {"input": name}} for name in ("left", "right")]
    loaded = parse_scenario({"name": "rigs", "duration_s": 1.0, "stream": sensors}, "rigs", Path())
    async with real.serving(tmp_path, admission="advise") as app:
        sender = await send(loaded, parse_address(f"duly://{app.address}"))
    answered = counts(sender)
    assert answered.keys() <= {FrameOutcome.ON_TIME, FrameOutcome.EXPIRED, FrameOutcome.SUPERSEDED}
    assert answered[FrameOutcome.ON_TIME] > len(sender.record.outcome) // 2
