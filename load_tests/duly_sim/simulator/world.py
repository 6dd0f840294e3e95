"""All that a simulated run is given beforehand, made from a scenario and a seed."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from duly.core.events import Event, LaneDown, LaneUp, ModelGone, ModelReady, StreamClosed, StreamOpened
from duly.core.types import VARIANT_RANK_ANY, Fusion, FusionWait, StreamTerms
from duly_load.scenario.scenario import Scenario
from duly_load.scenario.schedule import Frames, Schedule, Session, schedule_of
from duly_load.scenario.simulate import LaneFault, Simulate, SimulatedModel, Variant
from duly_load.scenario.tables import Sensor
from duly_sim.simulator.engine import Policy, Run, Service, simulate
from duly_sim.simulator.service_times import TableService


@dataclass(frozen=True, slots=True)
class World:
    """What `simulate` needs, and whose frames are whose. For one run: its service draws its noise as it goes."""

    scenario: Scenario
    seed: int
    script: list[tuple[int, Event]]
    frames: Frames
    model_of: dict[int, str]
    service: Service
    sessions: tuple[Session, ...]
    """The sessions in order of stream ids, which are 1, 2, ..."""

    def run(self, policy: Policy, record: Callable[[int, Event], None] | None = None) -> Run:
        """`record` is called with each (now, event) before it is carried out."""
        return simulate(
            policy,
            self.script,
            self.frames,
            self.model_of,
            self.service,
            record,
            followers=self.followers,
            captures_ns=Schedule(self.frames, self.sessions).captures_ns,
            fused=self.fused,
        )

    @property
    def fused(self) -> frozenset[int]:
        """Ids of the streams that are members of fusion groups."""
        sensors = self.scenario.stream
        return frozenset(each.stream_id for each in self.sessions if sensors[each.sensor].fusion is not None)

    @property
    def followers(self) -> frozenset[int]:
        """Ids of the streams that follow advice."""
        sensors = self.scenario.stream
        return frozenset(each.stream_id for each in self.sessions if sensors[each.sensor].advice == "follow")


def run(scenario: Scenario, policy: Policy, seed: int) -> Run:
    """One run of `policy`. Equal arguments, `policy` in its first state, give equal runs, bit for bit."""
    return build(scenario, seed).run(policy)


def build(scenario: Scenario, seed: int) -> World:
    """The world of a scenario. `seed` is 0 or more; everything random comes from it.

    Raises ScenarioError where the scenario does not say what to simulate.
    """
    given = scenario.to_simulate()
    batch_times = _service(given, seed)
    script: list[tuple[int, Event]] = []
    for lane in given.lanes:
        script.append((0, LaneUp(lane)))
        script += [(0, ready) for ready in _models_ready(given, lane, batch_times)]
    for fault in given.fault:
        script += _fault_events(given, fault, batch_times)
    planned = schedule_of(scenario, seed)
    groups: dict[str, int] = {}
    for session in planned.sessions:
        terms = _terms(given, scenario.stream[session.sensor])
        terms.fusion = _fusion(scenario.stream[session.sensor], session, groups, len(planned.sessions))
        script.append((session.opened_ns, StreamOpened(session.stream_id, terms)))
        if session.closed_ns < round(scenario.duration_s * 1e9):
            script.append((session.closed_ns, StreamClosed(session.stream_id)))
    script.sort(key=lambda step: step[0])
    return World(
        scenario,
        seed,
        script,
        planned.frames,
        {session.stream_id: session.model for session in planned.sessions},
        batch_times,
        planned.sessions,
    )


def _service(given: Simulate, seed: int) -> TableService:
    hangs = [fault for fault in given.fault if fault.kind == "hang"]
    return TableService(
        {
            (model.name, variant.name): _run_times_ns(model, variant)
            for model in given.model
            for variant in model.variants
        },
        given.noise,
        seed,
        tuple((fault.lane, round(fault.at_s * 1e9), round(fault.back_s * 1e9)) for fault in hangs),
    )


def _sizes(model: SimulatedModel) -> list[int]:
    """Batch sizes measured at warm-up."""
    return sorted({min(1 << power, model.batch_max) for power in range(model.batch_max.bit_length() + 1)})


def _run_times_ns(model: SimulatedModel, variant: Variant) -> tuple[int, ...]:
    """The times of batches of 1, 2, ...; an engine of fixed sizes pads each to the next of them."""
    times_ns = variant.times_ns(model.batch_max)
    if model.any_size:
        return times_ns
    sizes = _sizes(model)
    return tuple(times_ns[sizes[bisect_left(sizes, size)] - 1] for size in range(1, model.batch_max + 1))


def _models_ready(given: Simulate, lane: str, batch_times: TableService) -> list[ModelReady]:
    return [
        ModelReady(
            model.name,
            lane,
            variant.name,
            batch_times.warm_up(model.name, variant.name, _sizes(model)),
            model.any_size,
            rank=rank,
            warm_after_ns=round(model.warm_after_s * 1e9),
        )
        for model in given.model
        if not model.lanes or lane in model.lanes
        for rank, variant in enumerate(model.variants)
    ]


def _fault_events(given: Simulate, fault: LaneFault, batch_times: TableService) -> list[tuple[int, Event]]:
    noticed_ns, back_ns = round(fault.noticed_s * 1e9), round(fault.back_s * 1e9)
    ready = _models_ready(given, fault.lane, batch_times)
    if fault.kind == "die":
        steps: list[tuple[int, Event]] = [(noticed_ns, LaneDown(fault.lane, "the device is gone"))]
        steps.append((back_ns, LaneUp(fault.lane)))
    else:
        models = dict.fromkeys(event.model for event in ready)
        steps = [(noticed_ns, ModelGone(model, fault.lane, "its worker hangs")) for model in models]
    return steps + [(back_ns, event) for event in ready]


def _fusion(sensor: Sensor, session: Session, groups: dict[str, int], sessions: int) -> Fusion | None:
    """How a session is a member of a group. `groups`: the ids of those that are known, behind those of sessions."""
    fused = sensor.fusion
    if fused is None:
        return None
    name = sensor.group_of(session.name)
    group = groups.setdefault(name, sessions + 1 + len(groups))
    tolerance_ns = round(fused.tolerance_ms * 1e6)
    return Fusion(group, name, fused.inputs, fused.inputs.index(fused.input), tolerance_ns, FusionWait[fused.wait])


def _terms(given: Simulate, stream: Sensor) -> StreamTerms:
    model = next(model for model in given.model if model.name == stream.model)
    lowest = [rank for rank, variant in enumerate(model.variants) if variant.name == stream.variant_lowest]
    floor_frames, floor_window = stream.floor or (0, 0)
    return StreamTerms(
        stream.stream_class,
        stream.backlog_policy,
        stream.backlog_frames,
        round(stream.budget_ms * 1e6),
        stream.credit,
        model=stream.model,
        period_ns=round((stream.stated_period_s or 0) * 1e9),
        variant_rank_max=lowest[0] if lowest else VARIANT_RANK_ANY,
        principal=stream.principal,
        floor_frames=floor_frames,
        floor_window=floor_window,
        advise=stream.advice is not None,
        policed=True,
    )
