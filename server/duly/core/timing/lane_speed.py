"""How fast a lane is now, against what its profiles measured when they were made: one factor for all that runs there.

Theory. A device that throttles, or is shared with somebody else, changes speed for all models and batch sizes at once,
while a window of past runs learns a size only as often as that size runs. So each run also gives the lane its log
ratio x, the logarithm of its time over the median time of its size, and three rules read x:

- CUSUM (Page, 1954), on both sides: sums what x exceeds SLACK by and alarms beyond ALARM. It finds a lasting shift
  of 20 % in about seven runs; on noise alone it alarms once in more than 100,000. The size of the shift is the median
  of x since the sum last was 0, so that the few runs that were needed to see it correct the factor by all of it.
- EWMA chart (Roberts, 1959): finds what is too small for CUSUM, warming up or drifting. It corrects by its mean once
  that is beyond DRIFT of its own standard deviation, so that the factor does not walk about with the noise.
- A probe is a run that was planned too long to run at all. If it turns out much shorter than the median, it corrects
  the factor at once: hiccups lengthen a run, and nothing shortens it.

All limits are in units of the noise. The noise is measured too (the mean absolute x, which starts with the scatter of
the warm-up) and has a floor. x is clipped (winsorised) at CLIP, so that a hiccup counts as one bad run, however long it
is: four bad runs in a row alarm, single ones never do.

Models can also change by themselves: with their inputs, or because the overhead of a run (waking a worker takes a
millisecond) is many times the run of a small model. So an alarm counts as the lane's only if the runs of others since
then confirm it, or if there are no others. Otherwise it belongs to the runs that showed it, their OWN level changes,
and the lane's factor stays. (For this purpose the runs in a row and the runs after idle of one model are others to each
other.) A model that did not run while its lane changed speed learns the change from its own next runs.

Levels can't drift. The level of some runs is the lane's factor times their own part. It is corrected by what the runs
take over what they took when they were first known, so it is always that ratio, whatever corrections came before. The
factor also applies to models that do not run, and it stays within the levels of the runs that show it to change.
Without this bound, changes that were attributed to the lane on the way up and to single models on the way down would
add up in the factor.
"""

from collections import deque
from enum import Enum
from math import exp, log, sqrt

NOISE_MIN = 0.10
"""The least standard deviation of x that is assumed; a lane is seldom calmer for long."""
SLACK = 0.9
"""Half the shift of 20 % that should be found soonest, in standard deviations of NOISE_MIN."""
ALARM = 5.9
"""The limit of the CUSUM sums, in standard deviations. By Siegmund's approximation for SLACK, noise alone exceeds it
once in 200,000 runs on each side.
"""
CLIP = 2.5
"""The bound at which x is clipped, in standard deviations."""
DRIFT = 4.0
"""The limit of the EWMA chart, in standard deviations of its mean."""
DRIFT_MIN = 0.01
"""Smaller corrections are not worth new plans."""
DRIFT_RUNS = 64
"""Number of runs that the mean of the EWMA chart is over, about."""
NOISE_RUNS = 256
"""Number of runs that the noise is averaged over, about."""
NOISE_RUNS_FIRST = 64
"""Number of runs that the first estimate of the noise counts for."""
TUNE_RUNS = 16
"""Number of runs after which the limits are fitted to the noise again."""
CONFIRMING_RUNS = 3
"""Number of most recent runs of other models that confirm an alarm of the lane; earlier ones may be from before it."""
EVIDENCE_RUNS = 32
"""Number of most recent runs that show how large a shift is and whether it is the lane's or a model's own."""

SD_OF_ABSOLUTE = 1.2533
"""The ratio of standard deviation to mean absolute value in a normal distribution: sqrt(pi / 2)."""
_DRIFT_SD = sqrt(1 / (2 * DRIFT_RUNS - 1))
"""The standard deviation of the EWMA chart's mean, in standard deviations of x."""


class Change(Enum):
    """The level that a run has changed."""

    NONE = 0
    LANE = 1
    """The lane's factor has changed; every profile of the lane has to be refitted."""
    OWN = 2
    """The runs that showed it have changed their own level, by `shift` from `shift_run` on; the factor stays."""


class LaneSpeed:
    """The speed of one lane, shared by its profiles. A new one means: as fast as when they were measured."""

    __slots__ = (
        "_alarm",
        "_clip",
        "_drift",
        "_evidence",
        "_high",
        "_high_runs",
        "_low",
        "_low_runs",
        "_mean",
        "_noise_runs",
        "_own",
        "_slack",
        "_spread",
        "changes",
        "factor",
        "runs",
        "shift",
        "shift_run",
    )

    def __init__(self) -> None:
        self.factor = 1.0
        """Run times now over run times when the lane came up."""
        self.runs = 0
        """Number of runs observed so far."""
        self.changes = 0
        """How often the factor has changed."""
        self.shift = 1.0
        """The last change of a level: run times became this many times as long."""
        self.shift_run = 0
        """Number of the run after which they had changed; all later runs already took as long."""
        self._own: list[float] = []
        """Level over factor for each number that `join` gave out, from number 1 on."""
        self._evidence: deque[tuple[int, float]] = deque(maxlen=EVIDENCE_RUNS)
        self._high = self._low = self._mean = 0.0
        self._high_runs = self._low_runs = 0
        """Number of runs since `_high` was 0; `_low_runs` likewise."""
        self._spread = NOISE_MIN / SD_OF_ABSOLUTE
        self._tune()

    def join(self, deviation: float, *, like: int = 0) -> int:
        """Returns a number for runs that share one level; `observe` and `level` take it. `deviation` is the standard
        deviation of x in their warm-up, 0 where it is not known. They start at the level of the number `like`, or at
        the lane's factor where `like` is 0.
        """
        self._spread = max(self._spread, deviation / SD_OF_ABSOLUTE)
        self._tune()
        self._own.append(self._own[like - 1] if like else 1.0)
        return len(self._own)

    def level(self, number: int) -> float:
        """What these runs take now over what they took when they were first known."""
        return self.factor * self._own[number - 1]

    def observe(self, number: int, ratio: float, *, probe: bool = False) -> Change:
        """Notes that a run took `ratio` times what is usual at the level of its number; `ratio` > 0."""
        x = log(ratio)
        clip = self._clip
        clipped = x if -clip < x < clip else clip if x > 0 else -clip
        self.runs += 1
        self._evidence.append((number, x))
        self._spread += (abs(clipped) - self._spread) / self._noise_runs
        if not self.runs % TUNE_RUNS:
            self._tune()
        mean = self._mean = self._mean + (clipped - self._mean) / DRIFT_RUNS
        high = self._high + clipped - self._slack
        if high > 0:
            self._high = high
            self._high_runs += 1
            if high > self._alarm:
                return self._shifted(number, self._high_runs)
        elif self._high_runs:
            self._high = 0.0
            self._high_runs = 0
        low = self._low - clipped - self._slack
        if low > 0:
            self._low = low
            self._low_runs += 1
            if low > self._alarm:
                return self._shifted(number, self._low_runs)
        elif self._low_runs:
            self._low = 0.0
            self._low_runs = 0
        if probe and x < -clip:
            return self._shifted(number, 1)
        if not -self._drift < mean < self._drift:
            return self._drifted(number, mean)
        return Change.NONE

    def _tune(self) -> None:
        """Fits the limits to the noise."""
        deviation = max(NOISE_MIN, self._spread * SD_OF_ABSOLUTE)
        self._clip = CLIP * deviation
        self._slack = SLACK * deviation
        self._alarm = ALARM * deviation
        self._drift = max(DRIFT_MIN, DRIFT * _DRIFT_SD * deviation)
        self._noise_runs = min(NOISE_RUNS, NOISE_RUNS_FIRST + self.runs)

    def _shifted(self, number: int, runs: int) -> Change:
        """The last `runs` runs show a lasting shift. Decides whether it is the lane's or that of this number alone."""
        evidence = list(self._evidence)
        own = _median([x for source, x in evidence[-runs:] if source == number])
        # A single probe is compared with all runs of others that are remembered.
        others = [x for source, x in (evidence[-runs:] if runs > 1 else evidence) if source != number]
        confirmed = bool(others) and abs(_median(others[-CONFIRMING_RUNS:]) - own) <= abs(own) / 2
        if confirmed or len(self._own) == 1:
            return self._change_lane(_median([x for _, x in evidence[-runs:]]), runs)
        return self._change_own(number, own, runs)

    def _drifted(self, number: int, x: float) -> Change:
        """The mean shows a drift by x. It is the lane's if the runs of all numbers show it. Otherwise it belongs to the
        number that drifts most, which is corrected when one of its own runs comes here.
        """
        apart: dict[int, list[float]] = {}
        for source, told in self._evidence:
            apart.setdefault(source, []).append(told)
        medians = {source: _median(told) for source, told in apart.items() if len(told) >= CONFIRMING_RUNS}
        if len(self._own) == 1 or (len(medians) > 1 and all(median / x > 0.5 for median in medians.values())):
            return self._change_lane(x, 0)
        own = medians.get(number, x)
        if any(median / x > own / x for median in medians.values()):
            return Change.NONE
        return self._change_own(number, own, 0)

    def _change_own(self, number: int, x: float, runs: int) -> Change:
        self._restart(x, runs)
        self._own[number - 1] *= self.shift
        return Change.OWN

    def _change_lane(self, x: float, runs: int) -> Change:
        sources = [source for source, _ in self._evidence]
        self._restart(x, runs)
        own = [self._own[source - 1] for source in sources]
        excess = max(1.0, min(own)) * min(1.0, max(own))
        for source in sorted(set(sources)):
            self._own[source - 1] /= excess
        self.factor *= self.shift * excess
        self.changes += 1
        return Change.LANE

    def _restart(self, x: float, runs: int) -> None:
        self.shift = exp(x)
        self.shift_run = self.runs - runs
        self._evidence.clear()
        self._high = self._low = self._mean = 0.0
        self._high_runs = self._low_runs = 0


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
