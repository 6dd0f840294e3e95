"""What the server counts.

The event loop counts every frame in plain ints and lists. The scrape's thread copies them, and names, labels and adds
them up (`metric_families`). So no lock and no object of the Prometheus library is on a frame's way. Each copy is one
step under the interpreter lock: two numbers of one scrape may be a frame apart, but no number is torn.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from duly.core.fates import RESULTS
from duly.core.types import OutcomeStatus, StreamClass
from duly.counts import BatchTimes, ClassCounts, Histogram
from duly.nvml.figures import Figures

_MS = 1_000_000
_CLASSES = max(StreamClass) + 1

LAG_BOUNDS_NS = tuple(int(ms * _MS) for ms in (0.1, 0.25, 0.5, 1, 2, 5, 10, 25, 50, 100, 250, 1000))
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper bounds of the buckets of batch sizes; a model may allow at most 256."""

DROPPED_MAX = 1024
"""Of so many unloaded models it is remembered that they leave no series."""


@dataclass(slots=True)
class ModelCounts:
    """Counts of one version of a model."""

    classes: list[ClassCounts] = field(default_factory=lambda: [ClassCounts() for _ in range(_CLASSES)])
    """Counts of the streams of each class, indexed by the number of the class."""
    batch_size: Histogram = field(default_factory=lambda: Histogram(BATCH_BOUNDS))
    by_size: dict[int, BatchTimes] = field(default_factory=dict)
    """Times of the batches of each size that ran."""
    restarts: dict[str, int] = field(default_factory=dict)
    """Number of replaced workers on each lane."""
    flags: dict[str, int] = field(default_factory=dict)
    """Number of frames on which each guard found something."""
    streams_opened: int = 0
    streams_closed: int = 0


@dataclass(slots=True)
class LaneTimes:
    """Time that one lane spent on batches, and the part of it that was wasted on late results."""

    busy_ns: int = 0
    wasted_ns: int = 0
    copied_ahead: int = 0
    """Frames that its workers were told to copy to the device before their batch began."""


@dataclass(slots=True)
class SamplingCounts:
    """What was kept of frames and what was not, since the server's start."""

    written: Counter[str] = field(default_factory=Counter)
    """Frames on the disk, by the name of the model."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Frames that were to be kept and were not, by reason."""
    labels: Counter[str] = field(default_factory=Counter)
    """What became of labels, by the name of the status."""
    bytes: Mapping[str, int] = field(default_factory=dict)
    """What samples (`samples`) and stores of models that learn (`store`) take on the disk, as last heard."""
    restarts: int = 0
    """How often the process that writes them has ended."""


@dataclass(frozen=True, slots=True)
class LearningCounts:
    """What the learner has said, by model."""

    drifts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """How often a signal has drifted, by model and signal."""
    attempts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Attempts at new versions, by model and result."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Labels that were taken since the learner began."""
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Gauges:
    """Figures that go up and down, as they are now."""

    queue_depth: Mapping[str, int]
    """Number of frames that wait for a lane, by model."""
    frames_in_flight: int
    bytes_in_flight: int
    """Payload bytes that are held for frames in flight."""
    streams_open: Mapping[str, int]
    """Number of open streams, by model."""
    frames_demoted: Mapping[str, int] = field(default_factory=dict)
    """Number of frames that came faster than their streams' stated periods, by model."""
    frames_read_apart: Mapping[str, int] = field(default_factory=dict)
    """Number of frames whose pictures were decoded beside the lanes, by model."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """The state of each version, by model; of a model that cannot be read, by its name alone."""
    sizes_max: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    """The largest batches for which there is memory, by model, lane and variant, where larger ones have failed."""
    log_lines_lost: int = 0
    """Number of lines of the log that nobody took."""
    recorded_events_lost: int = 0
    """Number of the scheduler's events that are missing in the recording."""
    frames_refused: Mapping[str, int] = field(default_factory=dict)
    """Number of frames that were answered at the door, by cause."""
    trials: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    """Stage and mean agreement of the versions that are on trial, by model."""
    trials_ended: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Number of trials that are over, by the name of the model and the stage in which they ended."""
    calls_failed: Mapping[str, int] = field(default_factory=dict)
    """Number of calls that ended with an error of the server's, by its reason."""
    bytes_shared: int = 0
    """Memory that is shared with clients on this machine."""
    samples: SamplingCounts = field(default_factory=SamplingCounts)
    """What was kept of frames."""
    learning: LearningCounts = field(default_factory=LearningCounts)
    """What is learnt from frames."""
    realtime: bool | None = None
    """Whether the server and its workers run before other processes; None: nobody has asked for it."""
    engines: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Engines by the model and what became of them."""
    realtime_fallbacks: Mapping[str, int] = field(default_factory=dict)
    """How often that was taken back, by whose it was."""
    lanes: Sequence[str] = ()
    """All lanes."""
    lanes_down: Mapping[str, str] = field(default_factory=dict)
    """Why lanes are down, those that are."""
    gpus: Mapping[str, Figures] = field(default_factory=dict)
    """How the GPUs of lanes do, by lane."""
    xids: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Number of errors that NVIDIA's driver has reported of the GPU of a lane, by lane and by what they are of."""


@dataclass(slots=True)
class Tally:
    """What became of the frames of one version of a model, with times in all."""

    by_size: list[tuple[int, BatchTimes]]
    """(frames in a batch, times of such batches), by size."""
    results: int = 0
    results_ns: int = 0
    """From receipt to hand-over. `queue_ns`, `input_ns` and `run_ns` are parts of it, one after another."""
    failed: int = 0
    """Frames that ended without a result, whatever the reason."""
    failed_ns: int = 0
    queue_ns: int = 0
    input_ns: int = 0
    run_ns: int = 0
    last_ns: int = 0
    """When the last result was handed over, on the server's monotonic clock; 0: there was none."""


class Metrics:
    """Counts since start. Only the event loop writes them; any thread may read them."""

    def __init__(self) -> None:
        self._models: dict[str, ModelCounts] = {}
        self._dropped: dict[str, None] = {}
        """Models that were unloaded, the newest last."""
        self._lanes: dict[str, LaneTimes] = {}
        self.lag = Histogram(LAG_BOUNDS_NS)
        """How late the event loop was for its timers."""
        self._gauges: Callable[[], Gauges] | None = None
        self._energy: Callable[[], Mapping[str, float]] = dict

    # ---- what happens ----

    def of(self, model: str, stream_class: StreamClass) -> ClassCounts:
        """Returns the counts of the frames of a model's streams of one class."""
        return (self._models.get(model) or self._of(model)).classes[stream_class]

    def batch(self, model: str, lane: str, size: int, busy_ns: int, wasted_ns: int) -> None:
        """Counts a batch that held its lane for `busy_ns`, of which `wasted_ns` went into results that came late."""
        (self._models.get(model) or self._of(model)).batch_size.add(size)
        times = self._lanes.get(lane)
        if times is None:
            times = self._lanes[lane] = LaneTimes()
        times.busy_ns += busy_ns
        times.wasted_ns += wasted_ns

    def copied_ahead(self, lane: str, frames: int) -> None:
        """Counts frames of a batch that its worker was told to copy to the device before it began."""
        times = self._lanes.get(lane)
        if times is None:
            times = self._lanes[lane] = LaneTimes()
        times.copied_ahead += frames

    def batch_times(self, model: str, size: int, input_ns: int, run_ns: int, output_ns: int) -> None:
        """Counts how long a batch took that ran: until it did, while it did, and until its results were here."""
        by_size = (self._models.get(model) or self._of(model)).by_size
        times = by_size.get(size)
        if times is None:
            times = by_size[size] = BatchTimes()
        times.add(input_ns, run_ns, output_ns)

    def flagged(self, model: str, guards: Sequence[str]) -> None:
        """Counts a frame that was answered and on which these guards had found something."""
        if guards:
            flags = (self._models.get(model) or self._of(model)).flags
            for name in guards:
                flags[name] = flags.get(name, 0) + 1

    def loop_lag(self, lag_ns: int) -> None:
        """Counts a timer for which the event loop was late by `lag_ns`."""
        self.lag.add(lag_ns)

    def stream_opened(self, model: str) -> None:
        self._of(model).streams_opened += 1

    def stream_closed(self, model: str) -> None:
        self._of(model).streams_closed += 1

    def lane_serves(self, model: str, lane: str, guards: Sequence[str] = ()) -> None:
        """Makes the counters of a model on a lane begin at 0, so that their first event is a rise like any other.
        `guards`: the names of the model's guards.
        """
        self._dropped.pop(model, None)
        counts = self._of(model)
        counts.restarts.setdefault(lane, 0)
        for name in guards:
            counts.flags.setdefault(name, 0)
        self._lanes.setdefault(lane, LaneTimes())

    def worker_restarted(self, model: str, lane: str) -> None:
        """Counts a worker that crashed or hung and was replaced."""
        restarts = self._of(model).restarts
        restarts[lane] = restarts.get(lane, 0) + 1

    def drop_model(self, model: str) -> None:
        """Forgets the counts of a model that is unloaded for good, so that there are no more labels than models."""
        self._models.pop(model, None)
        self._dropped.pop(model, None)
        self._dropped[model] = None
        if len(self._dropped) > DROPPED_MAX:
            del self._dropped[next(iter(self._dropped))]

    def set_gauges(self, source: Callable[[], Gauges]) -> None:
        """Sets what gives the gauges. It is called at every scrape, on the scrape's thread, so it must only read."""
        self._gauges = source

    def set_energy(self, source: Callable[[], Mapping[str, float]]) -> None:
        """Sets what gives the joules that each device has taken. Any thread may call it, so it must only read."""
        self._energy = source

    def _of(self, model: str) -> ModelCounts:
        counts = self._models.get(model)
        if counts is None:
            if model in self._dropped:  # its last frames and streams end after it, and must not bring it back
                return ModelCounts()
            counts = self._models[model] = ModelCounts()
        return counts

    # ---- what the statistics of the protocol and Prometheus read ----

    def models(self) -> dict[str, ModelCounts]:
        """Returns the counts of each version of a model, as they go on."""
        return self._models.copy()

    def lanes(self) -> dict[str, LaneTimes]:
        """Returns the times of each lane, as they go on."""
        return self._lanes.copy()

    def gauges(self) -> Gauges | None:
        """Returns the gauges as they are now; None: nobody gives any."""
        return self._gauges() if self._gauges is not None else None

    def counts(self) -> Iterator[tuple[str, OutcomeStatus, StreamClass, int]]:
        """Gives (model, status, class, number of frames) for every way in which frames ended."""
        for model, counts in self._models.copy().items():
            for stream_class in StreamClass:
                for status in OutcomeStatus:
                    frames = counts.classes[stream_class].outcomes[status]
                    if frames:
                        yield model, status, stream_class, frames

    def batches(self, model: str) -> tuple[int, int]:
        """Returns the number of batches that ran, and the number of frames in them."""
        counts = self._models.get(model)
        return (sum(counts.batch_size.counts), counts.batch_size.total) if counts else (0, 0)

    def tally(self, model: str) -> Tally:
        """Returns what became of the frames of a model, as a copy."""
        counts = self._models.get(model) or ModelCounts()
        tally = Tally(by_size=sorted(counts.by_size.items()))
        for of_class in counts.classes:
            answered = sum(of_class.outcomes)
            results = sum(of_class.outcomes[status] for status in RESULTS)
            tally.results += results
            tally.results_ns += of_class.latency.total
            tally.failed += answered - results
            tally.failed_ns += of_class.failed_ns
            tally.queue_ns += of_class.queue_ns
            tally.input_ns += of_class.input_ns
            tally.run_ns += of_class.run_ns
            tally.last_ns = max(tally.last_ns, of_class.last_ns)
        return tally

    def lane_busy_ns(self, lane: str) -> int:
        times = self._lanes.get(lane)
        return times.busy_ns if times else 0

    def wasted_ns(self) -> int:
        """Time that all lanes together spent on results that came late."""
        return sum(times.wasted_ns for times in self._lanes.copy().values())

    def energy_joules(self) -> Mapping[str, float]:
        """Returns what each device has taken since the server began to look; empty: no device tells."""
        return self._energy()
