"""The same load, more or less of it, or cut down to one stream."""

import math
from collections.abc import Iterator
from typing import Any

from duly_load.scenario.arrivals import Trace
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.scenario import Scenario, changed
from duly_load.scenario.tables import Sensor


def scaled(scenario: Scenario, factor: float, source: str) -> Scenario:
    """The scenario at `factor` times its load, exactly: where whole streams do not make it, their rates make up for
    it. Recorded traces keep their times, so that only whole streams more or less of them make another load.

    Raises ScenarioError where that is more than a run can hold, or no whole number of recorded traces; `source` names
    the scenario.
    """
    if factor == 1:
        return scenario
    if problems := [*_problems_of_traces(scenario, factor)]:
        raise ScenarioError("\n".join(f"{source} at {factor:g} times its load: {problem}" for problem in problems))
    streams = [_scaled(sensor, factor, scenario.scale) for sensor in scenario.stream]
    return changed(scenario, f"{source} at {factor:g} times its load", stream=streams)


def alone(scenario: Scenario) -> Scenario:
    """The scenario cut down to one stream of its first sensor, so that frames come one at a time: no other streams, no
    steps of the load, and no faults.
    """
    return scenario.model_copy(
        update={
            "stream": (scenario.stream[0].model_copy(update={"count": 1}),),
            "load_step": (),
            "serve": scenario.serve.model_copy(update={"fault": ()}),
            "simulate": scenario.simulate and scenario.simulate.model_copy(update={"fault": ()}),
        }
    )


def _problems_of_traces(scenario: Scenario, factor: float) -> Iterator[str]:
    for index, sensor in enumerate(scenario.stream):
        count = sensor.count * factor
        # 1.1 times 10 streams are 11, though not in floating point.
        whole = round(count) >= 1 and math.isclose(count, round(count), rel_tol=1e-9)
        if isinstance(sensor.arrivals, Trace) and (scenario.scale == "rates" or not whole):
            yield (
                f"stream[{index}].arrivals: a recorded trace is not offered faster or slower; the factor should be 1"
                + (f", or make whole streams of {sensor.count}" if scenario.scale == "streams" else "")
            )


def _scaled(sensor: Sensor, factor: float, scale: str) -> dict[str, Any]:
    count = max(1, round(sensor.count * factor)) if scale == "streams" else sensor.count
    content = sensor.model_dump(by_alias=True) | {"count": count}
    if not isinstance(sensor.arrivals, Trace):
        content["arrivals"]["rate_hz"] *= sensor.count * factor / count
    return content
