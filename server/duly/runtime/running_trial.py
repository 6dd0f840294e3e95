"""What is done for one trial: the shadow's stream, the canary's streams and their turns, the activation, which
admission may refuse, and the way back. What it decides follows from the state machine of `duly.trials`.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from random import Random
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
from duly.trials.accuracy import LabelledFrame
from duly.trials.alike import Alike
from duly.trials.canary import drawn
from duly.trials.comparison import By, Comparison
from duly.trials.switchback import Switchback
from duly.trials.trial import Effect, Entered, Figures, Promote, Stage, Trial, TurnChanged

_log = structlog.get_logger("duly.trials")

LEAVE_SECONDS_MAX = 10.0
"""Streams of a canary that has ended get so long to send a frame, with which they go back, before the candidate is
unloaded."""
LEAVE_LOOK_SECONDS = 0.2
TURN_SECONDS_MIN = 0.01
"""A turn that is due is waited for at least so long, whatever the clock says."""

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


@dataclass(frozen=True, slots=True)
class Means:
    """What all trials work with."""

    host: ModelHost
    catalogue: Catalogue
    driver: Driver
    keys: Callable[[str], Iterable[str]]
    """Returns the keys of the open streams of a model that state no version."""
    held_bytes: HeldBytes
    comparing: Comparing
    do: Callable[[str, Coroutine[Any, Any, None]], None]
    """Does something that takes its time, under that name."""


class RunningTrial:
    def __init__(
        self,
        means: Means,
        candidate: LoadedVersion,
        active: LoadedVersion,
        entered: "Callable[[RunningTrial], None]",
    ) -> None:
        """`entered(trial)` is called whenever it has come to another stage."""
        self.candidate = candidate
        self.active = active
        self.settings, self._rules = _settings(candidate, active)
        """By what it is judged, and whose rules these are where they are not the model's."""
        self.drains = False
        """Whether the server drains, so that nothing but a veto may decide any more."""
        self.shadow: Shadow | None = None
        self._shadow_counts = ShadowCounts()
        self._means = means
        self._entered = entered
        self._loop = asyncio.get_running_loop()
        self._key, self._active_key = candidate.key, active.key
        self._turn: asyncio.TimerHandle | None = None
        self._began_unix_ns = self._since_unix_ns = time.time_ns()
        self.trial = Trial(self.settings.rules(), self._comparison())

    def _comparison(self) -> Comparison:
        candidate, active, settings = self.candidate, self.active, self.settings
        if settings.canary_streams == "NEW":
            return Alike(settings.on_time_worse_max, 'canary_streams = "NEW"')
        stateful = candidate.signature is None or candidate.signature.stateful
        if stateful and not (candidate.takes_state_of(active) and active.takes_state_of(candidate)):
            return Alike(settings.on_time_worse_max, "their state cannot be carried over")
        lot = Random(os.urandom(16))  # nobody can tell when they have their turns
        return Switchback(settings.on_time_worse_max, round(settings.canary_block_s * 1e9), lot)

    @property
    def stage(self) -> Stage:
        return self.trial.stage

    @property
    def decides(self) -> bool:
        """Whether what happens may still decide it."""
        return not self.drains and not self.trial.stage.over

    def report(self) -> TrialReport:
        version = self.candidate.version
        return TrialReport(
            version.name,
            version.version,
            self.active.version.version,
            self.trial.stage,
            self.trial.reason,
            self._since_unix_ns,
            self._began_unix_ns,
            self.trial.figures(),
            self._shadow_counts,
        )

    # ---- what happens ----

    def begin(self, active: Signature, candidate: Signature) -> None:
        """Begins, with what the two versions take and give."""
        now_ns = self._means.driver.clock()
        if misfit := _misfit(active, candidate):
            self._apply(self.trial.broken(now_ns, misfit))
        elif candidate.stateful:
            why = "its model keeps state, so that frames cannot be tried one by one"
            self._apply(self.trial.begin(now_ns, why, self._rules))
        else:
            self._begin_shadow(now_ns, candidate)

    def _begin_shadow(self, now_ns: int, signature: Signature) -> None:
        try:
            measure = measure_of(self.candidate.version.config.task, signature)
        except NoMeasure as error:
            self._apply(self.trial.broken(now_ns, f"its answers cannot be compared: {error}"))
            return
        means = self._means

        def compared(agreement: float) -> None:  # not called once the shadow is closed, so that a drain decides nothing
            self._apply(self.trial.compared(means.driver.clock(), agreement))

        def failed(reason: str) -> None:
            self._apply(self.trial.failed(means.driver.clock(), reason))

        self.shadow = Shadow(
            means.driver,
            self.candidate,
            self.active,
            self.settings,
            measure,
            means.held_bytes,
            means.comparing,
            compared,
            failed,
        )
        self._shadow_counts = self.shadow.counts
        self._apply(self.trial.begin(now_ns, rules=self._rules))

    def outcome(self, outcome: Outcome) -> None:
        """Takes an outcome of any model, as its client gets it. It may be within a step of the driver."""
        held = outcome.held
        model = held.frame.model
        by = By.CANDIDATE if model == self._key else By.ACTIVE if model == self._active_key else By.OTHER
        on_time = _ON_TIME.get(outcome.status)
        if on_time is not None:
            self.trial.frame(held.received_ns, by, held.drawn, held.stream_class, on_time)
        elif by is By.CANDIDATE and outcome.status is OutcomeStatus.FAILED:
            effects = self.trial.failed(self._means.driver.clock(), outcome.reason)
            if effects:
                self._loop.call_soon(self._apply, effects)

    @property
    def judges_labels(self) -> tuple[str, float] | None:
        """By which output, and from which threshold on, a label says whether an answer was right; an empty output is
        the only one that may be it. None: labels count for nothing now.
        """
        config = self.active.version.config
        if self.trial.stage is not Stage.CANARY:
            return None
        learning = config.learning.output if config.learning is not None else ""
        return learning or config.task.output, config.task.threshold

    def labelled(self, frame: LabelledFrame) -> None:
        """Takes what a label says of a frame of any version."""
        if self.decides and frame.model in (self._key, self._active_key):
            self.trial.label(self._means.driver.clock(), frame, frame.model == self._key)

    def vetoed(self, who: str, reason: str) -> None:
        """Takes that a person does not want the candidate."""
        self._apply(self.trial.vetoed(self._means.driver.clock(), who, reason))

    def drifted(self, reason: str) -> None:
        """Takes that the inputs or outputs of the model are no longer what they were."""
        if self.decides:
            self._apply(self.trial.drifted(self._means.driver.clock(), reason))

    def drain(self) -> None:
        self.drains = True
        self._end_turns()
        self._close_shadow()

    def look(self) -> None:
        """Takes what has become of the versions, and that time has passed."""
        if not self.decides:
            return
        candidate, catalogue = self.candidate, self._means.catalogue
        now_ns = self._means.driver.clock()
        active = catalogue.active(candidate.version.name)
        if catalogue.current(candidate) is not candidate:
            effects = self.trial.broken(now_ns, "it was unloaded")
        elif active is candidate:
            effects = self.trial.activated(now_ns, "it became active by another hand, or as the other failed")
        elif candidate.state is not VersionState.READY:
            why = candidate.error or "it crashed, hung, or answered what makes no sense"
            effects = self.trial.broken(now_ns, f"its worker is lost: {why}")
        elif active is not self.active:
            now = active.version.version if active is not None else "no version"
            effects = self.trial.broken(now_ns, f"{now} became active by another hand")
        elif self.shadow is not None and not self.shadow.sees:
            effects = self.trial.broken(now_ns, "the server failed on a copy for it; see the server's log")
        else:
            effects = self.trial.passed(now_ns, self._means.driver.held.open_since_ns())
        self._apply(effects)

    # ---- what follows ----

    def _apply(self, effects: Sequence[Effect]) -> None:
        means = self._means
        for effect in effects:
            match effect:
                case Promote():
                    means.do(f"promotion of {self._key}", self._promote(effect.reason))
                case TurnChanged():
                    self.trial.turn(time.time_ns())
                    means.catalogue.give_turn(self.candidate.version.name, effect.has_candidate)
                    self._await_turn()
                case Entered():
                    self._enter(effect.stage)

    def _enter(self, stage: Stage) -> None:
        self._since_unix_ns = time.time_ns()
        if stage is Stage.CANARY:
            self._means.do(f"canary of {self._key}", self._begin_canary())
        if stage.over:
            self._end_turns()
            self._close_shadow()
            self._means.catalogue.end_canary(self.candidate.version.name)
            if stage in (Stage.ROLLED_BACK, Stage.VETOED) and self.settings.rolled_back == "UNLOAD":
                self._means.do(f"end of {self._key}", self._unload())
        self._entered(self)

    def _close_shadow(self) -> None:
        if self.shadow is not None:
            self.shadow.close()
            self.shadow = None

    async def _begin_canary(self) -> None:
        version, means = self.candidate.version, self._means
        try:
            refusal = await means.host.refusal(version.name, version.version)
        except ModelError as error:
            refusal = str(error)
        if not self.decides:
            return
        if refusal:
            self._apply(self.trial.broken(means.driver.clock(), refusal))
            return
        everyone = self.settings.canary_streams == "ALL"
        keys = means.keys(version.name) if everyone else ()
        streams = drawn(self._key, self.settings.canary_share, keys)
        means.catalogue.begin_canary(CanaryVersion(self.candidate, streams, everyone, False))
        self._apply(self.trial.canary_began(means.driver.clock()))

    def _await_turn(self) -> None:
        """Has the trial told when the next turn is due."""
        self._end_turns()
        if self.decides and (due_ns := self.trial.due_ns):
            in_s = (due_ns - self._means.driver.clock()) / 1e9
            self._turn = self._loop.call_later(max(TURN_SECONDS_MIN, in_s), self._turn_is_due)

    def _turn_is_due(self) -> None:
        self.look()
        self._await_turn()

    def _end_turns(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    async def _promote(self, reason: str) -> None:
        version, means = self.candidate.version, self._means
        try:
            await means.host.activate(version.name, version.version, promotes=lambda: self.decides)
        except Exception as error:  # whatever it is, the trial must not wait for its promotion for ever
            if not isinstance(error, ModelError):
                _log.exception("a version cannot be activated", model=self._key)
            why = str(error) if isinstance(error, ModelError) else f"the server failed on it: {type(error).__name__}"
            if self.decides:
                self._apply(self.trial.broken(means.driver.clock(), f"not activated: {why}"))
            return
        self._apply(self.trial.activated(means.driver.clock(), reason))

    async def _unload(self) -> None:
        """Unloads a candidate that did not pass, once the streams of its canary have gone back. It stays where somebody
        has named it.
        """
        candidate, means = self.candidate, self._means
        version, until_s = candidate.version, self._loop.time() + LEAVE_SECONDS_MAX
        while True:
            demands = means.driver.scheduler.demands(means.driver.clock())
            mine = [demand for demand in demands if demand.model == self._key]
            if means.catalogue.current(candidate) is not candidate or any(demand.pinned for demand in mine):
                return
            if not mine or self._loop.time() > until_s:
                break
            await asyncio.sleep(LEAVE_LOOK_SECONDS)
        if means.catalogue.active(version.name) is candidate or means.host.on_trial(version.name) == version.version:
            return
        try:
            await means.host.unload(version.name, version.version)
        except ModelError as error:
            _log.warning("a candidate that did not pass stays loaded", model=self._key, reason=str(error))


def _settings(candidate: LoadedVersion, active: LoadedVersion) -> tuple[Settings, str]:
    """Returns by what a candidate is judged, and in words whose rules these are; empty: the model's, for all versions.
    What the version's own file says does not loosen what holds for the active one.
    """
    own, before = candidate.version.config.trial, active.version.config.trial
    if own is None or before is None or "trial" not in candidate.version.own:
        return own or Settings(), ""
    return own.held_to(before), f"of its own rules and those of version {active.version.version} the stricter hold"


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
