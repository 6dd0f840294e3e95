"""How Prometheus reads what the server counts: the names, labels and help texts of all series."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from duly.core.types import OutcomeStatus, StreamClass
from duly.metrics import Gauges, LaneTimes, LearningCounts, Metrics, ModelCounts, SamplingCounts
from duly.nvml.figures import REASONS, Figures

_S = 1_000_000_000


class Families(Collector):
    """All series, as the Prometheus library wants them. It is asked on the scrape's thread, and only reads."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Gives every series."""
        models = self._metrics.models()
        yield from _model_counters(models)
        yield from _model_histograms(models)
        yield from _lane_counters(self._metrics.lanes())
        lag = HistogramMetricFamily("duly_event_loop_lag_seconds", "How late the event loop was for its timers.")
        lag.add_metric([], self._metrics.lag.cumulative(_S), self._metrics.lag.total / _S)
        yield lag
        energy = CounterMetricFamily(
            "duly_energy_joules_total",
            "Energy that a device of this machine has taken, for whatever it did; psys contains the others.",
            labels=["device"],
        )
        for device, joules in self._metrics.energy_joules().items():
            energy.add_metric([device], joules)
        yield energy
        gauges = self._metrics.gauges()
        if gauges is not None:
            yield from _gauges(gauges, models)


def _model_counters(models: Mapping[str, ModelCounts]) -> Iterator[Metric]:
    outcomes = CounterMetricFamily(
        "duly_outcomes_total", "Frames answered, by how they ended.", labels=["model", "status", "class"]
    )
    batches = CounterMetricFamily("duly_batches_total", "Batches that ran.", labels=["model"])
    restarts = CounterMetricFamily(
        "duly_worker_restarts_total", "Workers replaced after a crash or a hang.", labels=["model", "lane"]
    )
    flags = CounterMetricFamily(
        "duly_guard_flags_total",
        "Frames answered on which a guard of the model found something.",
        labels=["model", "guard"],
    )
    opened = CounterMetricFamily("duly_streams_opened_total", "Streams opened.", labels=["model"])
    closed = CounterMetricFamily("duly_streams_closed_total", "Streams that have ended.", labels=["model"])
    for model, counts in models.items():
        for stream_class in StreamClass:
            of_class = counts.classes[stream_class].outcomes
            for status in OutcomeStatus:
                outcomes.add_metric([model, status.name, stream_class.name], of_class[status])
        batches.add_metric([model], sum(counts.batch_size.counts))
        for lane, times in counts.restarts.copy().items():
            restarts.add_metric([model, lane], times)
        for name, frames in counts.flags.copy().items():
            flags.add_metric([model, name], frames)
        opened.add_metric([model], counts.streams_opened)
        closed.add_metric([model], counts.streams_closed)
    yield from (outcomes, batches, restarts, flags, opened, closed)


def _model_histograms(models: Mapping[str, ModelCounts]) -> Iterator[Metric]:
    labels = ["model", "class"]
    latency = HistogramMetricFamily(
        "duly_latency_seconds", "From receipt of a frame to its result's hand-over to the transport.", labels=labels
    )
    slack = HistogramMetricFamily(
        "duly_slack_seconds", "Deadline less the time when the outcome was handed over; negative: late.", labels=labels
    )
    age = HistogramMetricFamily(
        "duly_age_of_information_seconds",
        "From capture of a frame to its result's hand-over, where the client's clock is known.",
        labels=labels,
    )
    size = HistogramMetricFamily("duly_batch_size", "Frames in a batch.", labels=["model"])
    for model, counts in models.items():
        for stream_class in StreamClass:
            of_class = counts.classes[stream_class]
            for family, histogram in ((latency, of_class.latency), (slack, of_class.slack), (age, of_class.age)):
                if any(histogram.counts):
                    family.add_metric([model, stream_class.name], histogram.cumulative(_S), histogram.total / _S)
        size.add_metric([model], counts.batch_size.cumulative(1), counts.batch_size.total)
    yield from (latency, slack, age, size)


def _lane_counters(lanes: Mapping[str, LaneTimes]) -> Iterator[Metric]:
    busy = CounterMetricFamily("duly_lane_busy_seconds_total", "Time in which a lane ran batches.", labels=["lane"])
    wasted = CounterMetricFamily(
        "duly_wasted_lane_seconds_total", "Lane time spent on results that came late.", labels=["lane"]
    )
    ahead = CounterMetricFamily(
        "duly_frames_copied_ahead_total",
        "Frames that were to be copied to a GPU while it still ran the batch before.",
        labels=["lane"],
    )
    for lane, times in lanes.items():
        busy.add_metric([lane], times.busy_ns / _S)
        wasted.add_metric([lane], times.wasted_ns / _S)
        ahead.add_metric([lane], times.copied_ahead)
    yield from (busy, wasted, ahead)


def _gauges(gauges: Gauges, models: Iterable[str]) -> Iterator[Metric]:
    """The gauges now; those of `models` of which there is nothing to tell are 0."""
    waiting = GaugeMetricFamily("duly_queue_depth", "Frames that wait for a lane.", labels=["model"])
    streams = GaugeMetricFamily("duly_streams_open", "Streams that are open.", labels=["model"])
    demoted = CounterMetricFamily(
        "duly_frames_demoted_total",
        "Frames that came faster than their stream's stated period, and so counted as BEST_EFFORT.",
        labels=["model"],
    )
    apart = CounterMetricFamily(
        "duly_frames_read_apart_total", "Frames whose pictures were decoded beside the lanes.", labels=["model"]
    )
    for model in models:  # streams may still be open for one that was unloaded, which has no series any more
        waiting.add_metric([model], gauges.queue_depth.get(model, 0))
        streams.add_metric([model], gauges.streams_open.get(model, 0))
        demoted.add_metric([model], gauges.frames_demoted.get(model, 0))
        apart.add_metric([model], gauges.frames_read_apart.get(model, 0))
    states = GaugeMetricFamily("duly_version_state", "The state that a version is in.", labels=["model", "state"])
    for model, state in gauges.versions.items():
        states.add_metric([model, state], 1)
    sizes = GaugeMetricFamily(
        "duly_batch_size_max",
        "The largest batches for which a lane has memory, where larger ones have failed for want of it.",
        labels=["model", "lane", "variant"],
    )
    for (model, lane, variant), size in gauges.sizes_max.items():
        sizes.add_metric([model, lane, variant], size)
    yield from (waiting, streams, demoted, apart, states, sizes)
    yield GaugeMetricFamily(
        "duly_frames_in_flight", "Frames received and not yet answered.", value=gauges.frames_in_flight
    )
    yield GaugeMetricFamily(
        "duly_payload_bytes", "Payload bytes held for frames in flight.", value=gauges.bytes_in_flight
    )
    yield GaugeMetricFamily(
        "duly_shared_bytes", "Memory shared with clients on this machine.", value=gauges.bytes_shared
    )
    yield CounterMetricFamily(
        "duly_log_lines_lost_total", "Lines of the log that could not be written.", value=gauges.log_lines_lost
    )
    yield CounterMetricFamily(
        "duly_recorded_events_lost_total",
        "Events of the scheduler that are missing in the recording, because its file was too slow or full.",
        value=gauges.recorded_events_lost,
    )
    yield from _trials(gauges)
    refused = CounterMetricFamily(
        "duly_frames_refused_total", "Frames that were answered at the door.", labels=["cause"]
    )
    for cause, count in gauges.frames_refused.items():
        refused.add_metric([cause], count)
    yield refused
    failed = CounterMetricFamily(
        "duly_calls_failed_total", "Calls that ended with an error of the server's, by its reason.", labels=["reason"]
    )
    for reason, count in gauges.calls_failed.items():
        failed.add_metric([reason], count)
    yield failed
    yield from _samples(gauges.samples)
    yield from _learning(gauges.learning)
    yield from _lanes(gauges)
    yield from _gpus(gauges.gpus)
    if gauges.realtime is not None:
        yield from _realtime(gauges.realtime, gauges.realtime_fallbacks)
    yield _engines(gauges.engines)


def _lanes(gauges: Gauges) -> Iterator[Metric]:
    up = GaugeMetricFamily("duly_lane_up", "0: NVML says that the lane's GPU is down; else 1.", labels=["lane"])
    for lane in gauges.lanes:
        up.add_metric([lane], lane not in gauges.lanes_down)
    xids = CounterMetricFamily(
        "duly_gpu_errors_total",
        "Errors of the lane's GPU that the driver has reported (Xids), by whether the device is at fault.",
        labels=["lane", "kind"],
    )
    for (lane, kind), count in gauges.xids.items():
        xids.add_metric([lane, kind], count)
    yield from (up, xids)


def _gpus(gpus: Mapping[str, Figures]) -> Iterator[Metric]:
    labels = ["lane", "device"]
    used = GaugeMetricFamily("duly_gpu_memory_used_bytes", "Memory of a lane's GPU that is taken.", labels=labels)
    size = GaugeMetricFamily("duly_gpu_memory_size_bytes", "Memory of a lane's GPU.", labels=labels)
    clock = GaugeMetricFamily("duly_gpu_clock_hertz", "Clocks of a lane's GPU.", labels=[*labels, "kind"])
    heat = GaugeMetricFamily("duly_gpu_temperature_celsius", "Temperature of a lane's GPU.", labels=labels)
    held = GaugeMetricFamily(
        "duly_gpu_clock_held_down", "1: this holds the clocks of a lane's GPU down.", labels=[*labels, "reason"]
    )
    for lane, figures in gpus.items():
        for family, more, value in (
            (used, [], figures.used_bytes),
            (size, [], figures.total_bytes),
            (clock, ["sm"], figures.sm_hertz),
            (clock, ["memory"], figures.memory_hertz),
            (heat, [], figures.celsius),
        ):
            if value is not None:
                family.add_metric([lane, figures.gpu, *more], value)
        if figures.held_down_by is not None:
            for reason in REASONS.values():
                held.add_metric([lane, figures.gpu, reason], reason in figures.held_down_by)
    yield from (used, size, clock, heat, held)


def _samples(counts: SamplingCounts) -> Iterator[Metric]:
    written = CounterMetricFamily(
        "duly_samples_written_total", "Frames that were kept with their answers.", labels=["model"]
    )
    dropped = CounterMetricFamily(
        "duly_samples_dropped_total", "Frames that were to be kept and were not, by why.", labels=["reason"]
    )
    labels = CounterMetricFamily("duly_feedback_total", "Labels of frames, by what became of them.", labels=["status"])
    size = GaugeMetricFamily("duly_samples_bytes", "What kept frames take on the disk.", labels=["kind"])
    for family, values in (
        (written, counts.written),
        (dropped, counts.dropped),
        (labels, counts.labels),
        (size, counts.bytes),
    ):
        for name, value in dict(values).items():
            family.add_metric([name], value)
    yield from (written, dropped, labels, size)
    yield CounterMetricFamily(
        "duly_samples_writer_restarts_total",
        "How often the process that keeps frames has ended.",
        value=counts.restarts,
    )


def _engines(counts: Mapping[tuple[str, str], int]) -> Metric:
    family = CounterMetricFamily(
        "duly_engines_total",
        "Engines that workers have made, used again, or made while frames waited (late).",
        labels=["model", "result"],
    )
    for (model, how), count in counts.items():
        family.add_metric([model, how], count)
    return family


def _realtime(urgent: bool, fallbacks: Mapping[str, int]) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "duly_realtime", "1: server and workers run before other processes; 0: that was taken back.", value=urgent
    )
    taken = CounterMetricFamily(
        "duly_realtime_fallbacks_total",
        "Times that real time was taken back from the server or a worker.",
        labels=["of"],
    )
    for name, count in fallbacks.items():
        taken.add_metric([name], count)
    yield taken


def _learning(learning: LearningCounts) -> Iterator[Metric]:
    drifts = CounterMetricFamily("duly_drift_total", "Times that a signal has drifted.", labels=["model", "signal"])
    for (model, signal), count in learning.drifts.items():
        drifts.add_metric([model, signal], count)
    attempts = CounterMetricFamily(
        "duly_learning_attempts_total", "Attempts at a new version, by how they ended.", labels=["model", "result"]
    )
    for (model, result), count in learning.attempts.items():
        attempts.add_metric([model, result], count)
    labels = GaugeMetricFamily("duly_learning_labels", "Labels that the learner knows of.", labels=["model"])
    for model, count in learning.labels.items():
        labels.add_metric([model], count)
    yield from (drifts, attempts, labels)
    yield CounterMetricFamily(
        "duly_learner_restarts_total", "Times that the process that learns has ended.", value=learning.restarts
    )


def _trials(gauges: Gauges) -> Iterator[Metric]:
    stages = GaugeMetricFamily(
        "duly_trial_stage", "The stage of a version that is on trial.", labels=["model", "stage"]
    )
    agreement = GaugeMetricFamily(
        "duly_trial_agreement_ratio",
        "Mean agreement of a version that is on trial with the active one.",
        labels=["model"],
    )
    for model, (stage, mean) in gauges.trials.items():
        stages.add_metric([model, stage], 1)
        agreement.add_metric([model], mean)
    ended = CounterMetricFamily("duly_trials_total", "Trials that are over, by their end.", labels=["model", "stage"])
    for (name, stage), count in gauges.trials_ended.items():
        ended.add_metric([name, stage], count)
    yield from (stages, agreement, ended)
