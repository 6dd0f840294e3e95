"""When frames are captured: one schedule per stream, made before anything runs, from a seed.

Theory of operation. Each kind is a unit process, whose points come one a unit on average, seen through a rate that may
change over time: a point u lies at the time t at which the number of frames expected so far, the integral of the rate,
reaches u. So a step of the load, the states of an MMPP and a clock's drift are all one thing, a change of the rate, and
streams that were in phase before a step still are after it.

Every stream draws from generators of its own, made from the seed and its index: another stream more, or a change to
another one, leaves its schedule as it was, bit for bit.

Out of scope: diurnal patterns and correlation between streams other than a shared trigger.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationInfo, field_validator

from duly_load.scenario.mcap_log import message_times_ns

TRACE_BYTES_MAX = 64 * 2**20
DURATION_S_MAX = 86_400.0

Floats = NDArray[np.float64]

RateHz = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]
DwellS = Annotated[float, Field(ge=0.01, le=DURATION_S_MAX, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
DelayMs = Annotated[float, Field(ge=0, le=60_000, allow_inf_nan=False)]

_CAPTURES, _SESSIONS, _DELAYS, _TRIGGER = range(0xA0, 0xA4)
"""The purpose of a generator, which is part of its seed."""


class Table(BaseModel):
    """One table of a scenario."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class Draw:
    """What the schedule of one stream is drawn from: `index` distinguishes it from all other streams of the seed."""

    seed: int
    index: tuple[int, ...]
    duration_ns: int
    steps: tuple[tuple[int, float], ...] = ()
    """(at_ns, factor) in order of time: from then on rates are this many times what the stream says."""

    def rng(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, *self.index])

    @property
    def duration_s(self) -> float:
        return self.duration_ns / 1e9


def beside_scenario(file: Path, info: ValidationInfo) -> Path:
    """`file` relative to the folder of the scenario that names it."""
    return Path((info.context or {}).get("folder", "."), file)


def read_trace(file: Path, topic: str = "") -> Floats:
    """Sorted times in s; `topic`: of an .mcap. Raises ValueError that says what is wrong with the file."""
    if file.suffix not in (".npy", ".csv", ".mcap"):
        raise ValueError("should be a .npy, .csv or .mcap file")
    if topic and file.suffix != ".mcap":
        raise ValueError("should be an .mcap file, since topic is there")
    try:
        if file.suffix == ".mcap":
            return message_times_ns(file, topic) / 1e9
        content = file.read_bytes() if file.stat().st_size <= TRACE_BYTES_MAX else None
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror}") from error
    if content is None:
        raise ValueError(f"should be at most {TRACE_BYTES_MAX >> 20} MiB")
    try:
        raw = np.load(BytesIO(content), allow_pickle=False) if file.suffix == ".npy" else content.decode().split()
        times = np.sort(np.asarray(raw, np.float64))
    except (TypeError, ValueError, EOFError) as error:
        raise ValueError(f"should hold numbers: {error}") from error
    if times.ndim != 1 or not len(times) or not np.all(np.isfinite(times)) or times[0] < 0:
        raise ValueError("should hold one or more finite times of 0 s or later, one a row")
    return times


def _phase(value: object) -> str | float:
    if value in ("random", "locked"):
        return str(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    raise ValueError("should be random, locked or the first capture in ms")


class _Rated(Table):
    rate_hz: RateHz
    """The mean rate, where a kind does not say otherwise."""

    def frames_expected(self, duration_s: float) -> float:
        return self.rate_hz * duration_s


class Periodic(_Rated):
    """A sensor with a clock of its own, or one that shares a trigger with others."""

    kind: Literal["periodic"]
    phase: Annotated[str | float, PlainValidator(_phase)] = "random"
    """random; locked: the stream fires at the instants of its group's trigger; or the first capture in ms."""
    group: str = ""
    """Streams whose phase is locked share one trigger, that is one phase and one drift, by this name."""
    jitter_ms: DelayMs = 0.0
    """Standard deviation of each capture round its ideal time, normal, cut off at three of them."""
    drift_ppm: Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)] = 0.0
    """The clock is wrong by a constant that is uniform within plus and minus this."""
    loss: Share = 0.0
    """The probability that a frame never comes."""

    @field_validator("phase")
    @classmethod
    def _within_period(cls, phase: str | float, info: ValidationInfo) -> str | float:
        period_ms = 1e3 / info.data.get("rate_hz", 1e-9)
        if not isinstance(phase, str) and phase >= period_ms:
            raise ValueError(f"should be less than the period, which is {period_ms:g} ms")
        return phase

    def times_s(self, draw: Draw) -> Floats:
        rng = draw.rng(_CAPTURES)
        clock = rng
        if self.phase == "locked":
            clock = np.random.default_rng([draw.seed, _TRIGGER, zlib.crc32(self.group.encode())])
        instant_s, drift = float(clock.uniform(0, 1)), float(clock.uniform(-1, 1)) * self.drift_ppm * 1e-6
        if self.phase == "random":
            phase = float(rng.uniform(0, 1))
        elif self.phase == "locked":
            phase = instant_s * self.rate_hz % 1.0
        else:
            phase = float(self.phase) / 1e3 * self.rate_hz
        curve = _Rate.constant(self.rate_hz / (1 + drift), draw)
        times = curve.at(np.arange(phase, curve.expected, 1.0))
        if self.jitter_ms:
            times = np.sort(times + np.clip(rng.standard_normal(len(times)), -3, 3) * self.jitter_ms / 1e3)
        return times[rng.random(len(times)) >= self.loss] if self.loss else times


class Poisson(_Rated):
    """Independent frames."""

    kind: Literal["poisson"]

    def times_s(self, draw: Draw) -> Floats:
        return _poisson(draw.rng(_CAPTURES), _Rate.constant(self.rate_hz, draw))


class Gamma(_Rated):
    """A renewal process whose gaps are Gamma distributed; the larger `cv`, the burstier."""

    kind: Literal["gamma"]
    cv: Annotated[float, Field(ge=1, le=8, allow_inf_nan=False)]
    """The standard deviation of the gaps over their mean."""

    def times_s(self, draw: Draw) -> Floats:
        rng = draw.rng(_CAPTURES)
        curve = _Rate.constant(self.rate_hz, draw)
        shape = self.cv**-2
        # What is left of the gap that holds time zero: its length is biased by length, which for Gamma is one more
        # of shape. Without it the process would start in a burst, since short gaps are the many.
        first = float(rng.uniform(0, 1) * rng.gamma(shape + 1) / shape)
        return curve.at(_until(curve.expected, lambda count: rng.gamma(shape, 1 / shape, count), first))


class Mmpp(_Rated):
    """Two-state Markov-modulated Poisson process: frames are Poisson at a rate that jumps between two levels."""

    kind: Literal["mmpp"]
    rates: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    """Rates of the two states relative to each other; they are scaled so that the mean is `rate_hz`."""
    dwell_s: tuple[DwellS, DwellS]
    """The mean time in each state before it changes, which is exponential."""

    def times_s(self, draw: Draw) -> Floats:
        rng = draw.rng(_CAPTURES)
        starts_s, state = _alternate(rng, self.dwell_s, draw.duration_s)
        rates, dwell_s = np.array(self.rates), np.array(self.dwell_s)
        rates_hz = rates * self.rate_hz * dwell_s.sum() / (rates @ dwell_s)
        return _poisson(rng, _Rate.steps(starts_s, rates_hz[state], draw))


class OnOff(_Rated):
    """A sensor that sends at a fixed rate, `rate_hz`, while something is going on, and nothing in between."""

    kind: Literal["on_off"]
    on_s: DwellS
    off_s: DwellS
    """Mean length of bursts and of the pauses between them, exponential."""

    def frames_expected(self, duration_s: float) -> float:
        return self.rate_hz * duration_s * self.on_s / (self.on_s + self.off_s)

    def times_s(self, draw: Draw) -> Floats:
        rng = draw.rng(_CAPTURES)
        starts_s, state = _alternate(rng, (self.on_s, self.off_s), draw.duration_s)
        curve = _Rate.steps(starts_s, np.where(state == 0, self.rate_hz, 0.0), draw)
        return curve.at(np.arange(rng.uniform(0, 1), curve.expected, 1.0))


class Trace(Table):
    """Captures as they were recorded; steps of the load do not change them."""

    kind: Literal["trace"]
    topic: str = ""
    """The topic of the .mcap; it may be left out where there is only one."""
    file: Annotated[Path, AfterValidator(beside_scenario)]
    """Times in s since the start of the run: .npy, or .csv of one time a line; or a log, .mcap: when the messages of
    `topic` were logged, since the log's first of any topic. Relative to the scenario's folder.
    """

    @field_validator("file")
    @classmethod
    def _readable(cls, file: Path, info: ValidationInfo) -> Path:
        read_trace(file, info.data.get("topic", ""))
        return file

    def frames_expected(self, duration_s: float) -> float:
        return int(np.searchsorted(read_trace(self.file, self.topic), duration_s))

    def times_s(self, draw: Draw) -> Floats:
        return read_trace(self.file, self.topic)


Arrivals = Annotated[Periodic | Poisson | Gamma | Mmpp | OnOff | Trace, Field(discriminator="kind")]


class Churn(Table):
    """The stream comes and goes: its client opens it, closes it for good after a while, and opens another later."""

    lifetime_s: DwellS
    gap_s: DwellS
    """The mean times that it is open and away, which are exponential."""


class Network(Table):
    """The way from capture to arrival. Frames of one stream never overtake each other."""

    delay_ms: DelayMs = 0.0
    """The delay of every frame."""
    jitter_ms: DelayMs = 0.0
    """The mean of the additional delay, exponential, cut off at ten times that."""


def capture_times_ns(arrivals: Arrivals, draw: Draw) -> NDArray[np.int64]:
    """Capture times of one stream within [0, duration), sorted, ns."""
    times_ns = np.rint(arrivals.times_s(draw) * 1e9).astype(np.int64)
    return times_ns[(times_ns >= 0) & (times_ns < draw.duration_ns)]


def sessions_ns(churn: Churn | None, draw: Draw) -> list[tuple[int, int]]:
    """(opened, closed) of each time that the stream is open, in order; one over the whole duration without churn."""
    if churn is None:
        return [(0, draw.duration_ns)]
    starts_s, state = _alternate(draw.rng(_SESSIONS), (churn.lifetime_s, churn.gap_s), draw.duration_s)
    edges_ns = [*np.rint(starts_s * 1e9).astype(np.int64).tolist(), draw.duration_ns]
    return [(edges_ns[index], edges_ns[index + 1]) for index in range(len(state)) if state[index] == 0]


def arrival_times_ns(captures_ns: NDArray[np.int64], network: Network, draw: Draw) -> NDArray[np.int64]:
    """When frames captured at these times arrive, sorted, ns."""
    delays_ms = np.full(len(captures_ns), network.delay_ms)
    if network.jitter_ms:
        delays_ms += np.minimum(draw.rng(_DELAYS).standard_exponential(len(captures_ns)), 10) * network.jitter_ms
    return np.maximum.accumulate(captures_ns + np.rint(delays_ms * 1e6).astype(np.int64))


@dataclass(frozen=True, slots=True)
class _Rate:
    """A rate that is constant between edges, as the number of frames expected by each edge."""

    edges_s: Floats
    expected_by: Floats

    @classmethod
    def constant(cls, rate_hz: float, draw: Draw) -> "_Rate":
        return cls.steps(np.zeros(1), np.array([rate_hz]), draw)

    @classmethod
    def steps(cls, starts_s: Floats, rates_hz: Floats, draw: Draw) -> "_Rate":
        """`rates_hz` hold from `starts_s` on, the first of which is 0; times the steps of the load."""
        factor_s = np.array([0.0, *(at_ns / 1e9 for at_ns, _ in draw.steps)])
        factors = np.array([1.0, *(factor for _, factor in draw.steps)])
        lefts_s = np.unique(np.concatenate((starts_s, factor_s[factor_s < draw.duration_s])))
        rates_hz = rates_hz[np.searchsorted(starts_s, lefts_s, "right") - 1]
        rates_hz = rates_hz * factors[np.searchsorted(factor_s, lefts_s, "right") - 1]
        edges_s = np.append(lefts_s, draw.duration_s)
        return cls(edges_s, np.concatenate(([0.0], np.cumsum(np.diff(edges_s) * rates_hz))))

    @property
    def expected(self) -> float:
        return float(self.expected_by[-1])

    def at(self, units: Floats) -> Floats:
        """Times in s of the points of a unit process, each less than `expected`."""
        return np.interp(units, self.expected_by, self.edges_s)


def _poisson(rng: np.random.Generator, curve: _Rate) -> Floats:
    return curve.at(_until(curve.expected, rng.standard_exponential))


def _until(end: float, gaps: Callable[[int], Floats], first: float | None = None) -> Floats:
    """Points less than `end` of the process that has these gaps; `first`: its first point, else a gap after 0."""
    points = np.array([0.0 if first is None else first])
    while points[-1] < end:
        more = gaps(int(end - points[-1]) + 64)
        points = np.concatenate((points, points[-1] + np.cumsum(more)))
    points = points[1:] if first is None else points
    return points[points < end]


def _alternate(
    rng: np.random.Generator, means_s: tuple[float, float], duration_s: float
) -> tuple[Floats, NDArray[Any]]:
    """Starts in s, the first at 0, of exponential dwells in states 0 and 1 in turn, and the states; stationary."""
    state = int(rng.uniform(0, means_s[0] + means_s[1]) >= means_s[0])
    both_s = means_s if state == 0 else means_s[::-1]
    cycles = int(duration_s / sum(means_s)) + 16
    starts_s = np.zeros(1)
    while starts_s[-1] < duration_s:
        dwells_s = (rng.standard_exponential((cycles, 2)) * both_s).ravel()
        starts_s = np.concatenate((starts_s, starts_s[-1] + np.cumsum(dwells_s)))
    starts_s = starts_s[starts_s < duration_s]
    return starts_s, (np.arange(len(starts_s)) + state) % 2
