"""A live run as files for other programs: results.json, streams.csv, timeline.csv, frames.csv.gz.

Names are what the scenario says, whatever they hold. Columns end in their unit; a cell is empty where there is nothing.
Every row says whether the run is `valid`, 1 or 0: why it is not stands in results.json.
"""

import gzip
import io
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duly_load.results.formats import replaced, short, write_csv, write_json, write_rows
from duly_load.results.machine import Machine
from duly_load.results.measure import NEVER_SENT, LiveResults
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import LiveRun
from duly_load.results.tally import GOT_RESULT, Tally

FRAMES_MAX = 1_000_000
"""The most rows of frames.csv.gz."""
ENDINGS_MAX = 1000
"""The most streams that ended badly in results.json."""

_OUTCOMES = [outcome.name.lower() for outcome in FrameOutcome]


def write_files(
    folder: Path, run: LiveRun, results: LiveResults, machine: Machine, target_machine: str, version: str = ""
) -> list[str]:
    """Writes the four into `folder`, which must exist; returns what was left out, in words.

    `machine` is the generator's, `target_machine` says in words what the target runs on, `version` is the target's, as
    far as it is known. Raises OSError.
    """
    left_out = [
        f"{file}: has the first {most:,} {what}, {count - most:,} more are left out"
        for file, what, count, most in (
            ("frames.csv.gz", "frames", len(run.schedule.frames), FRAMES_MAX),
            ("results.json", "streams that ended badly", len(run.endings), ENDINGS_MAX),
        )
        if count > most
    ]
    content = _content(run, results, machine, target_machine, version) | {"left_out": left_out}
    write_json(folder / "results.json", content)
    _write_streams(folder / "streams.csv", run, results)
    _write_timeline(folder / "timeline.csv", run)
    _write_frames(folder / "frames.csv.gz", run)
    return left_out


def _content(run: LiveRun, results: LiveResults, machine: Machine, target_machine: str, version: str) -> dict[str, Any]:
    scenario = run.scenario.model_dump(mode="json", by_alias=True)
    for table, sensor in zip(scenario["stream"], run.scenario.stream, strict=True):
        table["class"] = sensor.stream_class.name
    return {
        "valid": not run.problems,
        "problems": list(run.problems),
        "target": run.target,
        "target_version": version,
        "seed": run.seed,
        "begin_unix_ns": run.begin_unix_ns,
        "processes": run.processes,
        "stalled": run.stalled,
        "server_cpu_s": run.server_cpu_s,
        "energy": {
            "joules": run.energy.joules,
            "by_device": dict(run.energy.by_device),
            "seconds": run.energy.seconds,
            "why_not": run.energy.why_not,
        },
        "generator_machine": machine.to_json(),
        "target_machine": target_machine,
        "scenario": scenario,
        "endings": [
            {"at_ns": each.at_ns, "stream": each.stream, "refused": each.refused, "reason": each.reason}
            for each in run.endings[:ENDINGS_MAX]
        ],
        "results": results.to_json(),
    }


def _write_streams(file: Path, run: LiveRun, results: LiveResults) -> None:
    """A row for each stream, in the scenario's order."""
    session_of = {session.name: session for session in run.schedule.sessions}
    header = ["valid", "stream", "class", "model", "budget_ms", "frames", "on_time_ratio", "goodput_per_s", *_OUTCOMES]
    header += ["claimed_late", "latency_p50_ms", "latency_p90_ms", "latency_p99_ms", "latency_max_ms"]
    header += ["age_mean_ms", "age_p99_ms"]

    def row(name: str, tally: Tally) -> list[object]:
        session, latency, age = session_of[name], tally.latency_ms, tally.age_ms
        return [
            int(not run.problems),
            name,
            session.stream_class.name,
            session.model,
            session.budget_ns / 1e6,
            tally.frames,
            short(tally.on_time_ratio),
            short(tally.goodput_per_s),
            *tally.counts.values(),
            tally.claimed_late,
            *(map(short, (latency.p50, latency.p90, latency.p99, latency.max)) if latency else [""] * 4),
            *(map(short, (age.mean, age.p99)) if age else [""] * 2),
        ]

    write_csv(file, header, (row(name, tally) for name, tally in results.by_stream.items()))


def _write_timeline(file: Path, run: LiveRun) -> None:
    """A row for each second in which frames were to arrive, warm-up and all: what became of them."""
    frames, record = run.schedule.frames, run.record
    second_of = frames.arrival_ns // 1_000_000_000
    cuts = np.searchsorted(second_of, np.arange(int(second_of[-1]) + 2 if len(second_of) else 0))
    header = ["valid", "second", "counted", "frames", *_OUTCOMES, "latency_p50_ms", "latency_p99_ms", "lag_p99_ms"]

    def row(second: int) -> list[object]:
        of = slice(cuts[second], cuts[second + 1])
        outcome = record.outcome[of]
        by_number = np.bincount(outcome, minlength=max(FrameOutcome) + 1).tolist()
        latency_ms = record.latency_ns[of][np.isin(outcome, GOT_RESULT)] / 1e6
        lag_ms = record.lag_ns[of][~np.isin(outcome, NEVER_SENT)] / 1e6
        return [
            int(not run.problems),
            second,
            int(second >= run.scenario.warm_s),
            len(outcome),
            *(by_number[each] for each in FrameOutcome),
            *(_percentile(latency_ms, part) for part in (50, 99)),
            _percentile(lag_ms, 99),
        ]

    write_csv(file, header, map(row, range(max(0, len(cuts) - 1))))


def _write_frames(file: Path, run: LiveRun) -> None:
    """A row for each frame in order of arrival, warm-up and all."""
    frames, record, part = run.schedule.frames, run.record, slice(FRAMES_MAX)
    names = ["", *(session.name for session in run.schedule.sessions)]
    columns: dict[str, NDArray[Any]] = {
        "capture_ns": run.schedule.captures_ns,
        "arrival_ns": frames.arrival_ns,
        "deadline_ns": frames.deadline_ns,
        "latency_ns": record.latency_ns,
        "lag_ns": record.lag_ns,
        "blocked_ns": record.blocked_ns,
        "claimed": record.claimed.astype(np.int8),
        "batch_size": record.batch_size,
        "dispatched_ns": record.dispatched_ns,
        "occupied_ns": record.occupied_ns,
    }
    stream_ids = frames.stream_id[part].tolist()
    outcomes = [FrameOutcome(number).name.lower() if number else "" for number in record.outcome[part].tolist()]
    rows = zip(
        repeat(int(not run.problems), len(stream_ids)),
        (names[stream_id] for stream_id in stream_ids),
        stream_ids,
        outcomes,
        *(column[part].tolist() for column in columns.values()),
        strict=True,
    )
    # No name and no time within the archive: equal runs give equal files.
    with (
        replaced(file) as part_file,
        part_file.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(packed, "utf-8", newline="") as lines,
    ):
        write_rows(lines, ["valid", "stream", "session", "outcome", *columns], rows)


def _percentile(values: NDArray[np.float64], part: float) -> str:
    return short(float(np.percentile(values, part))) if len(values) else ""
