"""The host of trials: it tells each trial what happens to its candidate, and does what the trial decides.

A trial decides within the state machine of `duly.trials`; here are the shadow's stream, the canary's streams, the
activation, which admission may refuse, and the way back. Whatever a trial decides is written down by `decided`, with
the figures that it rests on. While no trial is on, nothing here costs a frame anything.

A drain ends no trial: what its frames become says nothing about the candidate. When the server starts again the model
serves with the version that was active, as far as that is remembered (`trial_memory`), and the trial begins anew.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from duly.agreement.choose import NoMeasure, measure_of
from duly.core.types import OutcomeStatus
from duly.models.spec import Signature
from duly.models.trial import Trial as Settings
from duly.runtime.catalogue import CanaryVersion, Catalogue, LoadedVersion, ModelError, VersionState
from duly.runtime.comparing import Comparing
from duly.runtime.driver import Driver
from duly.runtime.model_host import ModelHost
from duly.runtime.outcome import Outcome
from duly.runtime.shadow import HeldBytes, Shadow, ShadowCounts
from duly.runtime.trial_memory import TrialMemory
from duly.trials.canary import drawn
from duly.trials.trial import Effect, Entered, Figures, Promote, Stage, Trial

_log = structlog.get_logger("duly.trials")

TRIALS_MAX = 8
"""So many models may have a version on trial at once."""
ENDED_MAX = 64
"""So many trials that are over are shown."""
LOOK_SECONDS = 1.0
LEAVE_SECONDS_MAX = 10.0
"""Streams of a canary that has ended get so long to send a frame, with which they go back, before the candidate is
unloaded."""
LEAVE_LOOK_SECONDS = 0.2

_ON_TIME = {
    OutcomeStatus.ON_TIME: True,
    OutcomeStatus.LATE: False,
    OutcomeStatus.EXPIRED: False,
    OutcomeStatus.SUPERSEDED: False,
    OutcomeStatus.SHED: False,
    OutcomeStatus.INVALID: False,
    OutcomeStatus.SKIPPED: False,
}
"""Whether ends of frames are a result in time; of others neither version is the cause. What a version finds INVALID, or
skips, is none: a sensor that sends such frames sends them to both."""


@dataclass(frozen=True, slots=True)
class TrialReport:
    """A trial as it is shown."""

    name: str
    version: str
    against: str
    """The version that was active when it began."""
    stage: Stage
    reason: str
    since_unix_ns: int
    """When it came to this stage."""
    began_unix_ns: int
    figures: Figures
    shadow: ShadowCounts


@dataclass(slots=True, eq=False)
class _Running:
    trial: Trial
    candidate: LoadedVersion
    active: LoadedVersion
    settings: Settings
    shadow: Shadow | None = None
    shadow_counts: ShadowCounts = field(default_factory=ShadowCounts)
    began_unix_ns: int = field(default_factory=time.time_ns)
    since_unix_ns: int = field(default_factory=time.time_ns)

    def report(self) -> TrialReport:
        version = self.candidate.version
        return TrialReport(
            version.name,
            version.version,
            self.active.version.version,
            self.trial.stage,
            self.trial.reason,
            self.since_unix_ns,
            self.began_unix_ns,
            self.trial.figures(),
            self.shadow_counts,
        )


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
        self._host = host
        self._catalogue = catalogue
        self._driver = driver
        self.memory = memory
        self._keys = keys
        self._observe = observe
        self._decided = decided
        self._running: dict[str, _Running] = {}
        """By the name of the model."""
        self._ended: dict[str, TrialReport] = {}
        """By NAME/VERSION, the newest last."""
        self.ended_counts: dict[tuple[str, Stage], int] = {}
        """How many trials have ended how, by the name of the model."""
        self._held_bytes = HeldBytes()
        self._comparing = Comparing()
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
            running.candidate.key: (running.trial.stage.name, running.trial.agreement)
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
        settings = loaded.version.config.trial or Settings()
        running = _Running(Trial(settings.rules()), loaded, active, settings)
        self._running[name] = running
        self.memory.tried_again(loaded.key)
        self._observe(self._outcome)
        if not self.memory.lasts:
            _log.warning("what a trial decides is forgotten when the server ends: set state_folder", model=loaded.key)
        now_ns = self._driver.clock()
        if misfit := _misfit(active.signature, loaded.signature):
            self._apply(running, running.trial.broken(now_ns, misfit))
        elif loaded.signature.stateful:
            why = "its model keeps state, so that frames cannot be tried one by one"
            self._apply(running, running.trial.begin(now_ns, why))
        else:
            self._begin_shadow(running, now_ns, loaded.signature)
        return running.report()

    def _begin_shadow(self, running: _Running, now_ns: int, signature: Signature) -> None:
        try:
            measure = measure_of(running.candidate.version.config.task, signature)
        except NoMeasure as error:
            self._apply(running, running.trial.broken(now_ns, f"its answers cannot be compared: {error}"))
            return

        def compared(agreement: float) -> None:  # not called once the shadow is closed, so that a drain decides nothing
            self._apply(running, running.trial.compared(self._driver.clock(), agreement))

        def failed(reason: str) -> None:
            self._apply(running, running.trial.failed(self._driver.clock(), reason))

        running.shadow = Shadow(
            self._driver,
            running.candidate,
            running.active,
            running.settings,
            measure,
            self._held_bytes,
            self._comparing,
            compared,
            failed,
        )
        running.shadow_counts = running.shadow.counts
        self._apply(running, running.trial.begin(now_ns))

    async def veto(self, name: str, version: str, who: str, reason: str) -> TrialReport | None:
        """Ends the trial of a version, or has it never tried by itself. Returns the trial; None: there was none. Raises
        ModelError where the version is active.
        """
        active = self._catalogue.active(name)
        if active is not None and active.version.version == version:
            raise ModelError("TRIAL_REFUSED", f"{name}/{version} is active; go back to another version instead")
        running = self._running.get(name)
        if running is not None and running.candidate.version.version == version:
            self._apply(running, running.trial.vetoed(self._driver.clock(), who, reason))
            return self.report(name, version)
        known = self._catalogue.names()
        if name not in known:
            raise ModelError("MODEL_NOT_FOUND", f"there is no model {name!r}; there are: ", models=known)
        self.memory.not_passed(
            f"{name}/{version}", Stage.VETOED, f"vetoed by {who}" + (f": {reason}" if reason else "")
        )
        return None

    def drifted(self, name: str, reason: str) -> None:
        """Takes that the inputs or outputs of a model are no longer what they were."""
        running = self._running.get(name)
        if running is not None and self._decides(running):
            self._apply(running, running.trial.drifted(self._driver.clock(), reason))

    def drain(self) -> None:
        """Lets no trial decide anything any more, but by a veto."""
        self._draining = True
        self._observe(None)
        for running in self._running.values():
            if running.shadow is not None:
                running.shadow.close()
                running.shadow = None

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
        now_ns = self._driver.clock()
        for running in list(self._running.values()):
            if not self._decides(running):
                continue
            candidate, name = running.candidate, running.candidate.version.name
            active = self._catalogue.active(name)
            if self._catalogue.current(candidate) is not candidate:
                effects = running.trial.broken(now_ns, "it was unloaded")
            elif active is candidate:
                effects = running.trial.activated(now_ns, "it became active by another hand, or as the other failed")
            elif candidate.state is not VersionState.READY:
                why = candidate.error or "it crashed, hung, or answered what makes no sense"
                effects = running.trial.broken(now_ns, f"its worker is lost: {why}")
            elif active is not running.active:
                now = active.version.version if active is not None else "no version"
                effects = running.trial.broken(now_ns, f"{now} became active by another hand")
            elif running.shadow is not None and not running.shadow.sees:
                effects = running.trial.broken(now_ns, "the server failed on a copy for it; see the server's log")
            else:
                effects = running.trial.passed(now_ns)
            self._apply(running, effects)

    def _outcome(self, outcome: Outcome) -> None:
        frame, status = outcome.held.frame, outcome.status
        stream_class = int(outcome.held.stream_class)
        now_ns = self._driver.clock()
        for running in self._running.values():
            trial = running.trial
            if frame.model != running.candidate.key:
                if status in _ON_TIME:
                    same = frame.model == running.active.key
                    effects = trial.other_frame(now_ns, stream_class, _ON_TIME[status], same)
                else:
                    continue
            elif status is OutcomeStatus.FAILED:
                effects = trial.failed(now_ns, outcome.reason)
            elif status in _ON_TIME:
                effects = trial.canary_frame(now_ns, stream_class, _ON_TIME[status])
            else:
                continue
            if effects:  # it may be within a step of the driver
                self._loop.call_soon(self._apply, running, effects)

    # ---- what follows ----

    def _decides(self, running: _Running) -> bool:
        """Whether what happens may still decide the trial."""
        return not self._draining and not running.trial.stage.over

    def _apply(self, running: _Running, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Promote():
                    self._do(f"promotion of {running.candidate.key}", self._promote(running, effect.reason))
                case Entered():
                    self._entered(running, effect.stage)

    def _entered(self, running: _Running, stage: Stage) -> None:
        name = running.candidate.version.name
        running.since_unix_ns = time.time_ns()
        if stage is Stage.CANARY:
            self._do(f"canary of {running.candidate.key}", self._begin_canary(running))
        if stage.over:
            if running.shadow is not None:
                running.shadow.close()
                running.shadow = None
            self._catalogue.end_canary(name)
            report = running.report()
            del self._running[name]
            self._remember(report)
            if not self._running:
                self._observe(None)
            if stage in (Stage.ROLLED_BACK, Stage.VETOED) and running.settings.rolled_back == "UNLOAD":
                self._do(f"end of {running.candidate.key}", self._unload(running.candidate))
        else:
            report = running.report()
        log = _log.warning if stage in (Stage.ROLLED_BACK, Stage.VETOED) else _log.info
        log("trial", model=running.candidate.key, stage=stage.name, reason=report.reason)
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

    async def _begin_canary(self, running: _Running) -> None:
        version = running.candidate.version
        try:
            refusal = await self._host.refusal(version.name, version.version)
        except ModelError as error:
            refusal = str(error)
        if not self._decides(running):
            return
        if refusal:
            self._apply(running, running.trial.broken(self._driver.clock(), refusal))
            return
        settings = running.settings
        everyone = settings.canary_streams == "ALL"
        keys = self._keys(version.name) if everyone else ()
        streams = drawn(running.candidate.key, settings.canary_share, keys)
        self._catalogue.begin_canary(CanaryVersion(running.candidate, streams, everyone))

    async def _promote(self, running: _Running, reason: str) -> None:
        version = running.candidate.version
        try:
            await self._host.activate(version.name, version.version, promotes=lambda: self._decides(running))
        except Exception as error:  # whatever it is, the trial must not wait for its promotion for ever
            if not isinstance(error, ModelError):
                _log.exception("a version cannot be activated", model=running.candidate.key)
            why = str(error) if isinstance(error, ModelError) else f"the server failed on it: {type(error).__name__}"
            if self._decides(running):
                self._apply(running, running.trial.broken(self._driver.clock(), f"not activated: {why}"))
            return
        self._apply(running, running.trial.activated(self._driver.clock(), reason))

    async def _unload(self, candidate: LoadedVersion) -> None:
        """Unloads a candidate that did not pass, once the streams of its canary have gone back. It stays where somebody
        has named it.
        """
        version, until_s = candidate.version, self._loop.time() + LEAVE_SECONDS_MAX
        while True:
            demands = self._driver.scheduler.demands(self._driver.clock())
            mine = [demand for demand in demands if demand.model == candidate.key]
            if self._catalogue.current(candidate) is not candidate or any(demand.pinned for demand in mine):
                return
            if not mine or self._loop.time() > until_s:
                break
            await asyncio.sleep(LEAVE_LOOK_SECONDS)
        if self._catalogue.active(version.name) is candidate or self.on_trial(version.name) == version.version:
            return
        try:
            await self._host.unload(version.name, version.version)
        except ModelError as error:
            _log.warning("a candidate that did not pass stays loaded", model=candidate.key, reason=str(error))

    def _do(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.error("a trial could not go on", task=task.get_name(), exc_info=error)


def _misfit(active: Signature, candidate: Signature) -> str:
    """Why frames of the one version cannot be served by the other; empty: they can."""
    for kind, before, now in (
        ("input", active.inputs, candidate.inputs),
        ("output", active.outputs, candidate.outputs),
    ):
        said = [[f"{spec.name} {spec.datatype}{list(spec.shape)}" for spec in specs] for specs in (before, now)]
        if said[0] != said[1]:
            text = f"its {kind}s are {', '.join(said[1])}, those of the active version {', '.join(said[0])}"
            return f"{text}: whoever follows the active version would have to change; activate it by hand"
    for spec, other in zip(active.inputs, candidate.inputs, strict=True):
        if not set(spec.encodings) <= set(other.encodings):
            return (
                f"its input {spec.name} does not take {', '.join(sorted(set(spec.encodings) - set(other.encodings)))}"
            )
    return ""
