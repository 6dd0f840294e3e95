"""Schedules: the same for a seed, bit for bit, and with the statistics that their kind promises.

Bounds on statistics are some five standard errors wide round the true value, for seeds that are fixed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.writer import Writer
from numpy.typing import NDArray
from pydantic import TypeAdapter

from duly_load.scenario.arrivals import Arrivals, Churn, Draw, Network, arrival_times_ns, capture_times_ns, sessions_ns

S = 1_000_000_000
MS = 1_000_000
KINDS: list[dict[str, Any]] = [
    {"kind": "periodic", "rate_hz": 30, "jitter_ms": 1, "drift_ppm": 50, "loss": 0.01},
    {"kind": "periodic", "rate_hz": 30, "phase": "locked", "group": "rig", "drift_ppm": 50},
    {"kind": "poisson", "rate_hz": 200},
    {"kind": "gamma", "rate_hz": 200, "cv": 4},
    {"kind": "mmpp", "rate_hz": 200, "rates": [1, 10], "dwell_s": [1.0, 0.2]},
    {"kind": "on_off", "rate_hz": 200, "on_s": 0.5, "off_s": 1.0},
]


def arrivals(**table: Any) -> Any:
    return TypeAdapter(Arrivals).validate_python(table)


def draw(seconds: float, *index: int, seed: int = 7, steps: tuple[tuple[int, float], ...] = ()) -> Draw:
    return Draw(seed, index or (0,), round(seconds * S), steps)


def captures(table: dict[str, Any], how: Draw) -> NDArray[np.int64]:
    return capture_times_ns(arrivals(**table), how)


@pytest.mark.parametrize("table", KINDS, ids=lambda table: str(table["kind"]))
def test_equal_seeds_give_equal_schedules(table: dict[str, Any]) -> None:
    once, again = captures(table, draw(20)), captures(table, draw(20))
    assert once.dtype == np.int64
    assert np.array_equal(once, again)
    assert not np.array_equal(once, captures(table, draw(20, seed=8)))
    assert np.all(np.diff(once) >= 0)
    assert once[0] >= 0
    assert once[-1] < 20 * S


@pytest.mark.parametrize("table", KINDS, ids=lambda table: str(table["kind"]))
def test_every_kind_keeps_its_mean_rate(table: dict[str, Any]) -> None:
    count = np.mean([len(captures(table, draw(100, nth))) for nth in range(40)])
    assert count == pytest.approx(arrivals(**table).frames_expected(100), rel=0.05)


def test_periodic_frames_come_at_the_period() -> None:
    times = captures({"kind": "periodic", "rate_hz": 50, "phase": 3.5}, draw(10))
    assert times.tolist() == [round(3.5 * MS) + 20 * MS * nth for nth in range(500)]


def test_random_phases_differ_and_fill_the_period() -> None:
    first = [captures({"kind": "periodic", "rate_hz": 10}, draw(1, nth))[0] for nth in range(400)]
    assert 0 <= min(first) < 3 * MS
    assert 97 * MS < max(first) < 100 * MS
    assert np.mean(first) == pytest.approx(50 * MS, abs=5 * 100 * MS / np.sqrt(12 * 400))


def test_streams_of_one_trigger_fire_together() -> None:
    camera = {"kind": "periodic", "rate_hz": 30, "phase": "locked", "group": "rig", "drift_ppm": 80}
    slow = captures(camera | {"rate_hz": 10}, draw(60, 0))
    fast = captures(camera, draw(60, 1))
    assert np.abs(slow[:, None] - fast[None, :]).min(axis=1).max() <= 1
    other = captures(camera | {"group": "other"}, draw(60, 2))
    assert np.abs(fast[:100] - other[:100]).min() > 1


def test_a_step_of_the_load_keeps_the_trigger_together() -> None:
    steps = ((20 * S, 2.0), (40 * S, 1.0))
    camera = {"kind": "periodic", "rate_hz": 30, "phase": "locked"}
    slow = captures(camera | {"rate_hz": 10}, draw(60, 0, steps=steps))
    fast = captures(camera, draw(60, 1, steps=steps))
    assert np.abs(slow[:, None] - fast[None, :]).min(axis=1).max() <= 1
    assert [np.count_nonzero((fast >= a * S) & (fast < (a + 20) * S)) for a in (0, 20, 40)] == [600, 1200, 600]


def test_drift_is_a_constant_error_of_the_clock_within_its_bound() -> None:
    periods = []
    for nth in range(200):
        times = captures({"kind": "periodic", "rate_hz": 10, "drift_ppm": 50}, draw(10, nth))
        assert np.ptp(np.diff(times)) <= 2
        periods.append((times[-1] - times[0]) / (len(times) - 1))
    ppm = (np.array(periods) / (100 * MS) - 1) * 1e6
    assert np.all(np.abs(ppm) <= 50.1)
    assert ppm.std() == pytest.approx(50 / np.sqrt(3), rel=0.2)


def test_jitter_scatters_round_the_ideal_time_and_does_not_add_up() -> None:
    times = captures({"kind": "periodic", "rate_hz": 10, "phase": 50, "jitter_ms": 2}, draw(1000))
    error_ms = (times - (50 * MS + np.arange(10_000) * 100 * MS)) / MS
    assert error_ms.std() == pytest.approx(2, rel=0.05)
    assert np.abs(error_ms).max() <= 6.001
    assert error_ms[-1000:].mean() == pytest.approx(0, abs=0.35)


def test_loss_takes_its_share() -> None:
    table = {"kind": "periodic", "rate_hz": 100, "phase": 0}
    whole, rest = captures(table, draw(1000)), captures(table | {"loss": 0.02}, draw(1000))
    assert len(whole) == 100_000
    assert len(whole) - len(rest) == pytest.approx(2000, abs=5 * np.sqrt(2000))
    assert np.isin(rest, whole).all()


def test_poisson_gaps_are_exponential() -> None:
    gaps = np.diff(captures({"kind": "poisson", "rate_hz": 1000}, draw(100)))
    assert gaps.mean() == pytest.approx(MS, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.02)
    assert np.mean(gaps > MS) == pytest.approx(np.exp(-1), abs=0.01)


@pytest.mark.parametrize("cv", [1, 2, 4, 8])
def test_gamma_gaps_have_their_cv(cv: float) -> None:
    gaps = np.diff(captures({"kind": "gamma", "rate_hz": 1000, "cv": cv}, draw(1000)))
    assert gaps.mean() == pytest.approx(MS, rel=5 * cv / np.sqrt(len(gaps)))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_gamma_does_not_begin_with_a_burst() -> None:
    table = {"kind": "gamma", "rate_hz": 100, "cv": 8}
    early = [len(captures(table, draw(1, nth))) for nth in range(600)]
    assert np.mean(early) == pytest.approx(100, abs=5 * np.std(early) / np.sqrt(600))


def test_mmpp_dwells_at_two_rates() -> None:
    table = {"kind": "mmpp", "rate_hz": 110, "rates": [0, 11], "dwell_s": [9.0, 1.0]}
    times = captures(table, draw(20_000))
    per_100_ms = np.histogram(times, np.arange(0, 20_000 * S + 1, 100 * MS))[0]
    assert len(times) / 20_000 == pytest.approx(110, rel=0.1)
    assert per_100_ms[per_100_ms > 60].mean() == pytest.approx(110, rel=0.03)
    assert np.mean(per_100_ms == 0) == pytest.approx(0.89, abs=0.02)


def test_on_off_sends_at_its_rate_or_not_at_all() -> None:
    times = captures({"kind": "on_off", "rate_hz": 50, "on_s": 2.0, "off_s": 8.0}, draw(20_000))
    gaps = np.diff(times)
    paused = gaps > 20 * MS + 1
    assert np.all(gaps[~paused] >= 20 * MS - 1)
    assert np.mean(gaps[paused] - 20 * MS) == pytest.approx(8 * S, rel=0.15)
    assert np.count_nonzero(paused) == pytest.approx(2000, abs=5 * np.sqrt(2000))


def test_a_step_changes_rates_from_then_on() -> None:
    times = captures({"kind": "poisson", "rate_hz": 100}, draw(300, steps=((100 * S, 3.0), (200 * S, 0.5))))
    counts = np.histogram(times, [0, 100 * S, 200 * S, 300 * S])[0]
    assert counts.tolist() == pytest.approx([10_000, 30_000, 5_000], rel=0.05)


def test_a_trace_is_played_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("0.5\n0.25\n1e1\n", encoding="utf-8")
    np.save(tmp_path / "t.npy", np.array([0.25, 0.5, 10.0]))
    for name in ("t.csv", "t.npy"):
        table = {"kind": "trace", "file": str(tmp_path / name)}
        assert captures(table, draw(5, steps=((0, 2.0),))).tolist() == [S // 4, S // 2]
        assert arrivals(**table).frames_expected(5) == 2


def test_a_trace_of_a_log_keeps_the_phases_of_its_topics(tmp_path: Path) -> None:
    log_ns = {"/camera": [S, 2 * S, 3 * S], "/imu": [S + MS, S + 11 * MS], "/late": [5 * S]}
    with (tmp_path / "rig.mcap").open("wb") as file:
        log = Writer(file)
        log.start()
        for topic, times_ns in log_ns.items():
            channel = log.register_channel(topic, "json", 0)
            for time_ns in reversed(times_ns):
                log.add_message(channel, time_ns, b"{}", time_ns)
        log.finish()  # type: ignore[no-untyped-call]
    table = {"kind": "trace", "file": str(tmp_path / "rig.mcap")}
    for topic, times_ns in log_ns.items():
        expected_ns = [time_ns - S for time_ns in times_ns if time_ns < 5 * S]
        assert captures(table | {"topic": topic}, draw(4)).tolist() == expected_ns
        assert arrivals(**table, topic=topic).frames_expected(4) == len(expected_ns)
    with pytest.raises(ValueError, match="needs a topic; it has /camera, /imu, /late"):
        arrivals(**table)
    np.save(tmp_path / "t.npy", np.arange(3.0))
    with pytest.raises(ValueError, match=r"should be an \.mcap file, since topic is there"):
        arrivals(kind="trace", file=str(tmp_path / "t.npy"), topic="/imu")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"time\n1\n", "could not convert"),
        ("t.csv", b"", "one or more finite times"),
        ("t.csv", b"-1\n", "one or more finite times"),
        ("t.csv", b"nan\n", "one or more finite times"),
        ("t.csv", b"\xff\n", "should hold numbers"),
        ("t.npy", b"no array", "should hold numbers"),
        ("t.npy", b"", "should hold numbers"),
        ("t.txt", b"1\n", r"should be a \.npy, \.csv or \.mcap file"),
        ("t.mcap", b"no log of a robot", "is damaged or no MCAP .not a valid MCAP file"),
    ],
)
def test_a_trace_that_is_wrong_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        arrivals(kind="trace", file=str(tmp_path / name))


def test_sessions_cover_their_share_and_never_overlap() -> None:
    sessions = sessions_ns(Churn(lifetime_s=3.0, gap_s=1.0), draw(10_000))
    assert all(opened < closed for opened, closed in sessions)
    assert all(sessions[nth][1] < sessions[nth + 1][0] for nth in range(len(sessions) - 1))
    open_s = sum(closed - opened for opened, closed in sessions) / S
    assert open_s / 10_000 == pytest.approx(0.75, abs=0.04)
    assert len(sessions) == pytest.approx(2500, abs=250)
    assert sessions_ns(None, draw(5)) == [(0, 5 * S)]


def test_the_network_delays_frames_and_keeps_their_order() -> None:
    times = captures({"kind": "periodic", "rate_hz": 1000}, draw(20))
    assert np.array_equal(arrival_times_ns(times, Network(), draw(20)), times)
    assert np.array_equal(arrival_times_ns(times, Network(delay_ms=2), draw(20)), times + 2 * MS)
    late = arrival_times_ns(times, Network(delay_ms=2, jitter_ms=0.05), draw(20)) - times
    assert late.min() >= 2 * MS
    assert late.max() <= 2.5 * MS
    assert late.mean() == pytest.approx(2.05 * MS, rel=0.01)
    assert np.all(np.diff(arrival_times_ns(times, Network(jitter_ms=20), draw(20))) >= 0)
