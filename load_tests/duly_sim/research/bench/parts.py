"""What the benchmark measures of the server, part by part, each a function from running servers to figures.

Figures of one part are taken in alternating rounds, floor and server side by side, so that a machine that gets slower
or busier does so for both; every figure keeps all its rounds. Ratios are formed within a round.

The floor is there twice: the null echo with gRPC as anybody gets it, and with duly's own settings of the transport.

What this does not know: the speed of other machines, a network, a GPU, other servers, real weights.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from duly_load.targets.duly_and_floor import OwnServer
from duly_load.targets.models import THREADS
from duly_sim.research.bench.client import ClientError, Load, LoadClient, LoadResult
from duly_sim.research.bench.servers import LARGE_INPUT, SMALL, BenchModel

BUSY_STREAMS = 16
BUSY_WINDOW = 8
BUSY = Load(SMALL.name, SMALL.frame_bytes, streams=BUSY_STREAMS, window=BUSY_WINDOW)
"""More frames in flight than the small model can answer at once."""
MESSAGE_FRAMES = 16
MESSAGES = replace(BUSY, window=2 * MESSAGE_FRAMES, message_frames=MESSAGE_FRAMES)
"""The same with many frames in each message."""
TURN_SECONDS = 1.0
"""The duration of either phase of loads that alternate."""
TURNS_COMPARED = 10
"""The turns that are compared at the beginning and at the end."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often to measure."""

    rounds: int
    seconds: float
    """The duration of one measurement of latency or throughput."""
    warmup_seconds: float
    turns: int
    """The number of turns of loads that alternate."""

    @property
    def turns_compared(self) -> int:
        """The turns that are compared at either end."""
        return min(TURNS_COMPARED, self.turns // 2)


FULL = Effort(rounds=5, seconds=5.0, warmup_seconds=1.0, turns=200)
QUICK = Effort(rounds=2, seconds=1.0, warmup_seconds=0.3, turns=4)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a part measures with."""

    client: LoadClient
    repository: Path
    duly: OwnServer
    null_echo: OwnServer
    tuned_echo: OwnServer
    effort: Effort
    advance: Callable[[str], None]
    """A function that is called before each measurement with its description."""

    def timed(self, load: Load) -> Load:
        """The same for as long as is to be measured."""
        return replace(load, seconds=self.effort.seconds, warmup_seconds=self.effort.warmup_seconds)

    def load(self, server: OwnServer, load: Load) -> LoadResult:
        """One run of the load client. Raises ClientError where frames went unanswered."""
        result = self.client.run(server.address.endpoint, load)
        if result.unanswered:
            raise ClientError(f"{server.version}: {result.unanswered} frames of {load.model} were never answered")
        return result


@dataclass(slots=True)
class Row:
    """One figure and its value in each round."""

    label: str
    unit: str
    values: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Part:
    """Figures that belong together, in the order in which they first came up, and what they were made from."""

    key: str
    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)

    def add(self, label: str, unit: str, value: float) -> None:
        """One more round of a figure."""
        for row in self.rows:
            if row.label == label:
                row.values.append(value)
                return
        self.rows.append(Row(label, unit, [value]))

    def keep(self, name: str, result: LoadResult) -> None:
        """Everything that the load client said, for the JSON."""
        self.runs.append({"name": name, **asdict(result)})


def latency(setup: Setup) -> Part:
    """p50 of the server less that of the null echo and of the bare model: what the server itself adds."""
    part = Part("latency", "Added latency: one stream, one frame at a time")
    for model in (SMALL, LARGE_INPUT):
        size = f"{model.frame_bytes / 1000:.0f} KB"
        for _ in range(setup.effort.rounds):
            setup.advance(f"latency, {size}: bare model")
            bare = _bare_run(setup, model)
            setup.advance(f"latency, {size}: null echo")
            echo = setup.load(setup.null_echo, _one_at_a_time(setup, model))
            setup.advance(f"latency, {size}: null echo with duly's settings")
            tuned = setup.load(setup.tuned_echo, _one_at_a_time(setup, model))
            setup.advance(f"latency, {size}: duly")
            served = setup.load(setup.duly, _one_at_a_time(setup, model))
            part.keep(f"null_echo {size}", echo)
            part.keep(f"tuned_echo {size}", tuned)
            part.keep(f"duly {size}", served)
            part.add(f"{size}: bare model, p50", "ms", bare["p50_ms"])
            part.add(f"{size}: null echo, p50", "ms", echo.latency_ms["p50"])
            part.add(f"{size}: null echo with duly's settings, p50", "ms", tuned.latency_ms["p50"])
            part.add(f"{size}: duly, p50", "ms", served.latency_ms["p50"])
            part.add(f"{size}: duly, p99", "ms", served.latency_ms["p99"])
            floor_ms = echo.latency_ms["p50"] + bare["p50_ms"]
            part.add(f"{size}: added, p50", "ms", served.latency_ms["p50"] - floor_ms)
            tuned_floor_ms = tuned.latency_ms["p50"] + bare["p50_ms"]
            part.add(f"{size}: added to duly's settings, p50", "ms", served.latency_ms["p50"] - tuned_floor_ms)
    _note_refusals(part)
    return part


def throughput(setup: Setup) -> Part:
    """Frames a second through a small model, against the null echo."""
    title = f"Throughput: {BUSY_STREAMS} streams x {BUSY_WINDOW} frames of 1 KB in flight"
    return _throughput(setup, Part("throughput", title), BUSY)


def messages(setup: Setup) -> Part:
    """The same where each message has many frames."""
    title = (
        f"Throughput: {BUSY_STREAMS} streams x {MESSAGES.window} frames of 1 KB in flight, {MESSAGE_FRAMES} a message"
    )
    return _throughput(setup, Part("messages", title), MESSAGES)


def _throughput(setup: Setup, part: Part, load: Load) -> Part:
    load = setup.timed(load)
    for _ in range(setup.effort.rounds):
        setup.advance(f"{part.key}: null echo")
        echo, echo_us = _with_cpu(setup, setup.null_echo, load)
        setup.advance(f"{part.key}: null echo with duly's settings")
        tuned, tuned_us = _with_cpu(setup, setup.tuned_echo, load)
        setup.advance(f"{part.key}: duly")
        served, served_us = _with_cpu(setup, setup.duly, load)
        part.keep("null_echo", echo)
        part.keep("tuned_echo", tuned)
        part.keep("duly", served)
        part.add("null echo", "frames/s", echo.frames_per_s)
        part.add("null echo with duly's settings", "frames/s", tuned.frames_per_s)
        part.add("duly, on time", "frames/s", served.on_time_per_s)
        part.add("duly / null echo", "ratio", _ratio(served.on_time_per_s, echo.frames_per_s))
        part.add("duly / null echo with its settings", "ratio", _ratio(served.on_time_per_s, tuned.frames_per_s))
        part.add("null echo, CPU a frame", "µs", echo_us)
        part.add("null echo with duly's settings, CPU a frame", "µs", tuned_us)
        part.add("duly, CPU a frame, with its workers", "µs", served_us)
        part.add("duly, p50", "ms", served.latency_ms["p50"])
        part.add("duly, p99", "ms", served.latency_ms["p99"])
    _note_refusals(part)
    return part


def _with_cpu(setup: Setup, server: OwnServer, load: Load) -> tuple[LoadResult, float]:
    """One run, and the processor time of the server for each of its frames in µs, those of the warm-up among them."""
    before_s = server.cpu_s()
    result = setup.load(server, load)
    frames = result.frames_per_s * (load.seconds + load.warmup_seconds)
    return result, 1e6 * _ratio(server.cpu_s() - before_s, frames)


def alternation(setup: Setup) -> Part:
    """Throughput in the busy phases of a load that goes from one frame in flight to many and back, at last and at
    first: a server that takes one for the other ends with batches of one for good. The floor beside it at either end
    shows whether the machine has changed meanwhile.
    """
    turns, compared = setup.effort.turns, setup.effort.turns_compared
    part = Part(
        "alternation",
        f"Alternating loads: {turns} turns of one frame in flight and of {BUSY_STREAMS} streams x {BUSY_WINDOW}",
    )
    single = Load(SMALL.name, SMALL.frame_bytes, seconds=TURN_SECONDS, warmup_seconds=0.0)
    busy = replace(BUSY, seconds=TURN_SECONDS, warmup_seconds=0.0)
    per_s: list[float] = []
    for turn in range(turns):
        setup.advance(f"alternating loads: turn {turn + 1} of {turns}")
        part.keep("duly, single", setup.load(setup.duly, single))
        served = setup.load(setup.duly, busy)
        part.keep("duly, busy", served)
        per_s.append(served.on_time_per_s)
        end = "first" if turn < compared else "last" if turn >= turns - compared else ""
        if end:
            echo = setup.load(setup.null_echo, busy)
            part.keep("null_echo, busy", echo)
            part.add(f"duly, busy, {end} {compared} turns", "frames/s", served.on_time_per_s)
            part.add(f"null echo, {end} {compared} turns", "frames/s", echo.frames_per_s)
            part.add(
                f"duly / null echo, {end} {compared} turns", "ratio", _ratio(served.on_time_per_s, echo.frames_per_s)
            )
    first = median(per_s[:compared])
    for value in per_s[-compared:]:
        part.add("duly, last turns over the first ones' median", "ratio", _ratio(value, first))
    for value in per_s:
        part.add("duly, busy, all turns", "frames/s", value)
    _note_refusals(part)
    return part


def _one_at_a_time(setup: Setup, model: BenchModel) -> Load:
    effort = setup.effort
    return Load(model.name, model.frame_bytes, seconds=effort.seconds, warmup_seconds=effort.warmup_seconds)


def _bare_run(setup: Setup, model: BenchModel) -> dict[str, float]:
    command = [sys.executable, "-P", "-m", "duly_sim.research.bench.bare_run", str(model.file(setup.repository))]
    command += ["--threads", str(THREADS), "--seconds", str(setup.effort.seconds)]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=setup.effort.seconds + 60.0,
        check=False,
        start_new_session=True,
    )
    if run.returncode != 0:
        raise ClientError(f"{' '.join(command)}: status {run.returncode}: {run.stderr.strip()[-2000:]}")
    figures: dict[str, float] = json.loads(run.stdout)
    return figures


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _outcomes(runs: list[dict[str, Any]]) -> str:
    """Counts by status over several runs, zeros left out."""
    totals: dict[str, int] = {}
    for run in runs:
        for status, count in run["outcomes"].items():
            totals[status] = totals.get(status, 0) + count
    return ", ".join(f"{status} {count:,}" for status, count in totals.items() if count)


def _note_refusals(part: Part) -> None:
    """A figure for speed means little where frames were not served."""
    served = [run for run in part.runs if run["name"].startswith("duly")]
    if any(run["outcomes"]["ON_TIME"] < run["answered"] for run in served):
        part.notes.append(f"not every frame was served on time: {_outcomes(served)}")
