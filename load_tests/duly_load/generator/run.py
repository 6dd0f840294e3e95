"""One run: the schedule is made, sender processes offer it to the target, what they saw is put together and judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from duly_load.generator.address import Address
from duly_load.generator.record import LiveRun
from duly_load.load_scenario import LoadScenario

LAG_SHARE = 0.05
"""Of a frame's budget, that the generator's own lag may take at its 99th percentile."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What is asked of a run."""

    scenario: LoadScenario
    seed: int
    target: str
    """As the user named it."""
    address: Address
    processes: int = 0
    """That send; 0: as many as the rate needs."""
    answers_wait_s: float = 10.0
    """How long after the last frame was due answers may come."""
    lag_share: float = LAG_SHARE
    keep_awake: bool = False
    """Keeps the processors of a virtual machine from sleeping meanwhile, see `duly_load.generator.awake`."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    at_ns: int
    """Since the schedule's zero; negative while streams open."""
    sent: int
    answered: int
    on_time: int


def offer(
    asked: Offer,
    progress: Callable[[Progress], None] | None = None,
    deeds: Sequence[tuple[int, Callable[[], None]]] = (),
) -> LiveRun:
    """Offers the load and returns what became of it; a run that can't be believed says why in `LiveRun.problems`.

    `progress` is called about twice a second. `deeds`: (at_ns, what to do then), in order of time, such as a fault.
    Raises TargetError where the target is not there or takes none of the streams, before anything is measured.
    """
    raise NotImplementedError
