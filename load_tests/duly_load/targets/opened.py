"""Targets by name: a peer that the harness starts, or the address of a server that runs already; idle, and under load.

triton              a peer, see `duly-load peers list`
duly://HOST:PORT    see `duly_load.protocols.address`
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from duly.energy.meter import Meter
from duly_load.generator.run import Offer, Progress, ScheduledAction, offer
from duly_load.payloads.prepared import PayloadError, prepare
from duly_load.payloads.served_inputs import inputs_of
from duly_load.protocols.address import Address, AddressError, parse_address
from duly_load.protocols.by_address import target_of
from duly_load.protocols.connection import FrameAnswer, Refused, Target, TargetError
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import LiveRun
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.scenario import Scenario
from duly_load.scenario.schedule import lone_session
from duly_load.scenario.tables import Sensor, one_of
from duly_load.targets.all_peers import PEERS
from duly_load.targets.peer import PeerError, Server
from duly_load.targets.target_machine import machine_of

IN_A_ROW = 3
"""Frames one after the other that an idle target answers in its usual time."""
SETTLE_S = 90.0
"""How long a target may take to get there."""
ANSWER_S = 30.0
"""How long one answer may take meanwhile."""
NOISE_NS = 5_000_000
"""The usual time may double, and vary by this much more."""
REFUSALS_MAX = 20
"""Answers INVALID or FAILED until it is clear that no result will come; a lane may be warming up at first."""
PAUSE_S = 0.1
"""The pause after an answer without a result."""


class TargetNameError(ValueError):
    """Says what is wrong with a target's name and what would be right."""


@dataclass(frozen=True, slots=True)
class OpenTarget:
    """A target that can be put under load."""

    name: str
    """The target as the user named it."""
    address: Address
    server: Server | None
    """The server that the harness started; None: it ran before and will run on."""
    version: str
    """The version for people; empty: not known."""


def check_names(names: Sequence[str], scenario: Scenario) -> None:
    """Raises TargetNameError where a name is wrong, PeerError where a peer is not installed, ScenarioError where the
    scenario says too little for a target. Nothing is started.
    """
    for name in names:
        peer = _peer(name)
        if peer not in ("duly", "duly-kserve") and scenario.serve.fault:
            raise ScenarioError(
                f"{scenario.name}: serve.fault: is for a duly that duly-load starts itself, {name} is none"
            )
        if peer is not None and not scenario.serve.model:
            raise ScenarioError(f"{scenario.name}: serve.model: is required, or {name} does not know what to serve")
        if peer is not None and (missing := PEERS[peer].missing()):
            raise PeerError(f"{peer}: {missing}")


@contextlib.contextmanager
def opened(
    names: Sequence[str], scenario: Scenario, folder: Path, say: Callable[[str], None]
) -> Iterator[list[OpenTarget]]:
    """The targets, in order; those that are peers run until the block is left. `folder` takes their files; `say` is
    called with what takes time. Raises what `check_names` does, and PeerError where one does not start.
    """
    check_names(names, scenario)
    with contextlib.ExitStack() as running:
        servers: dict[str, Server] = {}
        targets = []
        for name in names:
            peer = _peer(name)
            if peer is None:
                targets.append(OpenTarget(name, parse_address(name), None, ""))
                continue
            if peer not in servers:
                say(f"starting {peer}")
                own = folder / peer
                own.mkdir()
                servers[peer] = running.enter_context(PEERS[peer].start(scenario, own))
            server = servers[peer]
            targets.append(OpenTarget(name, server.address, server, server.version))
        yield targets


def settle(target: OpenTarget, scenario: Scenario, seed: int) -> None:
    """Returns when the target is warm and idle: it answers single frames of each model in its usual time.

    Raises TargetError where it does not get there, ScenarioError where the payloads are not what it takes.
    """
    asyncio.run(_settle(target, scenario, seed))


def offer_to(target: OpenTarget, asked: Offer, progress: Callable[[Progress], None] | None = None) -> LiveRun:
    """Calls `offer`, with the scenario's faults and the CPU time of a server that the harness started, and with the
    energy of this machine where the target is on it.
    """
    if machine_of(target.name) != "the same":
        return offer(asked, progress)
    with Meter() as meter:
        run = _offer_here(target, asked, progress)
    return replace(run, energy=meter.energy)


def _offer_here(target: OpenTarget, asked: Offer, progress: Callable[[Progress], None] | None) -> LiveRun:
    server = target.server
    if server is None:
        return offer(asked, progress)
    before_s = server.cpu_s()
    run = offer(asked, progress, _deeds(asked.scenario, server))
    if died := server.died():
        return replace(run, problems=(f"{target.name}: {died}", *run.problems))
    return replace(run, server_cpu_s=server.cpu_s() - before_s)


def _peer(name: str) -> str | None:
    """The peer that it names; None: an address. Raises TargetNameError."""
    if ":" in name:
        try:
            parse_address(name)
        except AddressError as error:
            raise TargetNameError(str(error)) from error
        return None
    if name.partition("?")[0] in PEERS and "?" in name:
        raise TargetNameError(f"{name!r}: options are for addresses; should be one of the peers {one_of(list(PEERS))}")
    if name not in PEERS:
        raise TargetNameError(f"{name!r}: should be {one_of(list(PEERS))}, or an address such as duly://HOST:PORT")
    return name


# ---- faults ----


def _deeds(scenario: Scenario, server: Server) -> list[ScheduledAction]:
    actions = []
    for fault in scenario.serve.fault:
        doer = _Fault(server, fault.lane, signal.SIGKILL if fault.kind == "die" else signal.SIGSTOP)
        actions.append(ScheduledAction(round(fault.at_s * 1e9), doer.begin))
        if fault.back_s is not None:  # a worker that stands still must not do so for ever
            actions.append(ScheduledAction(round(fault.back_s * 1e9), doer.end, always=True))
    return sorted(actions, key=lambda action: action.at_ns)


@dataclass(slots=True)
class _Fault:
    server: Server
    lane: str
    number: signal.Signals
    pids: list[int] = field(default_factory=list)

    def begin(self) -> None:
        workers = self.server.workers()
        if self.lane not in workers:
            raise PeerError(f"no worker process on lane {self.lane!r}; the server has {', '.join(workers) or 'none'}")
        self.pids.append(workers[self.lane])
        self._signal(self.number)

    def end(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):  # its server has replaced it
                os.kill(pid, number)


# ---- settling ----


class _Answer:
    """What comes back for one frame at a time."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.outcome = FrameOutcome.UNANSWERED
        self.at_ns = 0
        self.ending = ""

    def answered(self, answer: FrameAnswer) -> None:
        self.outcome, self.at_ns = answer.outcome, answer.at_ns
        self.came.set()

    def ended(self, reason: str) -> None:
        self.ending = reason
        self.came.set()


async def _settle(target: OpenTarget, scenario: Scenario, seed: int) -> None:
    by_model = {sensor.model: sensor for sensor in scenario.stream}
    async with target_of(target.address) as server:
        for sensor in by_model.values():
            try:
                async with asyncio.timeout(SETTLE_S):
                    await _settle_model(server, scenario, sensor, seed)
            except TimeoutError:
                raise TargetError(
                    f"{target.name}: {sensor.model} did not answer single frames in its usual time for {SETTLE_S:g} s"
                ) from None
            except PayloadError as error:
                raise ScenarioError(f"{scenario.name}: {error}") from error
            except (TargetError, Refused) as error:
                raise TargetError(f"{target.name}: {error}") from error


async def _settle_model(server: Target, scenario: Scenario, sensor: Sensor, seed: int) -> None:
    inputs = await server.inputs(sensor.model) or inputs_of(scenario, sensor.model)
    prepared = await asyncio.to_thread(prepare, sensor.payloads, inputs, seed, f"model {sensor.model}")
    alone, session = lone_session(sensor, 1.0, 1, sensor.name)
    answer = _Answer()
    connection = server.connection(alone, session, prepared.encoding, answer)
    await connection.open()
    try:
        least_ns, row, refusals, index = 1 << 62, 0, 0, 0
        while row < IN_A_ROW:
            answer.came.clear()
            sent_ns = time.monotonic_ns()
            await connection.send(index, prepared.frames[index % len(prepared.frames)], time.time_ns())
            try:
                async with asyncio.timeout(ANSWER_S):
                    await answer.came.wait()
            except TimeoutError:
                raise TargetError(f"{sensor.model} did not answer a single frame within {ANSWER_S:g} s") from None
            if answer.ending:
                raise TargetError(answer.ending)
            index += 1
            if answer.outcome in (FrameOutcome.ON_TIME, FrameOutcome.LATE):
                took_ns = answer.at_ns - sent_ns
                least_ns = min(least_ns, took_ns)
                row = row + 1 if took_ns <= 2 * least_ns + NOISE_NS else 0
            else:  # what waits from before may be the reason; what is wrong stays so
                row = 0
                refusals += answer.outcome in (FrameOutcome.INVALID, FrameOutcome.FAILED)
                if refusals >= REFUSALS_MAX:
                    raise TargetError(f"{sensor.model} answers single frames {answer.outcome.name}, not with a result")
                await asyncio.sleep(PAUSE_S)
    finally:
        await connection.close()
