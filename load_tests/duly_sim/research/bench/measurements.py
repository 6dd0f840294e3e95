"""The parts of the benchmark, by the names by which they are asked for."""

from collections.abc import Callable
from dataclasses import dataclass

from duly_sim.research.bench.overload import IDLE_STEPS, OVERLOAD_STEPS, idle, overload
from duly_sim.research.bench.parts import Effort, Part, Setup, alternation, latency, messages, throughput
from duly_sim.research.bench.python_client import STEPS_A_ROUND, python_client


@dataclass(frozen=True, slots=True)
class Measurement:
    """A part of the benchmark that can be asked for."""

    measure: Callable[[Setup], Part]
    steps: Callable[[Effort], int]
    """The number of times that it will call `advance`."""


MEASUREMENTS = {
    "latency": Measurement(latency, lambda effort: 2 * 4 * effort.rounds),
    "throughput": Measurement(throughput, lambda effort: 3 * effort.rounds),
    "messages": Measurement(messages, lambda effort: 3 * effort.rounds),
    "client": Measurement(python_client, lambda effort: STEPS_A_ROUND * effort.rounds),
    "overload": Measurement(overload, lambda effort: OVERLOAD_STEPS * effort.rounds),
    "idle": Measurement(idle, lambda effort: IDLE_STEPS * effort.rounds),
    "alternation": Measurement(alternation, lambda effort: effort.turns),
}
