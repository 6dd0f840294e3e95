"""What capacity means, in two terms, and how each is found for a target: see `open_loop`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from duly_load.capacity import open_loop
from duly_load.capacity.confidence import Rule
from duly_load.capacity.search import (
    ERROR_MAX,
    Found,
    Limits,
    NoTrial,
    Trial,
    Verdict,
    search,
)
from duly_load.generator.run import Offer, Progress, Sending
from duly_load.protocols.connection import AllRefused, TargetError
from duly_load.results.record import LiveRun
from duly_load.scenario.scenario import Scenario
from duly_load.scenario.tables import STREAMS_MAX
from duly_load.targets.opened import OpenTarget, offer_to, settle
from duly_load.targets.peer import PeerError

TERMS = ("streams", "server")
FACTORS = (1 / 1024, 1 / 8, 1024.0)
"""Factors of the scenario's load: the least that is offered, the first, the most."""
DESIGN_EFFECT_MIN = 4.0
"""Frames in open loop wait and are batched together, so that a late one is rarely alone."""

Report = Callable[[Trial, Verdict | None], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of all targets and terms."""

    scenario: Scenario
    """A steady scenario, see `open_loop.steady`."""
    source: str
    """Names the scenario in messages."""
    ratio: float
    seed: int
    seconds: float
    """The seconds of each trial that count."""
    precision: float
    sending: Sending


@dataclass(frozen=True, slots=True)
class Capacity:
    """The capacity of one target in one term."""

    target: str
    version: str
    term: str
    rule: Rule
    found: Found


def in_terms(request: Request, term: str) -> Scenario:
    """The scenario that is offered, in these terms. Raises ScenarioError where it has no capacity in them."""
    if term == "server":
        return open_loop.server_terms(request.scenario, request.source)
    if term == "streams":
        open_loop.check_scalable(request.scenario, request.source)
    return request.scenario


def greatest(request: Request, terms: Sequence[str]) -> Scenario:
    """The scenario with as many streams as any trial may have, which a target must be ready for."""
    if "streams" not in terms or request.scenario.scale != "streams":
        return request.scenario
    counts = [min(round(sensor.count * FACTORS[-1]), STREAMS_MAX) for sensor in request.scenario.stream]
    streams = zip(request.scenario.stream, counts, strict=True)
    more = tuple(sensor.model_copy(update={"count": count}) for sensor, count in streams)
    return request.scenario.model_copy(update={"stream": more})


def not_found(request: Request, target: str, term: str, why: str) -> Capacity:
    """The result for a target that could not be searched at all."""
    return Capacity(target, "", term, _rule(request), Found((), (), None, why))


def measure(
    request: Request, term: str, target: OpenTarget, report: Report, progress: Callable[[Progress], None]
) -> Capacity:
    """`report` is called as by `search`, `progress` as by `offer` in each trial. A target that fails ends the search.

    Raises ScenarioError where the payloads are not what the target takes.
    """
    scenario = in_terms(request, term)

    def run(at_load: Scenario, seed: int) -> LiveRun:
        try:
            settle(target, scenario, seed)
            return offer_to(target, Offer(at_load, seed, target.name, target.address, request.sending), progress)
        except AllRefused:
            raise
        except (TargetError, PeerError) as error:
            raise NoTrial(_why(target, error)) from error

    rule = _rule(request)
    least, first, most = FACTORS
    limits = Limits(first, least, most, request.precision)
    found = search(open_loop.offered(scenario, request.source, run), rule, limits, request.seed, report)
    return Capacity(target.name, target.version, term, rule, found)


def _rule(request: Request) -> Rule:
    return Rule(request.ratio, ERROR_MAX, DESIGN_EFFECT_MIN)


def _why(target: OpenTarget, error: Exception) -> str:
    died = target.server.died() if target.server is not None else ""
    return f"{error}; {died}" if died and died not in str(error) else str(error)
