"""All that a simulated run is told beforehand, made from a scenario and a seed.

A stream that churns opens under a new stream id each time, as a client that comes back does; its sessions share the
stream's name, under which results are counted.
"""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duly.core.events import Event, LaneDown, LaneUp, ModelGone, ModelReady, StreamClosed, StreamOpened
from duly.core.types import VARIANT_RANK_ANY, StreamClass, StreamTerms
from duly_load import tables
from duly_load.arrivals import Draw, Periodic, arrival_times_ns, capture_times_ns, sessions_ns
from duly_load.scenario import Scenario
from duly_load.simulator import service
from duly_load.simulator.engine import Frames, Policy, Run, simulate


@dataclass(frozen=True, slots=True)
class Session:
    """One time that a stream is open."""

    stream_id: int
    name: str
    """Of the stream; its sessions share it."""
    stream_class: StreamClass
    model: str
    budget_ns: int
    opened_ns: int
    closed_ns: int


@dataclass(frozen=True, slots=True)
class World:
    """What `simulate` needs, and whose frames are whose. For one run: its service draws its noise as it goes."""

    scenario: Scenario
    seed: int
    script: list[tuple[int, Event]]
    frames: Frames
    model_of: dict[int, str]
    service: service.TableService
    sessions: tuple[Session, ...]
    """In order of stream ids, which are 1, 2, ..."""

    def run(self, policy: Policy) -> Run:
        return simulate(policy, self.script, self.frames, self.model_of, self.service)


def run(scenario: Scenario, policy: Policy, seed: int) -> Run:
    """One run of `policy`. Equal arguments, `policy` in its first state, give equal runs, bit for bit."""
    return build(scenario, seed).run(policy)


def build(scenario: Scenario, seed: int) -> World:
    """The world of a scenario. `seed` is 0 or more; everything random comes from it."""
    batch_times = _service(scenario, seed)
    script: list[tuple[int, Event]] = []
    for lane in scenario.lanes:
        script.append((0, LaneUp(lane)))
        script += [(0, ready) for ready in _models_ready(scenario, lane, batch_times)]
    for fault in scenario.fault:
        script += _fault_events(scenario, fault, batch_times)
    steps = tuple((round(step.at_s * 1e9), step.factor) for step in scenario.load_step)
    sessions: list[Session] = []
    arrivals_ns, deadlines_ns, stream_ids = [], [], []
    for position, stream in enumerate(scenario.stream):
        for copy, name in enumerate(stream.names):
            draw = Draw(seed, (position, copy), round(scenario.duration_s * 1e9), steps)
            captures_ns = capture_times_ns(stream.arrivals, draw)
            arrival_ns = arrival_times_ns(captures_ns, stream.network, draw)
            for opened_ns, closed_ns in _sessions_ns(stream, draw):
                session = Session(
                    len(sessions) + 1,
                    name,
                    stream.stream_class,
                    stream.model,
                    round(stream.budget_ms * 1e6),
                    opened_ns,
                    closed_ns,
                )
                sessions.append(session)
                script.append((opened_ns, StreamOpened(session.stream_id, _terms(scenario, stream))))
                if closed_ns < draw.duration_ns:
                    script.append((closed_ns, StreamClosed(session.stream_id)))
                # A client sends only while its stream is open; what is still under way when it closes is lost.
                first, last = np.searchsorted(captures_ns, opened_ns), np.searchsorted(arrival_ns, closed_ns)
                sent = slice(first, max(first, last))
                arrivals_ns.append(arrival_ns[sent])
                deadlines_ns.append(captures_ns[sent] + session.budget_ns)
                stream_ids.append(np.full(len(arrivals_ns[-1]), session.stream_id, np.int32))
    script.sort(key=lambda told: told[0])
    return World(
        scenario,
        seed,
        script,
        _in_order(arrivals_ns, deadlines_ns, stream_ids),
        {session.stream_id: session.model for session in sessions},
        batch_times,
        tuple(sessions),
    )


def _service(scenario: Scenario, seed: int) -> service.TableService:
    noise, hangs = scenario.noise, [fault for fault in scenario.fault if fault.kind == "hang"]
    return service.TableService(
        {
            (model.name, variant.name): _run_times_ns(model, variant)
            for model in scenario.model
            for variant in model.variants
        },
        service.Noise(
            noise.cv,
            noise.bound,
            noise.spike_probability,
            noise.spike_factor,
            round(noise.step_at_s * 1e9),
            noise.step_factor,
        ),
        seed,
        tuple((fault.lane, round(fault.at_s * 1e9), round(fault.back_s * 1e9)) for fault in hangs),
    )


def _sizes(model: tables.Model) -> list[int]:
    """Batch sizes measured at warm-up."""
    return sorted({min(1 << power, model.batch_max) for power in range(model.batch_max.bit_length() + 1)})


def _run_times_ns(model: tables.Model, variant: tables.Variant) -> tuple[int, ...]:
    """Of batches of 1, 2, ...; an engine of fixed sizes pads each to the next of them."""
    times_ns = variant.times_ns(model.batch_max)
    if model.any_size:
        return times_ns
    sizes = _sizes(model)
    return tuple(times_ns[sizes[bisect_left(sizes, size)] - 1] for size in range(1, model.batch_max + 1))


def _models_ready(scenario: Scenario, lane: str, batch_times: service.TableService) -> list[ModelReady]:
    return [
        ModelReady(
            model.name,
            lane,
            variant.name,
            batch_times.warm_up(model.name, variant.name, _sizes(model)),
            model.any_size,
            rank=rank,
        )
        for model in scenario.model
        if not model.lanes or lane in model.lanes
        for rank, variant in enumerate(model.variants)
    ]


def _fault_events(
    scenario: Scenario, fault: tables.Fault, batch_times: service.TableService
) -> list[tuple[int, Event]]:
    noticed_ns, back_ns = round(fault.noticed_s * 1e9), round(fault.back_s * 1e9)
    ready = _models_ready(scenario, fault.lane, batch_times)
    if fault.kind == "die":
        told: list[tuple[int, Event]] = [(noticed_ns, LaneDown(fault.lane, "the device is gone"))]
        told.append((back_ns, LaneUp(fault.lane)))
    else:
        models = dict.fromkeys(event.model for event in ready)
        told = [(noticed_ns, ModelGone(model, fault.lane, "its worker hangs")) for model in models]
    return told + [(back_ns, event) for event in ready]


def _sessions_ns(stream: tables.Stream, draw: Draw) -> list[tuple[int, int]]:
    from_ns = round(stream.from_s * 1e9)
    to_ns = draw.duration_ns if stream.to_s is None else round(stream.to_s * 1e9)
    both = ((max(from_ns, opened), min(to_ns, closed)) for opened, closed in sessions_ns(stream.churn, draw))
    return [(opened_ns, closed_ns) for opened_ns, closed_ns in both if opened_ns < closed_ns]


def _terms(scenario: Scenario, stream: tables.Stream) -> StreamTerms:
    model = next(model for model in scenario.model if model.name == stream.model)
    lowest = [rank for rank, variant in enumerate(model.variants) if variant.name == stream.variant_lowest]
    floor_frames, floor_window = stream.floor or (0, 0)
    return StreamTerms(
        stream.stream_class,
        stream.backlog_policy,
        stream.backlog_frames,
        round(stream.budget_ms * 1e6),
        stream.credit,
        model=stream.model,
        period_ns=round(1e9 / stream.arrivals.rate_hz) if isinstance(stream.arrivals, Periodic) else 0,
        variant_rank_max=lowest[0] if lowest else VARIANT_RANK_ANY,
        principal=stream.principal,
        floor_frames=floor_frames,
        floor_window=floor_window,
    )


def _in_order(
    arrivals_ns: list[NDArray[np.int64]], deadlines_ns: list[NDArray[np.int64]], stream_ids: list[NDArray[np.int32]]
) -> Frames:
    """All sessions' frames by time of arrival; those of one instant by stream id."""
    arrival_ns = np.concatenate([np.empty(0, np.int64), *arrivals_ns])
    order = np.argsort(arrival_ns, kind="stable")
    return Frames(
        arrival_ns[order],
        np.concatenate([np.empty(0, np.int64), *deadlines_ns])[order],
        np.concatenate([np.empty(0, np.int32), *stream_ids])[order],
    )
