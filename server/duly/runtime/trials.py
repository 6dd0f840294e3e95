"""The host of trials: which versions are on trial, what was decided, and what people and clients ask for. What happens
is told to each trial, which does the rest (`running_trial`). Whatever a trial decides is written down by `decided`,
with the figures that it rests on. While no trial is on, nothing here costs a frame anything.

A drain ends no trial: what its frames become says nothing about the candidate. When the server starts again the model
serves with the version that was active, as far as that is remembered (`trial_memory`), and the trial begins anew.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import structlog

from duly.runtime.catalogue import Catalogue, LoadedVersion, ModelError, VersionState
from duly.runtime.comparing import Comparing
from duly.runtime.driver import Driver
from duly.runtime.model_host import ModelHost
from duly.runtime.outcome import Outcome
from duly.runtime.running_trial import Means, RunningTrial, TrialReport
from duly.runtime.shadow import HeldBytes
from duly.runtime.trial_memory import TrialMemory
from duly.trials.accuracy import LabelledFrame
from duly.trials.trial import Stage

_log = structlog.get_logger("duly.trials")

TRIALS_MAX = 8
"""So many models may have a version on trial at once."""
ENDED_MAX = 64
"""So many trials that are over are shown."""
LOOK_SECONDS = 1.0


class Trials:
    def __init__(
        self,
        host: ModelHost,
        catalogue: Catalogue,
        driver: Driver,
        memory: TrialMemory,
        keys: Callable[[str], Iterable[str]],
        observe: Callable[[Callable[[Outcome], None] | None], None],
        decided: Callable[[TrialReport], None],
    ) -> None:
        """`keys(name)` gives the keys of the open streams of a model that state no version. `observe(outcome)` sets who
        is called with each outcome as its client gets it; None: nobody. `decided(report)` is called whenever a trial
        comes to another stage.
        """
        self._catalogue = catalogue
        self.memory = memory
        self._observe = observe
        self._decided = decided
        self._running: dict[str, RunningTrial] = {}
        """By the name of the model."""
        self._ended: dict[str, TrialReport] = {}
        """By NAME/VERSION, the newest last."""
        self.ended_counts: dict[tuple[str, Stage], int] = {}
        """How many trials have ended how, by the name of the model."""
        self._held_bytes = HeldBytes()
        self._comparing = Comparing()
        self._means = Means(host, catalogue, driver, keys, self._held_bytes, self._comparing, self._do)
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self._loop = asyncio.get_running_loop()
        host.on_trial = self.on_trial
        host.first = memory.first

    # ---- what is asked ----

    def on_trial(self, name: str) -> str:
        """Returns the number of the model's version that is on trial; empty: none is."""
        running = self._running.get(name)
        return running.candidate.version.version if running is not None else ""

    def report(self, name: str, version: str) -> TrialReport | None:
        """Returns the trial of that version, the last one; None: there was none, or it is long over."""
        running = self._running.get(name)
        if running is not None and running.candidate.version.version == version:
            return running.report()
        return self._ended.get(f"{name}/{version}")

    def reports(self) -> list[TrialReport]:
        """Returns all trials, those that are over first."""
        return [*self._ended.values(), *[running.report() for running in self._running.values()]]

    def stages(self) -> dict[str, tuple[str, float]]:
        """Returns the stage and the agreement of each version that is on trial, by NAME/VERSION. It may be called from
        any thread.
        """
        return {
            running.candidate.key: (running.stage.name, running.trial.agreement)
            for running in list(self._running.values())
        }

    # ---- beginning and ending ----

    async def begin(self, loaded: LoadedVersion) -> TrialReport:
        """Begins the trial of a version that is loaded, and not active. Raises ModelError."""
        name, version = loaded.version.name, loaded.version.version
        active = self._catalogue.active(name)
        if self._draining:
            raise ModelError("TRIAL_REFUSED", "the server drains, and no trial begins any more")
        if candidate := self.on_trial(name):
            raise ModelError("TRIAL_REFUSED", f"{name}/{candidate} is on trial already")
        if loaded.state is not VersionState.READY or loaded.signature is None:
            raise ModelError("MODEL_NOT_READY", f"{loaded.key} is not ready: {loaded.error or 'it is being loaded'}")
        if active is None or active.signature is None or not active.serves:
            raise ModelError("TRIAL_REFUSED", f"no version of {name} serves, with which {version} could be compared")
        if active is loaded:
            raise ModelError("TRIAL_REFUSED", f"{loaded.key} is active already")
        if len(self._running) >= TRIALS_MAX:
            text = f"{TRIALS_MAX} trials are on already: {', '.join(sorted(self._running))}"
            raise ModelError("TRIAL_REFUSED", text)
        running = self._running[name] = RunningTrial(self._means, loaded, active, self._entered)
        self.memory.tried_again(loaded.key)
        self._observe(self._outcome)
        if not self.memory.lasts:
            _log.warning("what a trial decides is forgotten when the server ends: set state_folder", model=loaded.key)
        running.begin(active.signature, loaded.signature)
        return running.report()

    async def veto(self, name: str, version: str, who: str, reason: str) -> TrialReport | None:
        """Ends the trial of a version, or has it never tried by itself. Returns the trial; None: there was none. Raises
        ModelError where the version is active.
        """
        active = self._catalogue.active(name)
        if active is not None and active.version.version == version:
            raise ModelError("TRIAL_REFUSED", f"{name}/{version} is active; go back to another version instead")
        running = self._running.get(name)
        if running is not None and running.candidate.version.version == version:
            running.vetoed(who, reason)
            return self.report(name, version)
        known = self._catalogue.names()
        if name not in known:
            raise ModelError("MODEL_NOT_FOUND", f"there is no model {name!r}; there are: ", models=known)
        self.memory.not_passed(
            f"{name}/{version}", Stage.VETOED, f"vetoed by {who}" + (f": {reason}" if reason else "")
        )
        return None

    def judges_labels(self) -> dict[str, tuple[str, float]]:
        """Returns of which models, by name, labels are wanted now, and by which output and threshold they say what was
        right; an empty output is the only one that may be it.
        """
        judges = {name: running.judges_labels for name, running in self._running.items()}
        return {name: judged for name, judged in judges.items() if judged is not None}

    def labelled(self, frame: LabelledFrame) -> None:
        """Takes what a label says of a frame."""
        running = self._running.get(frame.model.partition("/")[0])
        if running is not None:
            running.labelled(frame)

    def drifted(self, name: str, reason: str) -> None:
        """Takes that the inputs or outputs of a model are no longer what they were."""
        running = self._running.get(name)
        if running is not None:
            running.drifted(reason)

    def drain(self) -> None:
        """Lets no trial decide anything any more, but by a veto."""
        self._draining = True
        self._observe(None)
        for running in self._running.values():
            running.drain()

    async def close(self) -> None:
        self.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._comparing.close()
        await self.memory.close()

    # ---- what happens ----

    async def watch(self) -> None:
        """Follows what becomes of the versions, for ever."""
        async for _ in self._catalogue.changes():
            self.look()

    async def tick(self) -> None:
        """Lets time pass for the trials, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Tells the trials what has become of their versions, and that time has passed."""
        for loaded in self._catalogue.all_versions():
            name = loaded.version.name
            if loaded.version.config.trial is not None and self._catalogue.active(name) is loaded:
                self.memory.activated(name, loaded.version.version)
        for running in list(self._running.values()):
            running.look()

    def _outcome(self, outcome: Outcome) -> None:
        for running in self._running.values():
            running.outcome(outcome)

    # ---- what follows ----

    def _entered(self, running: RunningTrial) -> None:
        """Notes that a trial has come to another stage."""
        report = running.report()
        if report.stage.over:
            del self._running[report.name]
            self._remember(report)
            if not self._running:
                self._observe(None)
        log = _log.warning if report.stage in (Stage.ROLLED_BACK, Stage.VETOED) else _log.info
        log("trial", model=running.candidate.key, stage=report.stage.name, reason=report.reason)
        self._decided(report)
        self._catalogue.notify()

    def _remember(self, report: TrialReport) -> None:
        key = f"{report.name}/{report.version}"
        if report.stage is not Stage.ACTIVE:
            self.memory.not_passed(key, report.stage, report.reason)
        self._ended.pop(key, None)
        self._ended[key] = report
        if len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        counted = report.name, report.stage
        self.ended_counts[counted] = self.ended_counts.get(counted, 0) + 1

    def _do(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.error("a trial could not go on", task=task.get_name(), exc_info=error)
