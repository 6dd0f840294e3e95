"""Who sends what when: the sessions of all streams and their frames, made from a seed before anything runs.

Simulated and live runs of one seed have equal schedules, bit for bit.

A stream that churns opens under a new stream id each time, as a client that comes back does; its sessions share the
stream's name, under which results are counted.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duly.core.types import StreamClass
from duly_load.scenario.arrivals import Draw, Poisson, arrival_times_ns, capture_times_ns, sessions_ns
from duly_load.scenario.scenario import Scenario
from duly_load.scenario.tables import Sensor


@dataclass(frozen=True, slots=True)
class Frames:
    """All frames of a run in order of arrival; arrays of the same length, times in ns since the start of the run."""

    arrival_ns: NDArray[np.int64]
    deadline_ns: NDArray[np.int64]
    stream_id: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.arrival_ns)


@dataclass(frozen=True, slots=True)
class Session:
    """One time that a stream is open."""

    stream_id: int
    name: str
    """The stream's name; its sessions share it."""
    sensor: int
    """The position of its table in the scenario."""
    stream_class: StreamClass
    model: str
    budget_ns: int
    opened_ns: int
    closed_ns: int


def lone_session(sensor: Sensor, rate_hz: float, stream_id: int, name: str) -> tuple[Sensor, Session]:
    """A stream outside any schedule, which is open all the time. It states no period, so that no server refuses it for
    want of room.
    """
    alone = sensor.model_copy(update={"count": 1, "arrivals": Poisson(kind="poisson", rate_hz=rate_hz)})
    return alone, Session(stream_id, name, 0, sensor.stream_class, sensor.model, sensor.budget_ns, 0, 0)


@dataclass(frozen=True, slots=True)
class Schedule:
    frames: Frames
    sessions: tuple[Session, ...]
    """The sessions in order of stream ids, which are 1, 2, ..."""

    @property
    def budgets_ns(self) -> NDArray[np.int64]:
        """The budgets by stream id; the first, of no stream, is 0."""
        return np.array([0, *(session.budget_ns for session in self.sessions)], np.int64)

    @property
    def captures_ns(self) -> NDArray[np.int64]:
        """The capture time of each frame."""
        captures_ns: NDArray[np.int64] = self.frames.deadline_ns - self.budgets_ns[self.frames.stream_id]
        return captures_ns


def schedule_of(scenario: Scenario, seed: int) -> Schedule:
    """Equal arguments give equal schedules, bit for bit."""
    duration_ns = round(scenario.duration_s * 1e9)
    steps = tuple((round(step.at_s * 1e9), step.factor) for step in scenario.load_step)
    sessions: list[Session] = []
    arrivals_ns, deadlines_ns, stream_ids = [], [], []
    for position, sensor in enumerate(scenario.stream):
        for copy, name in enumerate(sensor.names):
            draw = Draw(seed, (position, copy), duration_ns, steps)
            captures_ns = capture_times_ns(sensor.arrivals, draw)
            arrival_ns = arrival_times_ns(captures_ns, sensor.network, draw)
            for opened_ns, closed_ns in _sessions_ns(sensor, draw):
                stream_id = len(sessions) + 1
                sessions.append(
                    Session(
                        stream_id,
                        name,
                        position,
                        sensor.stream_class,
                        sensor.model,
                        sensor.budget_ns,
                        opened_ns,
                        closed_ns,
                    )
                )
                # A client sends only while its stream is open; what is still under way when it closes is lost.
                first, last = np.searchsorted(captures_ns, opened_ns), np.searchsorted(arrival_ns, closed_ns)
                sent = slice(first, max(first, last))
                arrivals_ns.append(arrival_ns[sent])
                deadlines_ns.append(captures_ns[sent] + sensor.budget_ns)
                stream_ids.append(np.full(len(arrivals_ns[-1]), stream_id, np.int32))
    return Schedule(_in_order(arrivals_ns, deadlines_ns, stream_ids), tuple(sessions))


def _sessions_ns(sensor: Sensor, draw: Draw) -> list[tuple[int, int]]:
    from_ns = round(sensor.from_s * 1e9)
    to_ns = draw.duration_ns if sensor.to_s is None else round(sensor.to_s * 1e9)
    both = ((max(from_ns, opened), min(to_ns, closed)) for opened, closed in sessions_ns(sensor.churn, draw))
    return [(opened_ns, closed_ns) for opened_ns, closed_ns in both if opened_ns < closed_ns]


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
