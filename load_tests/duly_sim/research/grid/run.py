"""Runs jobs in processes of their own and keeps what they found, so that a long grid can be stopped and gone on with.

Results lie in cells.jsonl, one a line, under what was run and a fingerprint of the code that it was run by: after a
change of the scheduler, the simulator, the baselines or the grid nothing old is taken for new.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duly.core
import duly_load.results
import duly_load.scenario
import duly_sim
from duly.core import scheduler
from duly_sim.research.grid.judge import Job

UNTOUCHED = ("duly_sim/report", "duly_sim/cli", "duly_sim/research/sim_vs_live")
"""The paths that can't change a figure."""


class JobRunner:
    """A `Measure`. `jobs_max`: processes at a time; 1 runs everything in this one. `progress(done, of)` is called.

    `kept`: the file of results; None: they are kept in memory alone.
    """

    def __init__(
        self, jobs_max: int, kept: Path | None = None, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self._jobs_max = jobs_max
        self._kept = kept
        self._progress = progress
        self._fingerprint = fingerprint() if kept else ""
        self._known: dict[str, Any] = self._read() if kept else {}

    def __call__(self, jobs: Sequence[Job]) -> list[Any]:
        todo = list({job.key: job for job in jobs if job.key not in self._known}.values())
        done = len(jobs) - len(todo)
        self._tell(done, len(jobs))
        if self._jobs_max == 1 or len(todo) == 1:
            for job in todo:
                self._keep(job, job.run())
                done += 1
                self._tell(done, len(jobs))
        elif todo:
            # Spawned, as the server's workers are: nothing of this process is in them.
            with ProcessPoolExecutor(self._jobs_max, mp_context=get_context("spawn")) as pool:
                running = {pool.submit(job.run): job for job in todo}
                try:
                    for future in as_completed(running):
                        self._keep(running[future], future.result())
                        done += 1
                        self._tell(done, len(jobs))
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        return [self._known[job.key] for job in jobs]

    def _tell(self, done: int, of: int) -> None:
        if self._progress is not None:
            self._progress(done, of)

    def _keep(self, job: Job, result: Any) -> None:
        line = json.dumps({"code": self._fingerprint, "job": job.key, "result": result})
        # As it will be read again, so that a grid in one go and one in pieces judge the same.
        self._known[job.key] = json.loads(line)["result"]
        if self._kept is not None:
            with self._kept.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def _read(self) -> dict[str, Any]:
        known: dict[str, Any] = {}
        if self._kept is None or not self._kept.exists():
            return known
        with self._kept.open("rb+") as file:
            whole = 0
            for index, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    # Cut off where the grid was stopped while it wrote.
                    file.truncate(whole)
                    break
                whole += len(line)
                try:
                    kept_line = json.loads(line)
                    if kept_line["code"] == self._fingerprint:
                        known[kept_line["job"]] = kept_line["result"]
                except (ValueError, TypeError, KeyError) as error:
                    raise ValueError(f"{self._kept}: line {index} is no result of a grid") from error
        return known


def fingerprint() -> str:
    """The hash of all that figures come from: the scheduler's source, whether that is compiled, and the simulator's."""
    digest = sha256(str(scheduler.__file__.endswith(".py")).encode())
    for package in (duly.core, duly_load.results, duly_load.scenario, duly_sim):
        (folder,) = package.__path__
        for file in sorted(Path(folder).rglob("*.py")):
            place = f"{package.__name__}/{file.relative_to(folder).as_posix()}"
            if not place.startswith(UNTOUCHED):
                digest.update(place.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
