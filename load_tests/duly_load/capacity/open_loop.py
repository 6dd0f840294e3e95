"""The two terms of capacity: our own fixed-rate streams, and MLPerf's Server scenario.

streams   The scenario's own sensors, each at its rate and with its backlog policy, and more and more of them (or at
          higher rates, as the scenario's `scale` says). A frame counts when its answer is there within its budget, from
          capture; one that was superseded, expired or shed does not. This is what a rig of sensors asks of a server.
server    MLPerf's Server scenario (Inference Rules, "Scenarios"): queries of one sample that arrive as a Poisson
          process, with a bound of their latency, counted from when they were due; the metric is the largest rate at
          which the bound holds for 99 % of them. Taken over: Poisson arrivals, one sample, the bound on the intended
          time, every query is to be answered (so backlog ALL), the verdict by a binomial at a stated confidence, the
          confirmation of the rate found. Ours: the arrivals are split over the scenario's sensors at their mean rates,
          which as a sum are the same process; the bound is each sensor's budget; trials are shorter than LoadGen's 600
          s, so that the interval is given with the figure; and frames are not taken for independent. A result in these
          terms is no MLPerf result.

Only steady loads have a capacity: a scenario with load steps, faults or streams that come later is refused.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duly_load.capacity.confidence import Counts
from duly_load.capacity.search import NoTrial, Trial
from duly_load.protocols.connection import AllRefused
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import LiveRun
from duly_load.scenario.arrivals import Trace
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.scenario import Scenario, changed
from duly_load.scenario.schedule import Schedule, schedule_of
from duly_load.scenario.variations import scaled

WARM_S_MIN = 1.0
"""Streams open, and a server's first batches run, outside what is counted."""
WINDOW_NS = 1_000_000_000


def steady(scenario: Scenario, source: str, seconds: float) -> Scenario:
    """The scenario with `seconds` that count after its warm-up. `source` names it in messages.

    Raises ScenarioError where its load is not steady.
    """
    if problems := [*_unsteady(scenario)]:
        raise ScenarioError("\n".join(f"{source}: {problem}; capacity is of a steady load" for problem in problems))
    warm_s = max(scenario.warm_s, WARM_S_MIN)
    return _changed(scenario, source, {"warm_s": warm_s, "duration_s": warm_s + seconds}, {})


def server_terms(scenario: Scenario, source: str) -> Scenario:
    """Poisson arrivals in place of each sensor's own, at its mean rate; all frames are to be answered."""
    steadily: dict[str, Any] = {"backlog": "ALL", "churn": None, "network": {}}
    rates_hz = [
        sensor.arrivals.frames_expected(scenario.duration_s) / scenario.duration_s for sensor in scenario.stream
    ]
    arrivals = {index: {"kind": "poisson", "rate_hz": rate_hz} for index, rate_hz in enumerate(rates_hz)}
    return _changed(scenario, source, {"scale": "rates"}, arrivals, **steadily)


def check_scalable(scenario: Scenario, source: str) -> None:
    """Raises ScenarioError where a load factor would not make more or less of it."""
    for index, sensor in enumerate(scenario.stream):
        if isinstance(sensor.arrivals, Trace):
            raise ScenarioError(
                f"{source}: stream[{index}].arrivals: a recorded trace is not offered faster or slower and so "
                "has no capacity; take another kind, or the terms server"
            )


def offered(scenario: Scenario, source: str, run: Callable[[Scenario, int], LiveRun]) -> Callable[[float, int], Trial]:
    """A probe whose loads are factors of the scenario's. `run` offers a scenario with a seed.

    Where it raises AllRefused, the load has failed.
    """

    def probe(load: float, seed: int) -> Trial:
        try:
            at_load = scaled(scenario, load, source)
        except ScenarioError as error:
            raise NoTrial(str(error)) from error
        streams = sum(sensor.count for sensor in at_load.stream)
        try:
            live = run(at_load, seed)
            counts, refused, problems = counted(at_load, live.schedule, live.record.outcome), "", live.problems
        except AllRefused as error:
            planned = schedule_of(at_load, seed)
            outcome = np.full(len(planned.frames), FrameOutcome.REFUSED, np.int8)
            counts, refused, problems = counted(at_load, planned, outcome), str(error), ()
        frames_per_s = int(counts.sent.sum()) / (at_load.duration_s - at_load.warm_s)
        return Trial(load, seed, frames_per_s, streams, counts, refused, problems)

    return probe


def counted(scenario: Scenario, planned: Schedule, outcome: NDArray[np.int8]) -> Counts:
    """Frames of a run by the second in which they were due to arrive, after the warm-up; the last may be a part of one,
    and has those that came later, too.

    Which count is as in `duly_load.results.measure`: all that were intended.
    """
    warm_ns = round(scenario.warm_s * 1e9)
    counts = planned.frames.arrival_ns >= warm_ns
    windows = int(np.ceil(scenario.duration_s - scenario.warm_s))
    window = np.minimum((planned.frames.arrival_ns[counts] - warm_ns) // WINDOW_NS, windows - 1)
    on_time = outcome[counts] == FrameOutcome.ON_TIME
    return Counts(np.bincount(window, minlength=windows), np.bincount(window[on_time], minlength=windows))


def _unsteady(scenario: Scenario) -> Iterator[str]:
    for key, tables in (("load_step", scenario.load_step), ("serve.fault", scenario.serve.fault)):
        if tables:
            yield f"{key}: should not be there"
    for index, sensor in enumerate(scenario.stream):
        if sensor.from_s or sensor.to_s is not None:
            yield f"stream[{index}]: should be open from the start to the end, without from_s and to_s"


def _changed(
    scenario: Scenario, source: str, changes: dict[str, Any], arrivals: dict[int, dict[str, Any]], **of_streams: Any
) -> Scenario:
    """The scenario with other values of its own, other arrivals of some sensors and other values of all sensors."""
    streams = []
    for index, sensor in enumerate(scenario.stream):
        stream = sensor.model_dump(by_alias=True) | of_streams
        streams.append(stream | {"arrivals": arrivals.get(index, stream["arrivals"])})
    return changed(scenario, source, stream=streams, **changes)
