"""What a live run amounts to: every intended frame counts, and each figure agrees with the frames."""

import csv
import gzip
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from duly.energy.meter import Energy
from duly_load.results import files as live_files
from duly_load.results.files import write_files
from duly_load.results.formats import write_csv, write_json
from duly_load.results.histogram import encoded, percentiles_of
from duly_load.results.machine import look
from duly_load.results.measure import measure
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import Ending, LiveRun
from duly_load.targets.target_machine import machine_of
from tests.duly_load.live_runs import MS, S, load, refused, run_of, served_in_order


def counted(run: LiveRun) -> np.ndarray:
    return run.schedule.frames.arrival_ns >= run.scenario.warm_s * S


def test_every_outcome_counts_and_all_but_one_are_not_on_time() -> None:
    run = run_of(load(), outcome=FrameOutcome.ON_TIME)
    keep = np.flatnonzero(counted(run))
    for nth, outcome in enumerate(FrameOutcome):
        run.record.outcome[keep[nth]] = outcome
    results = measure(run)
    frames = len(keep)
    assert results.frames == sum(results.counts.values()) == frames
    assert all(results.counts[outcome.name] == 1 for outcome in FrameOutcome if outcome != FrameOutcome.ON_TIME)
    on_time = frames - len(FrameOutcome) + 1
    assert results.counts["ON_TIME"] == on_time
    assert results.on_time_ratio == on_time / frames
    assert results.goodput_per_s == on_time / 3
    assert results.offered_per_s == frames / 3


def test_warm_up_is_left_out() -> None:
    run = run_of(load(), outcome=FrameOutcome.ON_TIME)
    run.record.outcome[~counted(run)] = FrameOutcome.LATE
    run.record.latency_ns[~counted(run)] = 50 * S
    results = measure(run)
    assert results.on_time_ratio == 1
    assert results.latency_ms is not None
    assert results.latency_ms.max == 20


def test_latency_is_of_results_and_reasons_are_told_apart() -> None:
    run = run_of(load(budget_ms=100), outcome=FrameOutcome.ON_TIME)
    run.record.latency_ns[:] = 30 * MS
    run.record.outcome[::2] = FrameOutcome.SHED
    run.record.latency_ns[::2] = 20 * MS
    results = measure(run)
    assert results.latency_ms is not None
    assert results.latency_ms.p99_99 == 30
    assert results.reason_ms is not None
    assert results.reason_ms.max == 20
    assert results.reason_left is not None
    assert results.reason_left.p50 == pytest.approx(0.8)


def test_unsent_and_unanswered_frames_have_no_latency() -> None:
    for outcome in (FrameOutcome.UNSENT, FrameOutcome.UNANSWERED, FrameOutcome.REFUSED):
        results = measure(run_of(load(), outcome=outcome))
        assert results.on_time_ratio == 0
        assert results.latency_ms is results.reason_ms is results.fairness is None
        assert (results.lag_ms is None) == (outcome != FrameOutcome.UNANSWERED)
        assert results.worst_stream == "camera-0"


def test_claims_are_checked_by_the_senders_clock(tmp_path: Path) -> None:
    run = run_of(load(), outcome=FrameOutcome.ON_TIME)
    run.record.claimed[:] = True
    late = np.flatnonzero(counted(run))[:7]
    run.record.outcome[late] = FrameOutcome.LATE
    run.record.claimed[late[0]] = False
    assert measure(run).claimed_late == 6
    assert sum(tally.claimed_late or 0 for tally in measure(run).by_stream.values()) == 6
    run.record.claimed[:] = False
    results = measure(run)
    assert {results.claimed_late, *(tally.claimed_late for tally in results.by_stream.values())} == {None}
    write_files(tmp_path, run, results, look(), "not known")
    assert {row["claimed_late"] for row in rows(tmp_path / "streams.csv")} == {""}


def test_streams_and_classes_add_up() -> None:
    sensors = [
        {"name": name, "count": count, "model": "net", "class": of, "budget_ms": 40}
        | {"arrivals": {"kind": "poisson", "rate_hz": 30}}
        for name, count, of in (("lidar", 1, "CRITICAL"), ("camera", 3, "BEST_EFFORT"))
    ]
    results = measure(served_in_order(load(stream=sensors), service_ms=12, batch_max=1))
    assert list(results.by_stream) == ["lidar", "camera-0", "camera-1", "camera-2"]
    assert set(results.by_class) == {"CRITICAL", "BEST_EFFORT"}
    for tallies in (results.by_class, results.by_stream):
        assert sum(tally.frames for tally in tallies.values()) == results.frames
        assert sum(tally.goodput_per_s for tally in tallies.values()) == pytest.approx(results.goodput_per_s)
    assert results.by_class["CRITICAL"] == results.by_stream["lidar"]
    assert results.worst_on_time_ratio == min(tally.on_time_ratio for tally in results.by_stream.values())


def test_fairness_is_jains_index() -> None:
    run = run_of(load(streams=4), outcome=FrameOutcome.EXPIRED)
    run.record.outcome[run.schedule.frames.stream_id == 1] = FrameOutcome.ON_TIME
    assert measure(run).fairness == pytest.approx(1 / 4)
    assert measure(run_of(load(), outcome=FrameOutcome.ON_TIME)).fairness == 1


def test_sessions_of_a_stream_count_under_its_name() -> None:
    stream = {"name": "camera", "count": 2, "model": "net", "budget_ms": 40}
    stream |= {"arrivals": {"kind": "poisson", "rate_hz": 40}, "churn": {"lifetime_s": 1.0, "gap_s": 0.5}}
    run = run_of(load(stream=[stream], duration_s=8), outcome=FrameOutcome.ON_TIME)
    assert len(run.schedule.sessions) > 2
    results = measure(run)
    assert list(results.by_stream) == ["camera-0", "camera-1"]
    assert sum(tally.frames for tally in results.by_stream.values()) == results.frames == int(counted(run).sum())


def test_age_counts_from_capture_to_the_answer() -> None:
    stream = {"name": "camera", "model": "net", "budget_ms": 40}
    stream |= {"arrivals": {"kind": "periodic", "rate_hz": 10}}
    results = measure(run_of(load(stream=[stream]), outcome=FrameOutcome.ON_TIME))
    assert results.age_ms is not None
    # A result every 100 ms, 20 ms old when it comes: between 20 and 120 ms.
    assert results.age_ms.mean == pytest.approx(70, abs=0.5)
    assert results.age_ms.p99 == pytest.approx(119, abs=0.5)


def test_cpu_and_energy_are_of_frames_that_were_sent() -> None:
    run = run_of(load(), outcome=FrameOutcome.ON_TIME, server_cpu_s=2.0)
    assert measure(replace(run, server_cpu_s=None)).server_cpu_us_per_frame is None
    measured = replace(run, energy=Energy({"package-0": 6.0, "psys": 9.0}, 6.0, 3.0))
    assert measure(measured).joules_per_frame == pytest.approx(6 / len(run.schedule.frames))
    assert measure(run).joules_per_frame is None
    assert measure(run).energy_words.startswith("not available: the target is on another machine")
    run.record.outcome[: len(run.schedule.frames) // 2] = FrameOutcome.UNSENT
    sent = len(run.schedule.frames) - len(run.schedule.frames) // 2
    assert measure(run).server_cpu_us_per_frame == pytest.approx(2e6 / sent)


def test_mean_batch_is_over_batches() -> None:
    run = run_of(load(), outcome=FrameOutcome.ON_TIME)
    keep = np.flatnonzero(counted(run))
    run.record.batch_size[keep[:12]] = [1, 1, 1, 1, 4, 4, 4, 4, 4, 4, 4, 4]
    results = measure(run)
    assert results.batch_frames == {1: 4, 4: 8}
    assert results.batch_size_mean == 2
    assert measure(run_of(load(), outcome=FrameOutcome.ON_TIME)).batch_size_mean is None


def test_problems_are_kept() -> None:
    run = run_of(load(), outcome=FrameOutcome.ON_TIME, problems=("the generator was late",))
    assert measure(run).problems == ("the generator was late",)


# ---- percentiles ----


def test_percentiles_are_within_three_digits_of_the_exact() -> None:
    rng = np.random.default_rng(4)
    times_ns = (rng.lognormal(16, 2, 200_000)).astype(np.int64)
    found = percentiles_of(times_ns)
    assert found is not None
    for percentile, value_ms in (
        (50, found.p50),
        (90, found.p90),
        (99, found.p99),
        (99.9, found.p99_9),
        (99.99, found.p99_99),
    ):
        exact_ms = np.percentile(times_ns, percentile, method="inverted_cdf") / 1e6
        assert value_ms == pytest.approx(exact_ms, rel=0.0015, abs=0.001)
    assert found.max == times_ns.max() / 1e6
    assert found.mean == pytest.approx(times_ns.mean() / 1e6)


def test_percentiles_are_those_of_the_histogram() -> None:
    times_ns = np.random.default_rng(8).integers(0, 10 * S, 10_000)
    found, decoded = percentiles_of(times_ns), HdrHistogram.decode(encoded(times_ns))
    assert found is not None
    for percentile, value_ms in ((50, found.p50), (90, found.p90), (99, found.p99), (99.9, found.p99_9)):
        assert value_ms == decoded.get_value_at_percentile(percentile) / 1e3


def test_percentiles_of_few_and_of_none() -> None:
    assert percentiles_of(np.empty(0, np.int64)) is None
    one = percentiles_of(np.array([5 * MS]))
    assert one is not None
    assert one.p50 == one.p99_99 == one.max == 5
    far = percentiles_of(np.array([0, 5 * 3600 * S]))
    assert far is not None
    assert far.max == 5 * 3600e3
    assert far.p99 <= far.max


def test_histograms_can_be_decoded_and_added_up() -> None:
    first = measure(served_in_order(load(), seed=1))
    second = measure(served_in_order(load(), seed=2))
    assert first.latency_ms is not None
    assert second.latency_ms is not None
    both = HdrHistogram.decode(first.latency_hdr)
    assert both.get_total_count() == first.latency_ms.count
    both.add(HdrHistogram.decode(second.latency_hdr))
    assert both.get_total_count() == first.latency_ms.count + second.latency_ms.count


def test_values_recorded_together_are_those_recorded_one_by_one() -> None:
    times_ns = np.random.default_rng(0).integers(0, 10 * S, 3000)
    one_by_one = HdrHistogram(1, 3_600_000_000, 3)
    for time_ns in times_ns.tolist():
        one_by_one.record_value(time_ns // 1000)
    assert encoded(times_ns) == one_by_one.encode().decode()


# ---- files ----


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    def rows_that_fail() -> Iterator[list[object]]:
        yield [1, None]
        raise ValueError("the second row")

    write_csv(tmp_path / "a.csv", ["x", "y"], [["old", None]])
    with pytest.raises(ValueError, match="the second row"):
        write_csv(tmp_path / "a.csv", ["x", "y"], rows_that_fail())
    assert (tmp_path / "a.csv").read_text() == "x,y\nold,\n"
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]


def test_numbers_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": (math.inf, {"b": math.nan}), "c": 1.5})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, {"b": None}], "c": 1.5}


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_files_hold_what_the_results_say(tmp_path: Path) -> None:
    run = served_in_order(load(), service_ms=15, batch_max=2, drop=False)
    run = replace(run, problems=("too late",), endings=(Ending(S, "camera-1", False, "reset"),))
    results = measure(run)
    assert write_files(tmp_path, run, results, look(), "not known", "duly 9.9") == []
    told = json.loads((tmp_path / "results.json").read_text())
    assert (told["valid"], told["problems"], told["target_version"]) == (False, ["too late"], "duly 9.9")
    assert told["results"]["counts"] == results.counts
    assert told["results"]["latency_ms"]["p99_99"] == results.latency_ms.p99_99  # type: ignore[union-attr]
    assert told["scenario"]["stream"][0]["class"] == "STANDARD"
    assert told["endings"] == [{"at_ns": S, "stream": "camera-1", "refused": False, "reason": "reset"}]
    streams = rows(tmp_path / "streams.csv")
    assert [row["stream"] for row in streams] == list(results.by_stream)
    assert sum(int(row["late"]) for row in streams) == results.counts["LATE"] > 0
    timeline = rows(tmp_path / "timeline.csv")
    assert [row["second"] for row in timeline] == ["0", "1", "2", "3"]
    assert sum(int(row["on_time"]) for row in timeline if row["counted"] == "1") == results.counts["ON_TIME"]
    with gzip.open(tmp_path / "frames.csv.gz", "rt", newline="") as lines:
        frames = list(csv.DictReader(lines))
    assert len(frames) == len(run.schedule.frames)
    assert [int(frame["latency_ns"]) for frame in frames] == run.record.latency_ns.tolist()
    assert {row["valid"] for row in (*streams, *timeline, *frames)} == {"0"}
    assert told["target_machine"] == "not known"
    assert told["energy"]["joules"] is None
    assert "another machine" in told["energy"]["why_not"]
    assert told["generator_machine"]["cores"] == look().cores
    write_files(tmp_path, replace(run, problems=()), results, look(), "not known")
    assert {row["valid"] for row in (*rows(tmp_path / "streams.csv"), *rows(tmp_path / "timeline.csv"))} == {"1"}


def test_what_is_left_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_files, "FRAMES_MAX", 10)
    run = refused(load(streams=1))
    left_out = write_files(tmp_path, run, measure(run), look(), "not known")
    more = len(run.schedule.frames) - 10
    assert left_out == [f"frames.csv.gz: has the first 10 frames, {more} more are left out"]
    assert json.loads((tmp_path / "results.json").read_text())["left_out"] == left_out
    with gzip.open(tmp_path / "frames.csv.gz", "rt") as lines:
        assert len(lines.readlines()) == 11


def test_equal_runs_give_equal_files(tmp_path: Path) -> None:
    machine = look()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run = served_in_order(load(), seed=5)
        write_files(tmp_path / name, run, measure(run), machine, "not known")
    for file in ("results.json", "streams.csv", "timeline.csv", "frames.csv.gz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_no_frames_at_all(tmp_path: Path) -> None:
    stream = {"name": "camera", "model": "net", "budget_ms": 40, "from_s": 3.9}
    stream |= {"arrivals": {"kind": "periodic", "rate_hz": 1, "phase": 50}}
    run = run_of(load(stream=[stream]), outcome=FrameOutcome.ON_TIME)
    assert not len(run.schedule.frames)
    results = measure(run)
    assert (results.frames, results.worst_stream, results.on_time_ratio) == (0, "", 1.0)
    write_files(tmp_path, run, results, look(), "not known")
    assert rows(tmp_path / "timeline.csv") == []


def test_machine_is_told_in_words() -> None:
    machine = look()
    assert machine.cores >= 1
    assert machine.memory_bytes > 2**20
    facts = dict(machine.facts())
    assert machine.versions["numpy"] in facts["Packages"]
    assert json.loads(json.dumps(machine.to_json()))["cores"] == machine.cores
    assert "Generator's machine" in facts


@pytest.mark.parametrize(
    ("target", "on"),
    [
        ("triton-timeouts", "the same"),
        ("null:", "the same"),
        ("kserve+unix:/run/it.sock?calls=unary", "the same"),
        ("duly://localhost:8001", "the same"),
        ("kserve://127.0.0.1:8001?calls=unary", "the same"),
        ("duly://[::1]:8001", "the same"),
        ("duly://robot:8001", "not known"),
        ("duly://10.0.0.7:8001", "not known"),
    ],
)
def test_what_a_target_runs_on(target: str, on: str) -> None:
    assert machine_of(target) == on
