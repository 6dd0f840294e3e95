"""One trial of one version, from its load to its end, as a state machine: facts and times in, effects out.

    LOADED --> SHADOW --> CANARY --> ACTIVE
       |          |          |
       +----------+----------+--> ROLLED_BACK, VETOED

LOADED: nothing has begun. SHADOW: the candidate runs on copies of live frames, whose answers are compared and never
sent. CANARY: it answers the frames of a share of the streams, in turns with the active version where that can be
(`switchback`), else all of them (`alike`); comparing goes on. ACTIVE: it is what the model serves.

Rules of a stage's end, each by evidence that may be looked at any time (`evidence`):

    SHADOW goes on where frames_min were compared and the mean agreement is proven to be above agreement_min.
    CANARY goes on where frames_min were answered and on-time ratios are proven to be as good with it as without, and so
        is its share of right answers, where enough labels come.
    Either ends in ROLLED_BACK where it is proven that the agreement is below, or an on-time ratio worse, that of its
        own streams or of others, or that it is right less often; after more than errors_max errors; where the worker
        is lost.
    Where the time of a stage is over, `at_limit` says which it is.

Of the risk: each proof that promotes has the whole risk, as all of them are needed, and each that rolls back a fourth,
as any of them will do.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

from duly.trials.accuracy import Accuracy, LabelledFrame, Labels
from duly.trials.comparison import By, Comparison
from duly.trials.evidence import Above, Mean
from duly.trials.rules import AtLimit, Rules


class Stage(IntEnum):
    """Where a trial stands. The numbers are those of `TrialStage` in the protocol."""

    LOADED = 1
    SHADOW = 2
    CANARY = 3
    ACTIVE = 4
    ROLLED_BACK = 5
    VETOED = 6

    @property
    def over(self) -> bool:
        return self >= Stage.ACTIVE


@dataclass(frozen=True, slots=True)
class Entered:
    """The trial has come to that stage; the host does what the stage asks for."""

    stage: Stage
    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Activate the candidate, if admission lets it, and report `activated` or `broken`."""

    reason: str


@dataclass(frozen=True, slots=True)
class TurnChanged:
    """From now on the drawn streams are with the candidate, or with the active version."""

    has_candidate: bool


Effect = Entered | Promote | TurnChanged


@dataclass(frozen=True, slots=True)
class Figures:
    """What a trial has seen so far."""

    frames_compared: int
    agreement: float
    """The mean; 0 where nothing was compared."""
    agreement_low: float
    """The mean lies above this and below `agreement_high`, but for the risk of the trial."""
    agreement_high: float
    canary_frames: int
    canary_on_time: int
    rest_frames: int
    """Frames that those were compared with: of the same streams in blocks without the candidate, or of others."""
    rest_on_time: int
    canary_pairs: int
    """So many times they were compared: pairs of blocks, or of frames."""
    labels: Labels
    """Of its frames in the canary."""
    rest_labels: Labels
    """Of those that these are compared with."""
    errors: int


class Trial:
    def __init__(self, rules: Rules, comparison: Comparison) -> None:
        """`comparison`: how it is found out what the canary does to on-time ratios."""
        self.rules = rules
        self.stage = Stage.LOADED
        self.reason = "loaded"
        """Why it is in this stage."""
        self.began_ns = 0
        """When the stage began."""
        self.errors = 0
        self._promoting = False
        self._agreement = Mean()
        bound = rules.agreement_min
        self._agrees = Above(bound) if bound else None
        self._disagrees = Above(1.0 - bound) if bound else None
        self._comparison = comparison
        self._accuracy = Accuracy(rules.accuracy_worse_max, rules.labels_min, comparison.in_turns)

    # ---- what the host says ----

    def begin(self, now_ns: int, no_shadow: str = "", rules: str = "") -> list[Effect]:
        """Begins. `no_shadow`: why frames cannot be compared, where that is so; the canary comes first then. `rules`:
        whose they are, where that is to be said.
        """
        why = no_shadow or "its answers are compared with those of the active version"
        return self._enter(now_ns, Stage.CANARY if no_shadow else Stage.SHADOW, f"{why}; {rules}" if rules else why)

    def compared(self, now_ns: int, agreement: float) -> list[Effect]:
        """Takes how far an answer of the candidate agrees with that of the active version, from 0 to 1."""
        if self.stage not in (Stage.SHADOW, Stage.CANARY):
            return []
        self._agreement.add(agreement)
        if self._agrees is not None and self._disagrees is not None:
            self._agrees.add(agreement)
            self._disagrees.add(1.0 - agreement)
            if self._disagrees.proves(self.rules.roll_back_risk):
                return self._enter(now_ns, Stage.ROLLED_BACK, f"{self._said_agreement()}, less than asked for")
        return self._judge_shadow(now_ns)

    def canary_began(self, now_ns: int) -> list[Effect]:
        """Takes that the drawn streams may go over to the candidate."""
        if self.stage is not Stage.CANARY:
            return []
        self._comparison.begin(now_ns)
        return [TurnChanged(self._comparison.has_candidate)]

    def frame(self, received_ns: int, by: By, drawn: bool, stream_class: int, on_time: bool) -> None:
        """Takes how any frame ended, as its client sees it; `passed` judges what it proves. `drawn`: whether its stream
        is one of the canary's.
        """
        if not self.stage.over:
            self._comparison.frame(received_ns, by, drawn, stream_class, on_time)

    def turn(self, unix_ns: int) -> None:
        """Takes when, on the wall clock, the turn has changed that the last TurnChanged says."""
        self._accuracy.turn(unix_ns, self._comparison.has_candidate)

    def label(self, now_ns: int, frame: LabelledFrame, by_candidate: bool) -> None:
        """Takes a label of a frame of the model, answered by the candidate or else by the active version."""
        if self.stage is Stage.CANARY:
            self._accuracy.add(now_ns, frame, by_candidate)

    def failed(self, now_ns: int, reason: str) -> list[Effect]:
        """Takes that the candidate has failed on a frame."""
        if self.stage.over:
            return []
        self.errors += 1
        if self.errors > self.rules.errors_max:
            text = f"{self.errors} frames failed, {self.rules.errors_max} are allowed; the last: {reason}"
            return self._enter(now_ns, Stage.ROLLED_BACK, text)
        return []

    def broken(self, now_ns: int, reason: str) -> list[Effect]:
        """Takes that the candidate cannot go on: its worker is lost, admission refuses it, somebody unloads it."""
        return [] if self.stage.over else self._enter(now_ns, Stage.ROLLED_BACK, reason)

    def drifted(self, now_ns: int, reason: str) -> list[Effect]:
        """Takes that the model's inputs or outputs are no longer what they were."""
        return self.broken(now_ns, f"drift: {reason}") if self.rules.drift_ends else []

    def vetoed(self, now_ns: int, who: str, reason: str) -> list[Effect]:
        """Takes that a person does not want the candidate."""
        if self.stage.over:
            return []
        return self._enter(now_ns, Stage.VETOED, f"vetoed by {who}" + (f": {reason}" if reason else ""))

    def activated(self, now_ns: int, reason: str = "") -> list[Effect]:
        """Takes that the candidate is active: as it was promoted, or for a reason of somebody's own."""
        return [] if self.stage.over else self._enter(now_ns, Stage.ACTIVE, reason or self._said_on_time())

    def passed(self, now_ns: int, open_since_ns: int | None = None) -> list[Effect]:
        """Takes that time has passed. It is to be called at `due_ns`, and about once a second besides. `open_since_ns`:
        when the oldest frame was received that has not ended; None: all have.
        """
        effects: list[Effect] = []
        if self.stage is Stage.CANARY:
            if self._comparison.passed(now_ns, open_since_ns):
                effects.append(TurnChanged(self._comparison.has_candidate))
            self._accuracy.passed(now_ns)
            effects += self._judge_canary(now_ns)
        if self.stage.over or self._promoting:
            return effects
        return effects + self._judge_time(now_ns)

    @property
    def due_ns(self) -> int:
        """When the drawn streams go over to the other version; 0: they do not."""
        return self._comparison.due_ns if self.stage is Stage.CANARY else 0

    # ---- what follows ----

    @property
    def agreement(self) -> float:
        """The mean agreement so far."""
        return self._agreement.mean

    def figures(self) -> Figures:
        low, high = self._agreement.interval(self.rules.risk)
        mine = self._comparison.mine
        return Figures(
            self._agreement.count,
            self._agreement.mean,
            low,
            high,
            mine.frames,
            mine.on_time,
            mine.frames_without,
            mine.on_time_without,
            mine.pairs,
            replace(self._accuracy.mine),
            replace(self._accuracy.rest),
            self.errors,
        )

    def _judge_shadow(self, now_ns: int) -> list[Effect]:
        if self.stage is not Stage.SHADOW or self._agreement.count < self.rules.frames_min:
            return []
        if self._agrees is None or self._agrees.proves(self.rules.risk):
            return self._enter(now_ns, Stage.CANARY, self._said_agreement())
        return []

    def _judge_canary(self, now_ns: int) -> list[Effect]:
        seen, risk = self._comparison, self.rules.roll_back_risk
        if seen.proves_worse(risk):
            return self._enter(now_ns, Stage.ROLLED_BACK, f"{self._said_on_time()}, worse than asked for")
        if seen.proves_others_suffer(risk):
            return self._enter(now_ns, Stage.ROLLED_BACK, f"others suffer: {seen.said_of_others()}")
        if self._accuracy.proves_worse(risk):
            allowed = f"{self.rules.accuracy_worse_max:.1%} less is allowed"
            return self._enter(now_ns, Stage.ROLLED_BACK, f"{self._accuracy.said()}; {allowed}")
        enough = seen.mine.frames >= self.rules.frames_min
        if self._promoting or not enough or not seen.proves_as_good(self.rules.risk):
            return []
        if not self._accuracy.lets_pass(self.rules.risk):
            return []
        return self._promote(self._said_canary())

    def _judge_time(self, now_ns: int) -> list[Effect]:
        limit_ns = {Stage.SHADOW: self.rules.shadow_ns_max, Stage.CANARY: self.rules.canary_ns_max}.get(self.stage, 0)
        if not limit_ns or now_ns - self.began_ns < limit_ns:
            return []
        said = self._said_agreement() if self.stage is Stage.SHADOW else self._said_canary()
        text = f"nothing was proven within {limit_ns / 1e9:g} s: {said}"
        if self.rules.at_limit is AtLimit.ROLL_BACK:
            return self._enter(now_ns, Stage.ROLLED_BACK, text)
        if self.stage is Stage.SHADOW:
            return self._enter(now_ns, Stage.CANARY, f"{text}; nothing speaks against it (at_limit)")
        return self._promote(f"{text}; nothing speaks against it (at_limit)")

    def _promote(self, reason: str) -> list[Effect]:
        self._promoting = True
        return [Promote(reason)]

    def _enter(self, now_ns: int, stage: Stage, reason: str) -> list[Effect]:
        self.stage, self.reason, self.began_ns = stage, reason, now_ns
        return [Entered(stage, reason)]

    def _said_agreement(self) -> str:
        mean = self._agreement
        if not mean.count:
            return "no frame was compared"
        low, high = mean.interval(self.rules.risk)
        asked = f", at least {self.rules.agreement_min:g} is asked for" if self.rules.agreement_min else ""
        within = f"{low:.3f} to {high:.3f} at a risk of {self.rules.risk:g}"
        return f"agreement {mean.mean:.4f} ({within}) of {mean.count} frames{asked}"

    def _said_canary(self) -> str:
        return f"{self._said_on_time()}; {self._accuracy.said()}"

    def _said_on_time(self) -> str:
        return f"{self._comparison.said()}; {self.rules.on_time_worse_max:.1%} less is allowed"
