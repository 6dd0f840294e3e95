"""Starts workers with what they are to load, in order to serve it or only to see whether it can be served."""

from collections.abc import Callable
from dataclasses import dataclass

from duly.models.contents import Fingerprint, how_to_publish
from duly.models.repository import ModelVersion
from duly.models.sizes import SizeLimits
from duly.runtime.worker_port import BatchResult
from duly.runtime.worker_process import OtherContents, Worker, WorkerError


def start_worker(
    version: ModelVersion,
    lane: str,
    threads: int,
    limits: SizeLimits,
    on_batch: Callable[[int, BatchResult | str], None],
    on_end: Callable[[Worker], None],
    expected: Fingerprint | None = None,
) -> Worker:
    """Starts a worker that loads all variants of the version. `limits`: what a frame may have on this server. `Worker`
    explains the callbacks and `expected`.

    Raises WorkerError where the system has no room for the process.
    """
    worker = Worker(version.key, lane, version.config.variant_names, on_batch, on_end, expected)
    worker.start(
        {
            "model": version.key,
            "lane": lane,
            "folder": str(version.folder),
            "model_folder": str(version.model_folder),
            "config": version.config.model_dump(mode="json", by_alias=True),
            "threads": version.config.threads or threads,
            "limits": limits.model_dump(),
        }
    )
    return worker


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
    version: ModelVersion, lanes: tuple[str, ...], threads: int, limits: SizeLimits, load_timeout_s: float
) -> CheckedModel:
    """Loads and warms a version in one worker after another, one for each lane, which must find the same.

    `load_timeout_s`: for one worker.
    """
    notes: tuple[str, ...] = ()
    expected: Fingerprint | None = None
    for lane in lanes:
        try:
            worker = start_worker(
                version, lane, threads, limits, lambda batch_id, result: None, lambda worker: None, expected
            )
            try:
                ready = await worker.ready(load_timeout_s)
                notes = ready.notes
                expected = expected or Fingerprint(worker.contents, ready.signature)
            finally:
                await worker.stop()
        except OtherContents as error:
            return CheckedModel(version.key, f"{error}; {how_to_publish(version)}")
        except WorkerError as error:
            return CheckedModel(version.key, str(error))
    return CheckedModel(version.key, None, notes)
