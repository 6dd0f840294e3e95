"""Published policies to measure the scheduler against, each behind `duly_sim.simulator.engine.Policy`.

`POLICIES` has each with its defaults, `TUNINGS` the settings that a sweep should try: a baseline counts at its best.
"""

from collections.abc import Callable
from functools import partial

from duly.core.scheduler import Scheduler
from duly_sim.baselines.clockwork import Clockwork
from duly_sim.baselines.edf import Edf
from duly_sim.baselines.edf_window import EdfWindow
from duly_sim.baselines.fifo import Fifo
from duly_sim.baselines.nexus import Nexus
from duly_sim.baselines.profile import Estimate
from duly_sim.baselines.symphony import Symphony
from duly_sim.baselines.triton import Timeout, Triton
from duly_sim.simulator.engine import Policy

POLICIES: dict[str, Callable[[], Policy]] = {
    "duly": Scheduler,
    "fifo": Fifo,
    "edf": Edf,
    "edf_window": EdfWindow,
    "triton": Triton,
    "clockwork": Clockwork,
    "nexus": Nexus,
    "symphony": Symphony,
}

_DELAYS_NS = (0, 500_000, 1_000_000, 2_000_000, 5_000_000)
_MEANS = tuple(Estimate(runs=100, percentile=None, margin_percent=margin) for margin in (0, 4, 8))

TUNINGS: dict[str, tuple[Callable[[], Policy], ...]] = {
    "duly": (Scheduler,),
    "fifo": tuple(partial(Fifo, batch_max=size) for size in (1, 4, 8, 16, 32)),
    "edf": (Edf,),
    "edf_window": tuple(partial(EdfWindow, target=target) for target in (1, 2, 4, 8, 32)),
    "triton": tuple(
        partial(Triton, delay_ns=delay_ns, batch_max=size, timeout=timeout)
        for delay_ns in _DELAYS_NS
        for size in (4, 8, 16, 32)
        for timeout in Timeout
    ),
    "clockwork": tuple(
        partial(Clockwork, batch_max=size, buffer_ns=buffer_ns)
        for size in (8, 16, 32)
        for buffer_ns in (0, 1_000_000, 5_000_000)
    ),
    "nexus": tuple(
        partial(Nexus, target=target, earliest=earliest, estimate=estimate)
        for target in (None, 2, 4, 8, 16, 32)
        for earliest in (False, True)
        for estimate in _MEANS[:2]
    ),
    "symphony": tuple(
        partial(Symphony, target=target, enough=enough, estimate=estimate)
        for target in (1, 4, 8, 32)
        for enough in (1, 4, 8, 32)
        for estimate in _MEANS
    ),
}
