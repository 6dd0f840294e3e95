"""What capacity means, in three terms, and how each is found for a target: see `open_loop` and `multistream`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from duly_load.capacity import open_loop
from duly_load.capacity.confidence import Rule, latencies_min
from duly_load.capacity.multistream import SAMPLES, SAMPLES_MAX, Queries, ask
from duly_load.capacity.search import (
    ERROR_MAX,
    INTERRUPTED,
    INVALID_MAX,
    Found,
    Limits,
    NoTrial,
    Trial,
    Verdict,
    geometric,
    search,
    whole,
)
from duly_load.generator.run import Offer, Progress, Sending
from duly_load.payloads.prepared import PayloadError
from duly_load.protocols.connection import AllRefused, TargetError
from duly_load.results.record import LiveRun
from duly_load.scenario.live import LoadScenario
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.tables import STREAMS_MAX
from duly_load.targets.opened import OpenTarget, offer_to, settle
from duly_load.targets.peer import PeerError

TERMS = ("streams", "server", "multistream")
FACTORS = (1 / 1024, 1 / 8, 1024.0)
"""Of the scenario's load: the least that is offered, the first, the most."""
DESIGN_EFFECT_MIN = 4.0
"""Of frames in open loop, which wait and are batched together, so that one that is late is rarely alone."""

Tell = Callable[[Trial, Verdict | None], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of all targets and terms."""

    scenario: LoadScenario
    """Steady, see `open_loop.steady`."""
    source: str
    """Names it in messages."""
    ratio: float
    seed: int
    seconds: float
    """Of each trial, that count."""
    precision: float
    sending: Sending


@dataclass(frozen=True, slots=True)
class Capacity:
    """Of one target, in one term."""

    target: str
    version: str
    term: str
    rule: Rule
    found: Found
    queries: Queries | None = None
    """multistream: of `SAMPLES` samples each; None: there were none."""


def in_terms(asked: Asked, term: str) -> LoadScenario:
    """The scenario that is offered, for the open-loop terms. Raises ScenarioError where it has no capacity in them."""
    if term == "server":
        return open_loop.server_terms(asked.scenario, asked.source)
    if term == "streams":
        open_loop.check_scalable(asked.scenario, asked.source)
    return asked.scenario


def greatest(asked: Asked, terms: Sequence[str]) -> LoadScenario:
    """With as many streams as any trial may have: what a target that is started must be ready for."""
    if "streams" not in terms or asked.scenario.scale != "streams":
        return asked.scenario
    counts = [min(round(sensor.count * FACTORS[-1]), STREAMS_MAX) for sensor in asked.scenario.stream]
    streams = zip(asked.scenario.stream, counts, strict=True)
    more = tuple(sensor.model_copy(update={"count": count}) for sensor, count in streams)
    return asked.scenario.model_copy(update={"stream": more})


def not_found(asked: Asked, target: str, term: str, why: str) -> Capacity:
    """Of a target that could not be searched at all."""
    return Capacity(target, "", term, _rule(asked, term), Found((), (), None, why))


def measure(asked: Asked, term: str, target: OpenTarget, tell: Tell, progress: Callable[[Progress], None]) -> Capacity:
    """`tell` as `search` has it; `progress` is that of the trials in open loop.

    Raises ScenarioError where the payloads are not what the target takes; a target that fails ends the search.
    """
    if term == "multistream":
        return _multistream(asked, target, tell)
    scenario = in_terms(asked, term)

    def run(at_load: LoadScenario, seed: int) -> LiveRun:
        try:
            settle(target, scenario, seed)
            return offer_to(target, Offer(at_load, seed, target.name, target.address, asked.sending), progress)
        except AllRefused:
            raise
        except (TargetError, PeerError) as error:
            raise NoTrial(_why(target, error)) from error

    rule = _rule(asked, term)
    least, first, most = FACTORS
    limits = Limits(first, least, most, geometric(asked.precision))
    found = search(open_loop.offered(scenario, asked.source, run), rule, limits, asked.seed, tell)
    return Capacity(target.name, target.version, term, rule, found)


def _multistream(asked: Asked, target: OpenTarget, tell: Tell) -> Capacity:
    sensor = asked.scenario.stream[0]

    def queries(samples: int, seed: int, least: int = 0) -> Queries:
        try:
            settle(target, asked.scenario, seed)
            return ask(target.address, sensor, samples, seed, asked.seconds, least, asked.sending)
        except PayloadError as error:
            raise ScenarioError(f"{asked.scenario.name}: {error}") from error
        except (TargetError, PeerError) as error:
            raise NoTrial(_why(target, error)) from error

    def probe(load: float, seed: int) -> Trial:
        return queries(int(load), seed).trial(seed, sensor.budget_ns)

    rule = _rule(asked, "multistream")
    found = search(probe, rule, Limits(1, 1, SAMPLES_MAX, whole), asked.seed, tell)
    eight, why = None, found.ended
    if why != INTERRUPTED:
        try:
            eight = _valid(lambda: queries(SAMPLES, asked.seed, latencies_min(asked.ratio)))
        except NoTrial as error:
            why = why or f"queries of {SAMPLES}: {error}"
        except KeyboardInterrupt:
            why = INTERRUPTED
    if why:
        found = replace(found, confirmation=None, ended=why)
    return Capacity(target.name, target.version, "multistream", rule, found, eight)


def _rule(asked: Asked, term: str) -> Rule:
    # In multistream, one query at a time finds no queue of others.
    return Rule(asked.ratio, ERROR_MAX, 1.0 if term == "multistream" else DESIGN_EFFECT_MIN)


def _valid(queries: Callable[[], Queries]) -> Queries:
    """Raises NoTrial where they are not valid however often they are sent."""
    for _ in range(INVALID_MAX):
        sent = queries()
        if not sent.problems:
            return sent
    raise NoTrial(f"invalid {INVALID_MAX} times, one after the other")


def _why(target: OpenTarget, error: Exception) -> str:
    died = target.server.died() if target.server is not None else ""
    return f"{error}; {died}" if died and died not in str(error) else str(error)
