"""Who sends what when: sessions, captures, deadlines and arrivals that a scenario makes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duly_load.scenario.scenario import parse_scenario
from duly_load.scenario.schedule import Schedule, schedule_of

S = 1_000_000_000
MS = 1_000_000
PERIODIC = {"kind": "periodic", "rate_hz": 10, "phase": 50}


def stream(**changes: Any) -> dict[str, Any]:
    """A camera at 10 Hz from 50 ms on."""
    return {"name": "camera", "model": "m", "budget_ms": 50, "arrivals": PERIODIC} | changes


def made(*streams: dict[str, Any], seed: int = 0, **changes: Any) -> Schedule:
    content = {"name": "small", "duration_s": 2, "stream": list(streams)} | changes
    return schedule_of(parse_scenario(content, "test", Path()), seed)


def test_deadlines_count_from_capture() -> None:
    planned = made(stream(network={"delay_ms": 8}))
    assert planned.captures_ns[0] == 50 * MS
    assert planned.frames.arrival_ns[0] == 58 * MS
    assert planned.frames.deadline_ns[0] == 100 * MS


def test_streams_send_between_from_and_to() -> None:
    planned = made(stream(from_s=0.5, to_s=1.5, network={"delay_ms": 60}))
    assert [(session.opened_ns, session.closed_ns) for session in planned.sessions] == [(S // 2, 3 * S // 2)]
    assert planned.frames.arrival_ns.tolist() == [(610 + 100 * nth) * MS for nth in range(9)]


def test_sessions_of_a_stream_that_churns_have_ids_of_their_own() -> None:
    planned = made(stream(churn={"lifetime_s": 1.0, "gap_s": 0.5}), duration_s=20, seed=3)
    assert len(planned.sessions) > 5
    assert [session.stream_id for session in planned.sessions] == list(range(1, len(planned.sessions) + 1))
    assert {session.name for session in planned.sessions} == {"camera"}
    for session in planned.sessions:
        arrival_ns = planned.frames.arrival_ns[planned.frames.stream_id == session.stream_id]
        assert np.all((arrival_ns >= session.opened_ns) & (arrival_ns < session.closed_ns))


def test_another_stream_leaves_the_others_as_they_were() -> None:
    busy = stream(arrivals={"kind": "gamma", "rate_hz": 50, "cv": 2}, network={"jitter_ms": 3})
    alone = made(busy, seed=5)
    more = made(busy, stream(name="new", arrivals={"kind": "poisson", "rate_hz": 90}), seed=5)
    same = more.frames.stream_id == 1
    assert np.array_equal(more.frames.arrival_ns[same], alone.frames.arrival_ns)
    assert np.array_equal(more.frames.deadline_ns[same], alone.frames.deadline_ns)


def test_a_load_step_multiplies_the_rate() -> None:
    planned = made(stream(), load_step=[{"at_s": 1, "factor": 5}])
    assert np.histogram(planned.frames.arrival_ns, [0, S, 2 * S])[0].tolist() == [10, 50]


@pytest.mark.parametrize("kind", [{"kind": "gamma", "cv": 3}, {"kind": "on_off", "on_s": 0.2, "off_s": 0.2}])
def test_equal_seeds_give_equal_schedules_and_others_do_not(kind: dict[str, Any]) -> None:
    several = stream(
        count=3,
        arrivals=kind | {"rate_hz": 50},
        churn={"lifetime_s": 0.5, "gap_s": 0.2},
        network={"jitter_ms": 2},
    )
    first, again, other = (made(several, seed=seed) for seed in (5, 5, 6))
    assert first.sessions == again.sessions
    for part in ("arrival_ns", "deadline_ns", "stream_id"):
        assert np.array_equal(getattr(first.frames, part), getattr(again.frames, part))
    assert not np.array_equal(first.frames.arrival_ns, other.frames.arrival_ns)
