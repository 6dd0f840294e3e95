"""Starts workers with what they are to load, in order to serve it or only to see whether it can be served."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from duly.models.repository import ModelVersion, notes_of_labels
from duly.models.sizes import SizeLimits
from duly.runtime.worker_command import worker_environment
from duly.runtime.worker_port import BatchResult
from duly.runtime.worker_process import Worker, WorkerError

CHECK_SECONDS_MAX = 600.0
"""A check gives up on a worker that is not ready after so long."""


def start_worker(
    version: ModelVersion,
    lane: str,
    threads: int,
    limits: SizeLimits,
    on_batch: Callable[[int, BatchResult | str], None],
    on_end: Callable[[Worker], None],
) -> Worker:
    """Starts a worker that loads all variants of the version. `limits`: what a frame may have on this server. `Worker`
    explains the callbacks.

    Raises WorkerError where the system has no room for the process.
    """
    worker = Worker(version.key, lane, version.config.variant_names, on_batch, on_end)
    worker.start(_load_body(version, lane, threads) | {"limits": limits.model_dump()})
    return worker


def _load_body(version: ModelVersion, lane: str, threads: int) -> dict[str, Any]:
    return {
        "model": version.key,
        "lane": lane,
        "folder": str(version.folder),
        "model_folder": str(version.model_folder),
        "config": version.config.model_dump(mode="json", by_alias=True),
        "threads": version.config.threads or threads,
    }


def describe_version(version: ModelVersion) -> dict[str, Any]:
    """Returns what `worker.describe` tells of a version: `graph`, `frame` and, where one of them is None, `problem`."""
    command, environ = [sys.executable, "-P", "-m", "duly.worker.describe"], worker_environment(os.environ)
    body = json.dumps(_load_body(version, "cpu:0", 1))
    problem = f"{version.key}: its graph cannot be read: the process that reads it "
    try:
        done = subprocess.run(
            command, input=body, env=environ, capture_output=True, text=True, timeout=CHECK_SECONDS_MAX
        )
    except subprocess.TimeoutExpired:
        return {"graph": None, "frame": None, "problem": f"{problem}was not done after {CHECK_SECONDS_MAX:g} s"}
    if done.returncode:
        return {"graph": None, "frame": None, "problem": f"{problem}ended with status {done.returncode}"}
    return dict(json.loads(done.stdout))


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
    version: ModelVersion, lanes: tuple[str, ...], threads: int, limits: SizeLimits
) -> CheckedModel:
    """Loads and warms a version in one worker after another, one for each lane."""
    notes: tuple[str, ...] = ()
    for lane in lanes:
        try:
            worker = start_worker(version, lane, threads, limits, lambda batch_id, result: None, lambda worker: None)
            try:
                ready = await worker.ready(CHECK_SECONDS_MAX)
                notes = (*ready.notes, *notes_of_labels(version, ready.signature))
            finally:
                await worker.stop()
        except WorkerError as error:
            return CheckedModel(version.key, str(error))
    return CheckedModel(version.key, None, notes)
