"""Starts workers with what they are to load, in order to serve it or only to see whether it can be served."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from duly.accelerators import compiles
from duly.models.contents import Fingerprint, how_to_publish
from duly.models.repository import ModelVersion, notes_of_labels
from duly.models.sizes import SizeLimits
from duly.models.trust import Trust
from duly.mps import client_variables
from duly.runtime.engines import Engines, WorkerEngines
from duly.runtime.load_answers import Ready
from duly.runtime.worker_command import worker_environment
from duly.runtime.worker_groups import WorkerGroup
from duly.runtime.worker_load import BUILD_TIMEOUT_SECONDS, OtherContents, WorkerError
from duly.runtime.worker_port import BatchResult, NoRoom
from duly.runtime.worker_process import NO_VARIABLES, Worker
from duly.worker.background import fits

DESCRIBE_SECONDS_MAX = 600.0
"""A graph that is not read after so long is given up."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker runs, and how."""

    cpus: frozenset[int] = frozenset()
    """The processors of its lane; none: those of the server."""
    realtime: bool = False
    """Whether it keeps its memory, and runs before other processes once the server makes it urgent."""
    shares_device: bool = False
    """Whether other lanes are on the same device."""
    device_memory_bytes_max: int = 0
    """What it may take of the memory of its lane's device; 0: what there is. The model or the server may say less."""


ORDINARY = Place()


def start_worker(
    version: ModelVersion,
    lane: str,
    threads: int,
    limits: SizeLimits,
    on_batch: Callable[[int, BatchResult | NoRoom | str], None],
    on_end: Callable[[Worker], None],
    expected: Fingerprint | None = None,
    trust: Trust | None = None,
    background: bool = False,
    group: WorkerGroup | None = None,
    checked: bool = True,
    place: Place = ORDINARY,
    engines: WorkerEngines | None = None,
) -> Worker:
    """Starts a worker that loads all variants of the version. `limits`: what a frame may have on this server. `Worker`
    explains the callbacks and `expected`. `trust`: what the worker may do; None: as without settings. `background`:
    whether it may take its time, as others serve meanwhile. `group`: its control group, which ends with it. `checked`:
    whether the first worker of a version runs its check samples. `place`: where it runs, and how. `engines`: where it
    finds what is compiled for it; None: nothing is kept.

    Raises WorkerError where the system has no room for the process.
    """
    worker = Worker(version.key, lane, version.config.variant_names, on_batch, on_end, expected)
    worker.group, worker.load.engines = group, engines
    worker.load.compiles = compiles(lane, [provider.name for provider in version.config.providers])
    asked: dict[str, Any] = {"limits": limits.model_dump(), "background": background}
    asked["checks"] = checked and expected is None
    asked["group"] = str(group.folder) if group is not None else ""
    asked["engines"] = str(engines.folder) if engines is not None else ""
    asked["cpus"], asked["realtime"] = sorted(place.cpus), place.realtime
    stated = version.config.device_memory_bytes_max, (trust or Trust()).worker_device_memory_bytes_max
    bound_bytes = min(filter(None, stated), default=0)
    asked["device_memory_bytes_max"] = min(filter(None, (bound_bytes, place.device_memory_bytes_max)), default=0)
    variables = client_variables(os.environ, lane, version.config.default_class, bound_bytes)
    asked["stream_class"] = version.config.default_class if place.shares_device and variables else ""
    body = _load_body(version, lane, threads, trust) | asked
    if group is not None and fits(body):
        group.step_back()
    try:
        _start(worker, body, group, variables)
    except WorkerError:
        if engines is not None:
            engines.abandon()
        raise
    return worker


def start_reader(
    version: ModelVersion,
    reads: Sequence[tuple[int, dict[str, Any], str, tuple[int, ...]]],
    on_batch: Callable[[int, BatchResult | NoRoom | str], None],
    on_end: Callable[[Worker], None],
    trust: Trust | None,
    group: WorkerGroup | None,
) -> Worker:
    """Starts a worker that only reads inputs of the version. `reads`: for each, what `worker/read_apart` needs to know.

    Raises WorkerError where the system has no room for the process.
    """
    worker = Worker(version.key, "apart", ["reader"], on_batch, on_end)
    worker.group = group
    body = _load_body(version, "cpu:0", 1, trust) | {"reads": list(reads)}
    body["group"] = str(group.folder) if group is not None else ""
    if group is not None:
        group.step_back()  # for good
    _start(worker, body, group)
    return worker


def _start(
    worker: Worker, body: dict[str, Any], group: WorkerGroup | None, variables: Mapping[str, str] = NO_VARIABLES
) -> None:
    try:
        worker.start(body, variables)
    except WorkerError:
        if group is not None:
            group.remove()
        raise


def _load_body(version: ModelVersion, lane: str, threads: int, trust: Trust | None = None) -> dict[str, Any]:
    return {
        "model": version.key,
        "lane": lane,
        "folder": str(version.folder),
        "model_folder": str(version.model_folder),
        "config": version.config.model_dump(mode="json", by_alias=True),
        "digests": dict(version.digests),
        "threads": version.config.threads or threads,
        "trust": (trust or Trust()).model_dump(mode="json"),
    }


def too_slow(version: ModelVersion, ready: Ready) -> str:
    """Says that one frame takes longer than model.toml allows; empty: it does not."""
    ms_max = version.config.checks.one_ms_max
    samples_ns = ready.variants[0].samples_ns
    median_ms = median(samples_ns[min(samples_ns)]) / 1e6
    if ms_max is None or median_ms <= ms_max:
        return ""
    return (
        f"one frame takes {median_ms:.3g} ms by the median of the warm-up, and checks.one_ms_max of "
        f"{version.name}/model.toml is {ms_max:g}"
    )


def describe_version(version: ModelVersion) -> dict[str, Any]:
    """Returns what `worker.describe` tells of a version: `graph`, `frame` and, where one of them is None, `problem`."""
    command = [sys.executable, "-P", "-m", "duly.worker.describe"]
    environment = worker_environment(os.environ)
    body = json.dumps(_load_body(version, "cpu:0", 1))
    problem = f"{version.key}: its graph cannot be read: the process that reads it "
    try:
        done = subprocess.run(
            command, input=body, capture_output=True, text=True, timeout=DESCRIBE_SECONDS_MAX, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"graph": None, "frame": None, "problem": f"{problem}was not done after {DESCRIBE_SECONDS_MAX:g} s"}
    if done.returncode:
        return {"graph": None, "frame": None, "problem": f"{problem}ended with status {done.returncode}"}
    described = dict(json.loads(done.stdout))
    if described["problem"] is not None:
        described["problem"] = version.told(described["problem"])
    return described


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """What a check found out about a model, or about one version of it."""

    key: str
    """NAME/VERSION, or NAME where the whole model is broken."""
    problem: str | None
    """Why it cannot be served; None: it can be."""
    notes: tuple[str, ...] = ()
    """What its author should know although it can be served."""


async def check_version(
    version: ModelVersion,
    lanes: tuple[str, ...],
    threads: int,
    limits: SizeLimits,
    load_timeout_s: float,
    build_timeout_s: float = BUILD_TIMEOUT_SECONDS,
    trust: Trust | None = None,
    engines: Engines | None = None,
) -> CheckedModel:
    """Loads and warms a version in one worker after another, one for each lane, which must find the same.

    `load_timeout_s`, `build_timeout_s`: for one worker, and how long it may compile engines besides. `engines`: what
    keeps what providers compile; None: nothing does.
    """
    notes: tuple[str, ...] = ()
    expected: Fingerprint | None = None
    for lane in lanes:
        try:
            own = await engines.begin(version.key, lane, version.config) if engines is not None else None
            worker = start_worker(
                version,
                lane,
                threads,
                limits,
                lambda batch_id, result: None,
                lambda worker: None,
                expected,
                trust,
                engines=own,
            )
            try:
                ready = await worker.load.ready(load_timeout_s, build_timeout_seconds=build_timeout_s)
                if own is not None:
                    await own.keep()
                if slow := too_slow(version, ready):
                    return CheckedModel(version.key, slow)
                notes = (*ready.notes, *notes_of_labels(version, ready.signature))
                expected = expected or Fingerprint(worker.load.contents, ready.signature)
            finally:
                if own is not None and worker.load.crashed:
                    await own.distrust()
                await worker.stop()
        except OtherContents as error:
            return CheckedModel(version.key, f"{error}; {how_to_publish(version)}")
        except WorkerError as error:
            return CheckedModel(version.key, version.told(str(error)))
    return CheckedModel(version.key, None, notes)
