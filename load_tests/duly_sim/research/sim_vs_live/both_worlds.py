"""Whether the simulator tells the truth: one schedule of frames, sent to a live server and simulated, and what became
of the frames in either world.

Theory of operation. Both worlds are built from one scenario and one seed, so that each frame has the same stream, the
same capture and the same deadline in both, and both run the server's own scheduler. What the simulator leaves out is
what is put to the test here: the transport, the event loop, timers and the workers. Batches take their times live in
one of two ways (see `servers`):

- sleeping: the lanes take the times of the scenario's table, noise and all;
- real: a model truly runs on this machine, in place of the scenario's.

The frames are then simulated twice:

- `simulated`: with the scenario's times; of a model that truly ran, with what its batches usually took;
- `informed`: with what each live batch took, in either case (see `batch_times`), and with frames that arrive when the
  stalls of the machine let them (see `duly_load.generator.stalls`).

Clients count outcomes as the server names them. Compared are on-time ratios, in points (hundredths).

Out of scope, and refused where a scenario has them: faults, streams that come and go, several variants or principals,
and times that change midway.
"""

import contextlib
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from duly.core.scheduler import Scheduler
from duly.core.types import OutcomeStatus
from duly_client import Client
from duly_client.errors import DulyError
from duly_load.generator.sender import Sender
from duly_load.generator.stalls import Stalls, Watch
from duly_load.protocols.connection import TargetError
from duly_load.protocols.duly import DulyTarget
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import Ints, Record
from duly_load.results.tally import Results, RunOutcomes, fields_of, results_of
from duly_load.scenario.arrivals import Network
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.scenario import Scenario
from duly_load.scenario.schedule import Schedule
from duly_load.scenario.tables import Payloads, one_of
from duly_load.targets.peer import PeerError
from duly_sim.research.sim_vs_live import servers
from duly_sim.research.sim_vs_live.batch_times import BatchTimes, NothingRanError, batch_times
from duly_sim.simulator.engine import Run, Service, simulate
from duly_sim.simulator.world import World, build

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


LEAD_NS = 200_000_000
"""The time from the opening of the last stream to the schedule's time zero."""
ANSWERS_S = 30.0
"""How long after the last frame was due the last outcome may come."""

Counts = NDArray[np.int32]
Statuses = NDArray[np.int8]

NO_STALLS = Stalls(np.empty(0, np.int64), np.empty(0, np.int64))


class LiveRunError(Exception):
    """The live run failed: says why."""


@dataclass(frozen=True, slots=True)
class WorldOutcome(Results):
    """What became of the frames in one of the worlds."""

    batch_size_mean: float
    """The mean batch size; NaN where nothing ran."""


@dataclass(frozen=True, slots=True)
class SimVsLive:
    """The two worlds, one of them twice."""

    live: WorldOutcome
    simulated: WorldOutcome
    informed: WorldOutcome
    measured: Scenario
    """The scenario with what batches usually took, and how they scattered."""
    lag_p50_ms: float
    lag_p99_ms: float
    lag_max_ms: float
    """How late the generator sent frames."""
    stalled: float
    """The share of the time that the machine stood still."""

    @property
    def points(self) -> float:
        """The on-time ratio, live minus informed, in points."""
        return 100 * (self.live.on_time_ratio - self.informed.on_time_ratio)


def check(scenario: Scenario, real: bool) -> None:
    """Raises ScenarioError with a line for each thing that both worlds can't do alike."""
    problems = list(_problems(scenario))
    if real and len(scenario.to_simulate().lanes) > 1:
        problems.append(
            f"simulate.lane: should be one where models truly run, as lanes share this CPU, are {_lanes(scenario)}"
        )
    if problems:
        raise ScenarioError("\n".join(problems))


async def sleeping(scenario: Scenario, seed: int) -> SimVsLive:
    """Live on lanes that sleep, and simulated. `scenario` is checked. Raises LiveRunError."""
    world = build(scenario, seed)
    with _why(), tempfile.TemporaryDirectory(prefix="duly-") as folder:
        async with servers.sleeping(world, Path(folder)) as target:
            with Watch() as watch:
                seen, begin_ns = await _offer(target, world, servers.SLEEPING.width)
        stalls = watch.stalls(begin_ns)
        tables_ns = {
            model.name: dict(enumerate(model.variants[0].times_ns(model.batch_max), start=1))
            for model in scenario.to_simulate().model
        }
        took = batch_times(world, seen, tables_ns)
    return _compare(scenario, took, seed, seen, stalls)


async def real(scenario: Scenario, seed: int) -> SimVsLive:
    """Live with a model that truly runs in place of the scenario's, and simulated. `scenario` is checked.

    Raises LiveRunError.
    """
    world = build(scenario, seed)
    with (
        _why(),
        tempfile.TemporaryDirectory(prefix="duly-") as folder,
        servers.real(scenario, Path(folder)) as server,
    ):
        planned_ns = await _planned_ns(server.address.endpoint, scenario)
        with Watch() as watch:
            seen, begin_ns = await _offer(server.address.endpoint, world, servers.REAL.width)
        took = batch_times(world, seen, planned_ns)
    return _compare(took.scenario, took, seed, seen, watch.stalls(begin_ns))


@contextlib.contextmanager
def _why() -> Iterator[None]:
    """What may go wrong with servers and clients becomes a LiveRunError."""
    try:
        yield
    except (servers.LiveError, NothingRanError, PeerError, DulyError, TargetError) as error:
        raise LiveRunError(str(error)) from error


def _problems(scenario: Scenario) -> Iterator[str]:
    given = scenario.to_simulate()
    lanes = [f"cpu:{index}" for index in range(len(given.lanes))]
    if sorted(given.lanes) != sorted(lanes):
        yield f"simulate.lane: should be named {one_of(lanes)} as the server names them, are {_lanes(scenario)}"
    if given.fault:
        yield "simulate.fault: should not be there, nothing breaks in a live run"
    if given.noise.step_factor != 1:
        yield f"simulate.noise.step_factor: should be 1 in a live run, got {given.noise.step_factor:g}"
    for index, model in enumerate(given.model):
        if not _NAME.fullmatch(model.name):
            yield f"simulate.model[{index}].name: should be letters, digits, _ and - in a live run, got {model.name!r}"
        if len(model.variants) > 1:
            yield f"simulate.model[{index}].variants: should be one in a live run, are {len(model.variants)}"
        if not model.any_size:
            yield f"simulate.model[{index}].any_size: should be true in a live run"
        if model.lanes:
            yield f"simulate.model[{index}].lanes: should not be there, a live server has each model on all lanes"
    for index, stream in enumerate(scenario.stream):
        if stream.churn is not None or stream.from_s or stream.to_s is not None:
            yield f"stream[{index}]: should not have churn, from_s or to_s, its stream is open throughout a live run"
        if stream.network != Network():
            yield f"stream[{index}].network: should not be there, a live run has its own"
    if len({stream.principal for stream in scenario.stream}) > 1:
        yield "stream.principal: should be the same of all, since they come from one client"
    if len({stream.credit for stream in scenario.stream}) > 1:
        yield "stream.credit: should be the same of all, since it is one setting of the server"


def _lanes(scenario: Scenario) -> str:
    return ", ".join(scenario.to_simulate().lanes)


async def _planned_ns(target: str, scenario: Scenario) -> dict[str, dict[int, int]]:
    """Planned times by model and batch size, as the server reports them."""
    async with Client(target, reconnect=False) as client:
        models = [await client.model(model.name) for model in scenario.to_simulate().model]
    return {
        model.name: {entry.batch_size: entry.planned_nano for entry in model.versions[0].variants[0].profile}
        for model in models
    }


async def _offer(target: str, world: World, width: int) -> tuple[Record, int]:
    """What became of the world's frames, `width` numbers each, at a live server, and the schedule's zero on the
    monotonic clock.

    Raises LiveRunError where the server does not take or keep a stream, or does not answer a frame.
    """
    payloads = Payloads(shape=(width,))
    streams = tuple(stream.model_copy(update={"payloads": payloads}) for stream in world.scenario.stream)
    loaded = world.scenario.model_copy(update={"stream": streams})
    sender = Sender(loaded, world.seed, Schedule(world.frames, world.sessions), world.sessions)
    async with DulyTarget(target) as server:
        await sender.open(server)
        await sender.run(time.monotonic_ns() + LEAD_NS, ANSWERS_S)
    if sender.endings:
        raise LiveRunError(f"stream {sender.endings[0].stream}: {sender.endings[0].reason}")
    if missing := int((sender.record.outcome > FrameOutcome.FAILED).sum()):
        count = len(world.frames)
        raise LiveRunError(f"{missing} of {count} frames had no outcome {ANSWERS_S:g} s after the last")
    return sender.record, sender.begin_ns


def _status(seen: Record) -> Statuses:
    """The server's own status, which the simulator can foresee; the record has that of the client's clock."""
    late = np.where(seen.outcome == OutcomeStatus.ON_TIME, OutcomeStatus.LATE, seen.outcome)
    status: Statuses = np.where(seen.claimed, OutcomeStatus.ON_TIME, late).astype(np.int8)
    return status


def _compare(scenario: Scenario, took: BatchTimes, seed: int, seen: Record, stalls: Stalls) -> SimVsLive:
    """`scenario`: what `simulated` is with."""
    live = build(scenario, seed)
    lag_ms = seen.lag_ns[live.frames.arrival_ns >= round(scenario.warm_s * 1e9)] / 1e6
    p50, p99 = np.percentile(lag_ms, [50, 99]).tolist() if len(lag_ms) else (0.0, 0.0)
    return SimVsLive(
        _world_outcome(live, _status(seen), seen.latency_ns, seen.batch_size),
        _simulated(live, live.service, NO_STALLS),
        # What the scheduler learnt at warm-up is the scenario's in both.
        _simulated(build(scenario, seed), took.service, stalls),
        took.scenario,
        p50,
        p99,
        float(lag_ms.max(initial=0.0)),
        stalls.share(0, round(scenario.duration_s * 1e9)),
    )


def _simulated(world: World, batch_times: Service, stalls: Stalls) -> WorldOutcome:
    frames = replace(world.frames, arrival_ns=after_stalls(world.frames.arrival_ns, stalls))
    run = simulate(Scheduler(), world.script, frames, world.model_of, batch_times)
    return _world_outcome(world, run.status, run.resolved_ns - world.frames.arrival_ns, _batch_sizes(run))


def after_stalls(times_ns: Ints, stalls: Stalls) -> Ints:
    """Times at which frames can arrive: each time itself or, where it lies within a stall, the stall's end. Stalls are
    nothing that a simulator could foresee; it lets no frame arrive within those that were seen.
    """
    # A stall that ends before all times stands for none.
    from_ns, to_ns = np.append(-(1 << 62), stalls.from_ns), np.append(-(1 << 62), stalls.to_ns)
    last = np.searchsorted(from_ns, times_ns, "right") - 1
    arrive_ns: Ints = np.maximum(times_ns, to_ns[last])
    return arrive_ns


def _batch_sizes(run: Run) -> Counts:
    return np.array([*run.batches.size, 0], np.int32)[run.batch]  # -1, never ran, takes the last


def _world_outcome(world: World, status: Statuses, latency_ns: Ints, sizes: Counts) -> WorldOutcome:
    planned = Schedule(world.frames, world.sessions)
    warm_ns, end_ns = round(world.scenario.warm_s * 1e9), round(world.scenario.duration_s * 1e9)
    outcomes = RunOutcomes(planned, warm_ns, end_ns, status, latency_ns)
    ran = sizes[outcomes.counted]
    ran = ran[ran > 0]
    batch_size_mean = len(ran) / float((1.0 / ran).sum()) if len(ran) else np.nan
    return WorldOutcome(**fields_of(results_of(outcomes)), batch_size_mean=batch_size_mean)
