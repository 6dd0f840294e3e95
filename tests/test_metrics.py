"""Counts: what the protocol's statistics read, and whether Prometheus gets series that follow its conventions."""

import re
import socket
import urllib.request
from collections import Counter

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from duly.core.types import OutcomeStatus, StreamClass
from duly.metric_families import Families
from duly.metrics import Gauges, LearningCounts, Metrics, SamplingCounts, Tally
from duly.metrics_server import MetricsError, serve_metrics
from duly.nvml.figures import Figures

MS = 1_000_000
CRITICAL, STANDARD = StreamClass.CRITICAL, StreamClass.STANDARD
SERIES = {
    "duly_age_of_information_seconds",
    "duly_batch_size",
    "duly_batch_size_max",
    "duly_batches",
    "duly_calls_failed",
    "duly_drift",
    "duly_energy_joules",
    "duly_engines",
    "duly_event_loop_lag_seconds",
    "duly_feedback",
    "duly_frames_demoted",
    "duly_frames_in_flight",
    "duly_frames_read_apart",
    "duly_frames_refused",
    "duly_gpu_clock_held_down",
    "duly_gpu_clock_hertz",
    "duly_gpu_errors",
    "duly_gpu_memory_size_bytes",
    "duly_gpu_memory_used_bytes",
    "duly_gpu_temperature_celsius",
    "duly_guard_flags",
    "duly_lane_busy_seconds",
    "duly_lane_up",
    "duly_latency_seconds",
    "duly_learner_restarts",
    "duly_learning_attempts",
    "duly_learning_labels",
    "duly_log_lines_lost",
    "duly_outcomes",
    "duly_payload_bytes",
    "duly_queue_depth",
    "duly_recorded_events_lost",
    "duly_samples_bytes",
    "duly_samples_dropped",
    "duly_samples_written",
    "duly_samples_writer_restarts",
    "duly_shared_bytes",
    "duly_slack_seconds",
    "duly_streams_closed",
    "duly_streams_open",
    "duly_streams_opened",
    "duly_trial_agreement_ratio",
    "duly_trial_stage",
    "duly_trials",
    "duly_version_state",
    "duly_wasted_lane_seconds",
    "duly_frames_copied_ahead",
    "duly_worker_restarts",
}
"""Families; a counter's samples end in _total."""


def busy_server() -> Metrics:
    """Counts of every kind, for two models on two lanes."""
    metrics = Metrics()
    metrics.stream_opened("yolo/1")
    metrics.stream_opened("vad/2")
    metrics.stream_closed("vad/2")
    metrics.flagged("yolo/1", ("frozen",))
    metrics.of("yolo/1", CRITICAL).outcome(OutcomeStatus.ON_TIME, 10 * MS, 5 * MS, 30 * MS)
    metrics.of("yolo/1", CRITICAL).outcome(OutcomeStatus.LATE, 40 * MS, -2 * MS, -1)
    metrics.of("yolo/1", STANDARD).outcome(OutcomeStatus.SHED, 1 * MS, 7 * MS, 9 * MS)
    metrics.of("vad/2", STANDARD).outcome(OutcomeStatus.ON_TIME, 2 * MS, 3 * MS, 4 * MS)
    metrics.batch("yolo/1", "cpu:0", 2, 50 * MS, 25 * MS)
    metrics.batch("vad/2", "cpu:1", 1, 1 * MS, 0)
    metrics.batch("vad/2", "cpu:1", 300, 1 * MS, 0)
    metrics.worker_restarted("vad/2", "cpu:1")
    metrics.loop_lag(300_000)
    metrics.set_energy(lambda: {"package-0": 12.5, "psys": 30.0})
    gauges = Gauges(
        queue_depth={"yolo/1": 3},
        frames_in_flight=4,
        bytes_in_flight=5000,
        streams_open={"yolo/1": 1},
        frames_demoted={"yolo/1": 2},
        frames_read_apart={"yolo/1": 5},
        versions={"yolo/1": "READY"},
        sizes_max={("yolo/1", "cuda:0", "fp32"): 4},
        frames_refused={"its stream holds too many bytes": 6},
        engines={("yolo", "made"): 1, ("yolo", "late"): 0},
        calls_failed={"NOT_PERMITTED": 7},
        trials={"yolo/2": ("SHADOW", 0.98)},
        trials_ended={("vad", "ROLLED_BACK"): 1},
        samples=SamplingCounts(Counter(yolo=8), Counter(no_space=9), Counter(JOINED=10), {"samples": 4096}, 2),
        lanes=("cpu:0", "cuda:0"),
        lanes_down={"cuda:0": "GPU is lost"},
        gpus={"cuda:0": Figures("gpu-1", 5, 80, 1_410_000_000, None, 45, frozenset({"power_cap"}))},
        xids={("cuda:0", "device"): 2},
        learning=LearningCounts({("yolo", "input.x"): 1}, {("yolo", "published"): 1}, {"yolo": 400}, 1),
    )
    metrics.set_gauges(lambda: gauges)
    return metrics


def exposition(metrics: Metrics) -> list[Metric]:
    registry = CollectorRegistry()
    registry.register(Families(metrics))
    return list(text_string_to_metric_families(generate_latest(registry).decode()))


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """The value of the one sample with these labels; None where there is none."""
    wanted = {key.rstrip("_"): text for key, text in labels.items()}
    found = [s.value for family in exposition(metrics) for s in family.samples if s.name == name and s.labels == wanted]
    assert len(found) <= 1
    return found[0] if found else None


def test_the_protocols_statistics_are_the_frames_that_were_answered() -> None:
    metrics = busy_server()
    assert sorted(metrics.counts()) == [
        ("vad/2", OutcomeStatus.ON_TIME, STANDARD, 1),
        ("yolo/1", OutcomeStatus.ON_TIME, CRITICAL, 1),
        ("yolo/1", OutcomeStatus.LATE, CRITICAL, 1),
        ("yolo/1", OutcomeStatus.SHED, STANDARD, 1),
    ]
    assert metrics.batches("vad/2") == (2, 301)
    assert metrics.batches("unheard of") == (0, 0)
    assert metrics.lane_busy_ns("cpu:0") == 50 * MS
    assert metrics.lane_busy_ns("cuda:9") == 0
    assert metrics.wasted_ns() == 25 * MS


def test_outcomes_are_told_apart_by_model_class_and_status() -> None:
    metrics = busy_server()
    assert value(metrics, "duly_outcomes_total", model="yolo/1", class_="CRITICAL", status="LATE") == 1
    assert value(metrics, "duly_outcomes_total", model="yolo/1", class_="CRITICAL", status="FAILED") == 0
    assert value(metrics, "duly_outcomes_total", model="yolo/1", class_="BEST_EFFORT", status="LATE") == 0


def test_only_results_have_a_latency_and_only_related_clocks_an_age() -> None:
    metrics = busy_server()
    critical = {"model": "yolo/1", "class_": "CRITICAL"}
    assert value(metrics, "duly_latency_seconds_count", **critical) == 2
    assert value(metrics, "duly_latency_seconds_sum", **critical) == pytest.approx(0.050)
    assert value(metrics, "duly_latency_seconds_count", model="yolo/1", class_="STANDARD") is None
    assert value(metrics, "duly_age_of_information_seconds_count", **critical) == 1
    assert value(metrics, "duly_age_of_information_seconds_sum", **critical) == pytest.approx(0.030)


def test_a_bucket_holds_its_upper_bound_and_all_below() -> None:
    metrics = busy_server()
    critical = {"model": "yolo/1", "class_": "CRITICAL"}
    assert value(metrics, "duly_latency_seconds_bucket", **critical, le="0.0075") == 0
    assert value(metrics, "duly_latency_seconds_bucket", **critical, le="0.01") == 1
    assert value(metrics, "duly_latency_seconds_bucket", **critical, le="+Inf") == 2
    assert value(metrics, "duly_slack_seconds_bucket", **critical, le="-0.005") == 0
    assert value(metrics, "duly_slack_seconds_bucket", **critical, le="-0.002") == 1
    assert value(metrics, "duly_slack_seconds_bucket", **critical, le="0.005") == 2
    assert value(metrics, "duly_batch_size_bucket", model="vad/2", le="256.0") == 1
    assert value(metrics, "duly_batch_size_bucket", model="vad/2", le="+Inf") == 2


def test_lanes_workers_and_gauges_are_exposed() -> None:
    metrics = busy_server()
    assert value(metrics, "duly_lane_busy_seconds_total", lane="cpu:0") == pytest.approx(0.050)
    assert value(metrics, "duly_wasted_lane_seconds_total", lane="cpu:0") == pytest.approx(0.025)
    assert value(metrics, "duly_frames_copied_ahead_total", lane="cpu:0") == 0
    metrics.copied_ahead("cpu:0", 3)
    assert value(metrics, "duly_frames_copied_ahead_total", lane="cpu:0") == 3
    assert value(metrics, "duly_worker_restarts_total", model="vad/2", lane="cpu:1") == 1
    assert value(metrics, "duly_batches_total", model="vad/2") == 2
    assert value(metrics, "duly_streams_opened_total", model="vad/2") == 1
    assert value(metrics, "duly_streams_closed_total", model="vad/2") == 1
    assert value(metrics, "duly_event_loop_lag_seconds_bucket", le="0.0005") == 1
    assert value(metrics, "duly_queue_depth", model="yolo/1") == 3
    assert value(metrics, "duly_streams_open", model="yolo/1") == 1
    assert value(metrics, "duly_frames_demoted_total", model="yolo/1") == 2
    assert value(metrics, "duly_frames_read_apart_total", model="yolo/1") == 5
    assert value(metrics, "duly_frames_in_flight") == 4
    assert value(metrics, "duly_payload_bytes") == 5000
    assert value(metrics, "duly_frames_refused_total", cause="its stream holds too many bytes") == 6
    assert value(metrics, "duly_calls_failed_total", reason="NOT_PERMITTED") == 7
    assert value(metrics, "duly_samples_written_total", model="yolo") == 8
    assert value(metrics, "duly_samples_dropped_total", reason="no_space") == 9
    assert value(metrics, "duly_feedback_total", status="JOINED") == 10
    assert value(metrics, "duly_samples_bytes", kind="samples") == 4096
    assert value(metrics, "duly_samples_writer_restarts_total") == 2


def test_energy_is_told_of_the_devices_that_tell_it() -> None:
    metrics = busy_server()
    assert value(metrics, "duly_energy_joules_total", device="package-0") == 12.5
    assert value(metrics, "duly_energy_joules_total", device="psys") == 30
    assert dict(metrics.energy_joules()) == {"package-0": 12.5, "psys": 30.0}
    assert [family.samples for family in exposition(Metrics()) if family.name == "duly_energy_joules"] == [[]]


def test_lanes_that_are_down_and_how_their_gpus_do() -> None:
    metrics = busy_server()
    assert (value(metrics, "duly_lane_up", lane="cpu:0"), value(metrics, "duly_lane_up", lane="cuda:0")) == (1, 0)
    assert value(metrics, "duly_gpu_errors_total", lane="cuda:0", kind="device") == 2
    of = {"lane": "cuda:0", "device": "gpu-1"}
    assert value(metrics, "duly_gpu_memory_used_bytes", **of) == 5
    assert value(metrics, "duly_gpu_memory_size_bytes", **of) == 80
    assert value(metrics, "duly_gpu_clock_hertz", **of, kind="sm") == 1_410_000_000
    assert value(metrics, "duly_gpu_clock_hertz", **of, kind="memory") is None, "it does not say"
    assert value(metrics, "duly_gpu_temperature_celsius", **of) == 45
    assert value(metrics, "duly_gpu_clock_held_down", **of, reason="power_cap") == 1
    assert value(metrics, "duly_gpu_clock_held_down", **of, reason="idle") == 0


def test_counters_and_gauges_are_there_before_anything_happens() -> None:
    metrics = Metrics()
    metrics.lane_serves("yolo/1", "cpu:0")
    metrics.lane_serves("yolo/1", "cpu:1")
    metrics.set_gauges(lambda: Gauges({}, 0, 0, {}))
    for lane in ("cpu:0", "cpu:1"):
        assert value(metrics, "duly_worker_restarts_total", model="yolo/1", lane=lane) == 0
        assert value(metrics, "duly_lane_busy_seconds_total", lane=lane) == 0
        assert value(metrics, "duly_wasted_lane_seconds_total", lane=lane) == 0
    for name in ("duly_streams_open", "duly_queue_depth", "duly_streams_opened_total", "duly_batches_total"):
        assert value(metrics, name, model="yolo/1") == 0
    for stream_class in StreamClass:
        for status in OutcomeStatus:
            labels = {"model": "yolo/1", "class_": stream_class.name, "status": status.name}
            assert value(metrics, "duly_outcomes_total", **labels) == 0
    metrics.worker_restarted("yolo/1", "cpu:1")
    metrics.lane_serves("yolo/1", "cpu:1")
    assert value(metrics, "duly_worker_restarts_total", model="yolo/1", lane="cpu:1") == 1


def test_guards_are_counted_from_the_load_of_their_model_on() -> None:
    metrics = Metrics()
    metrics.lane_serves("yolo/1", "cpu:0", ("frozen", "blank"))
    metrics.flagged("yolo/1", ())
    assert value(metrics, "duly_guard_flags_total", model="yolo/1", guard="frozen") == 0
    metrics.flagged("yolo/1", ("frozen", "blank"))
    metrics.flagged("yolo/1", ("frozen",))
    assert value(metrics, "duly_guard_flags_total", model="yolo/1", guard="frozen") == 2
    assert value(metrics, "duly_guard_flags_total", model="yolo/1", guard="blank") == 1


def test_an_unloaded_model_leaves_no_series_behind() -> None:
    metrics = busy_server()
    metrics.drop_model("yolo/1")
    metrics.drop_model("never loaded")
    metrics.set_gauges(lambda: Gauges({}, 0, 0, {}))
    # The last frames and streams end after the model, and some may still be open for it.
    metrics.of("yolo/1", CRITICAL).outcome(OutcomeStatus.FAILED, 0, 0, -1)
    metrics.stream_closed("yolo/1")
    metrics.batch("yolo/1", "cuda:0", 1, 1, 0)
    metrics.set_gauges(lambda: Gauges({"yolo/1": 1}, 0, 0, {"yolo/1": 2}))
    labels = [sample.labels for family in exposition(metrics) for sample in family.samples]
    assert [found for found in labels if found.get("model") == "yolo/1"] == []
    assert {model for model, *_ in metrics.counts()} == {"vad/2"}
    metrics.lane_serves("yolo/1", "cuda:0")
    metrics.stream_opened("yolo/1")
    assert any(sample.labels.get("model") == "yolo/1" for family in exposition(metrics) for sample in family.samples)


def test_the_series_follow_the_conventions_of_prometheus() -> None:
    """The rules of `promtool check metrics`: help texts, counters in _total, base units, no types in names."""
    families = exposition(busy_server())
    assert {family.name for family in families} == SERIES
    for family in families:
        assert re.fullmatch(r"duly(_[a-z]+)+", family.name), family.name
        assert family.documentation.endswith("."), family.name
        assert not set(family.name.split("_")) & {"ms", "ns", "milliseconds", "nanoseconds", "gauge", "counter"}
        names = {sample.name for sample in family.samples}
        assert names, family.name
        if family.type == "counter":
            assert names == {f"{family.name}_total"}
        elif family.type == "histogram":
            assert names <= {f"{family.name}_{end}" for end in ("bucket", "sum", "count")}
        else:
            assert (family.type, names) == ("gauge", {family.name})
        for sample in family.samples:
            assert set(sample.labels) <= {
                "cause", "class", "device", "guard", "kind", "lane", "le", "model", "reason", "result", "signal",
                "stage", "state", "status", "variant",
            }  # fmt: skip


def test_every_histogram_rises_to_the_count_of_all() -> None:
    for family in exposition(busy_server()):
        if family.type == "histogram":
            series: dict[tuple[tuple[str, str], ...], list[float]] = {}
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    key = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
                    series.setdefault(key, []).append(sample.value)
            assert all(counts == sorted(counts) for counts in series.values())
            for sample in family.samples:
                if sample.name.endswith("_count"):
                    assert series[tuple(sorted(sample.labels.items()))][-1] == sample.value


def test_a_scrape_gets_the_series_and_those_of_the_process() -> None:
    server = serve_metrics("127.0.0.1:0", busy_server())
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    finally:
        server.stop()
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"duly_outcomes", "duly_queue_depth", "process_cpu_seconds", "process_resident_memory_bytes"} <= names
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", server.port))  # stop has really let go of it


def test_an_address_in_use_is_told_in_plain_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(MetricsError) as caught:
            serve_metrics(address, Metrics())
    assert str(caught.value) == (
        f"metrics cannot be served at {address}: Address already in use: "
        "stop what listens there, or choose another port (0: any free one)"
    )


def test_a_scraper_that_never_comes_to_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte is in time, the whole is not."""
    monkeypatch.setattr("duly.metrics_server.SECONDS_MAX", 0.3)
    server = serve_metrics("127.0.0.1:0", Metrics())
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.settimeout(0.05)
        received = None
        while received is None:
            try:
                slow.sendall(b"G")
                received = slow.recv(100)
            except TimeoutError:
                pass
            except ConnectionError:
                received = b""
        assert received == b""
    server.stop()


def test_a_tally_says_where_the_time_of_frames_went() -> None:
    metrics = busy_server()
    assert metrics.tally("nobody/1") == Tally(by_size=[])
    critical = metrics.of("yolo/1", CRITICAL)
    critical.ran(900 * MS, 2 * MS, 1 * MS, 5 * MS)
    critical.ran(990 * MS, 20 * MS, 3 * MS, 9 * MS)
    metrics.of("yolo/1", STANDARD).ran(950 * MS, 0, 0, 1 * MS)
    for run_ms in (4, 6):
        metrics.batch_times("yolo/1", 2, 1 * MS, run_ms * MS, 3 * MS)
    metrics.batch_times("yolo/1", 1, 1, 2, 3)
    tally = metrics.tally("yolo/1")
    assert (tally.results, tally.results_ns) == (2, 50 * MS)
    assert (tally.failed, tally.failed_ns) == (1, 1 * MS)
    assert (tally.queue_ns, tally.input_ns, tally.run_ns) == (22 * MS, 4 * MS, 15 * MS)
    assert tally.last_ns == 990 * MS
    times = [(size, each.batches, each.input_ns, each.run_ns, each.output_ns) for size, each in tally.by_size]
    assert times == [(1, 1, 1, 2, 3), (2, 2, 2 * MS, 10 * MS, 6 * MS)]
    metrics.drop_model("yolo/1")
    metrics.batch_times("yolo/1", 1, 1, 2, 3)  # its last batch ends after it
    assert metrics.tally("yolo/1") == Tally(by_size=[])
