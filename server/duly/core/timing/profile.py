"""Planned execution time of one model variant on one lane, by batch size, learnt from measurement.

Theory. A plan has to hold nearly always, since a frame that starts late wastes lane time and misses. Yet a plan on the
maximum would be ruined for long by one hiccup. So the plan is a high quantile (q99) of the last runs of that size, plus
a small margin (planning on the mean wastes 3.5 % of the lane, on the q99 0.8 % at 5 % noise). A few hiccups of several
times the usual length, within one window, would still carry the q99 with them. A plan that long dooms every frame,
while a plan on the usual length misses only the frames of the hiccups. So beyond LONG_PERCENT of the median the plan
follows only what is frequent: it is the q99, but at most the longer of that bound and the q90 of the most recent runs.

Which batch size pays is a question of rates and not of risks. It is decided on medians (`usual_ns`), which hiccups
hardly touch. A size that does not pay by what is known of it is still tried again now and then, because nothing else
could show that it pays now.

A run on a lane that was idle takes longer, as something has to wake up or clock up, or shorter, as nobody else wants
the processor. Either way it says little about a run in a row, and the reverse holds too. So the two kinds are learnt
apart (`run_times`). Rates come from runs in a row, since rates matter only under backlog. Plans come from the kind that
runs now, or from the longer of the two while both kinds run.

Larger batches are never planned shorter than smaller ones. Sizes that never ran are filled in on a straight line
between their measured neighbours, as batch times are nearly affine in the size (Clipper, NSDI'17; Nexus, SOSP'19).

Windows hold times at level 1: actual times divided by the level of their kind (`lane_speed`). Plans are multiplied by
the level again. So when the lane's speed shifts, all sizes of all models are right at once, even those that have not
run since. The few runs that revealed the shift were divided by the old level; they are divided once more.
"""

from itertools import accumulate

from duly.core.timing.lane_speed import Change, LaneSpeed
from duly.core.timing.run_times import DOUBT, RunTimes
from duly.core.timing.window import STALE_RUNS, Window

MARGIN_PERCENT = 1
"""The margin of plans over the quantile. In simulation at 2 % noise a margin of 4 % costs 1-2 % of the capacity and
wastes as little lane time.
"""
GAIN_PERCENT = 5
"""A batch is efficient where it saves at least this share of lane time over single runs."""
PAYS = 1 - GAIN_PERCENT / 100


class Plan:
    """What is planned for batches of 1, 2, ... `batch_max`. The lists are replaced as a whole, never changed."""

    __slots__ = ("batch_max", "efficient", "plan_ns", "trial", "usual_ns")

    def __init__(self, batch_max: int) -> None:
        self.batch_max = batch_max
        self.plan_ns: list[int] = []
        """Planned time for each batch size, 0 for size 0; nearly all runs take no longer."""
        self.usual_ns: list[int] = []
        """Usual time for each batch size, from medians: what a batch costs in lane time."""
        self.trial = 0
        """The size that runs although it does not pay, to show what it takes now; 0: none."""
        self.efficient: list[int] = []
        """What `largest_efficient` is for each number of frames; empty: nobody has needed all of it yet."""

    def largest_efficient(self, frames: int) -> int:
        """The largest batch of at most that many frames that pays or is on trial; at least 1, and 0 for 0 frames. None
        is planned longer than its frames one by one, which `critical_proof` relies on.

        Mostly all of the frames pay together, and plans change with nearly every run. So the list of all sizes is made
        only where that is not so.
        """
        if not self.efficient:
            if frames <= 1 or self._pays(frames):
                return frames
            self.efficient = list(
                accumulate([size if self._pays(size) else 1 for size in range(1, self.batch_max + 1)], max)
            )
            self.efficient.insert(0, 0)
        return self.efficient[frames]

    def _pays(self, size: int) -> bool:
        usual, plan = self.usual_ns, self.plan_ns
        return (usual[size] <= size * (usual[1] * PAYS) or size == self.trial) and plan[size] <= size * plan[1]


class Profile(Plan):
    """What is known of one variant on one lane. As a `Plan`, it is what is believed now."""

    __slots__ = (
        "_after_idle",
        "_any_size",
        "_changes",
        "_idle_one_ns",
        "_idle_plan",
        "_in_a_row",
        "_regime",
        "_runs",
        "_speed",
        "careful",
        "one_ns_max",
        "usual_one_ns",
    )

    def __init__(self, samples_ns: dict[int, tuple[int, ...]], any_size: bool, speed: LaneSpeed) -> None:
        """`samples_ns` has the times of the warm-up for each batch size, at least one size and one time for each;
        `speed` is that of the lane that they were measured on. With `any_size`, any size up to the largest may run;
        without it, smaller batches are padded to the next of those sizes. Raises ValueError where samples are missing.
        """
        if not samples_ns or not all(samples_ns.values()) or min(samples_ns) < 1:
            raise ValueError(f"a profile needs samples for batch sizes of 1 or more, got {samples_ns}")
        super().__init__(max(samples_ns))
        self._any_size = any_size
        self._speed = speed
        self._changes = speed.changes
        windows = {
            size: Window([(speed.runs, time_ns / speed.factor) for time_ns in samples_ns[size]])
            for size in sorted(samples_ns)
        }
        deviations = sorted([window.deviation() for window in windows.values()])
        noise = deviations[len(deviations) // 2]
        self._in_a_row = RunTimes(windows, speed.join(noise), noise)
        self._after_idle: RunTimes | None = None
        """Runs after idle; None until one has been observed."""
        self._idle_plan: list[int] = []
        """The plan of runs after idle; empty: they have changed since it was made."""
        self._idle_one_ns = 0
        """What a batch of one after idle usually takes, by the same."""
        self._runs = 0
        """Number of runs observed, of both kinds."""
        self._regime = (False, False)
        """What `_regime_now` was when plans were last fitted."""
        self.careful = Plan(self.batch_max)
        """The plan that promises to CRITICAL streams rest on. It plans batches of two or more by all that was ever
        measured of them, not by what is believed now.
        """
        self.one_ns_max = 0
        """Plan of a batch of one, by the longer of the two kinds however long ago it ran. Promises rest on it."""
        self.usual_one_ns = 0
        """What a batch of one usually takes on a lane that was idle."""
        self._fit()

    def observe(self, batch_size: int, actual_ns: int, *, after_idle: bool = False, probe: bool = False) -> bool:
        """Learns that a batch of that size took `actual_ns`. Returns True where this run changed the speed that is
        assumed of the lane; the lane's other profiles then need `refit` (this one has had it). `after_idle`: the lane
        had run nothing just before. `probe`: the batch was tried against a plan that let nothing run any more. Each
        probe also forgets the longest run, so that a plan spoilt by a passing disturbance recovers in few probes.
        A batch that is larger than any may be by now (`limit`) teaches nothing.
        """
        if batch_size > self.batch_max:
            return False
        speed = self._speed
        if self._changes != speed.changes:
            self.refit()
        self._runs += 1
        size = batch_size if self._any_size else self._engine_size(batch_size)
        change = Change.NONE
        if probe or not after_idle:
            change = self._observe(self._in_a_row, size, actual_ns, probe)
        if after_idle and self._after_idle is None:
            # Runs after idle are taken to be like runs in a row until they show otherwise.
            self._after_idle = self._in_a_row.copy(speed.join(0.0, like=self._in_a_row.number))
        if self._after_idle is not None and (probe or after_idle):
            own = self._observe(self._after_idle, size, actual_ns, probe)
            change = change if change is Change.LANE else own
        return change is Change.LANE

    def _observe(self, kind: RunTimes, size: int, actual_ns: int, probe: bool) -> Change:
        """Learns from one run of that kind. A probe counts for both kinds, since either may have made the plan too
        long.
        """
        speed = self._speed
        if kind is self._after_idle:
            self._idle_plan = []
        kind.last = self._runs
        window = kind.windows.get(size)
        if window is None:
            window = kind.add_size(size, speed.runs, self._line(kind.believed()[1], 1.0)[size - 1])
        elif kind.is_stale(window):
            self._begin_trial(kind, size, window)
        if probe:
            window.forget_longest()
        sample_ns = max(1, actual_ns) / speed.level(kind.number)
        if kind.observe(window, speed.runs + 1, sample_ns):
            change = speed.observe(kind.number, sample_ns / window.reference_ns, probe=probe)
            if change is not Change.NONE:
                if change is Change.OWN:
                    kind.shift(speed.shift, speed.shift_run)
                self.refit()
                return change
        if window.has_moved(kind.spread) or kind.runs >= kind.look_again or self._regime != self._regime_now():
            window.summarise(kind.spread)
            self._fit()
        return Change.NONE

    def refit(self) -> None:
        """Plans anew with the speed that the lane has now."""
        speed = self._speed
        self._idle_plan = []
        if self._changes != speed.changes:
            self._changes = speed.changes
            for kind in (self._in_a_row, self._after_idle):
                if kind is not None:
                    kind.shift(speed.shift, speed.shift_run)
        self._fit()

    def limit(self, size_max: int) -> None:
        """Plans no larger batches from now on. The largest will be that size of the warm-up, or the next smaller one;
        where there is none, everything stays as it is.
        """
        kept = [size for size in self._in_a_row.warmed if size <= size_max]
        if kept and kept[-1] < self.batch_max:
            self.batch_max = self.careful.batch_max = kept[-1]
            for kind in (self._in_a_row, self._after_idle):
                if kind is not None:
                    kind.cut(self.batch_max)
            self.refit()

    def _begin_trial(self, kind: RunTimes, size: int, window: Window) -> None:
        """A stale size is about to be observed. Where its window contradicts what is believed of it, or where it is
        believed not to pay, its next runs decide.
        """
        known_usual_ns, known_high_ns = kind.believed()
        usual_ns, high_ns = known_usual_ns[size], known_high_ns[size]
        doubtful = (
            window.median_ns > usual_ns * DOUBT
            or window.high_ns > high_ns * DOUBT
            or window.high_ns > known_high_ns[kind.sizes[0]] * size
        )
        if size > 1 and not _saves(self.usual_ns, size):
            # The trial starts as if the size just paid, so that old runs do not outvote new ones.
            usual_ns = min(usual_ns, usual_ns * size * self.usual_ns[1] / self.usual_ns[size] * PAYS)
            doubtful = True
        if doubtful:
            kind.begin_trial(window, usual_ns, high_ns)

    def _engine_size(self, batch_size: int) -> int:
        windows = self._in_a_row.windows
        if self._any_size or batch_size in windows:
            return batch_size
        return min([size for size in windows if size >= batch_size])

    def _regime_now(self) -> tuple[bool, bool]:
        """Whether runs in a row, and after idle, are among the last STALE_RUNS."""
        idle = self._after_idle
        since = self._runs - STALE_RUNS
        return self._in_a_row.last > since, idle is not None and idle.last > since

    def _line(self, known: dict[int, float], scale: float) -> list[int]:
        """The time of every size from 1 on, times `scale`. Sizes missing in `known`, which is in order of sizes, lie on
        a straight line between their neighbours.

        The arithmetic is in floating point, which is exact enough and faster than products of integers beyond 2**30.
        """
        line: list[int] = []
        for upper, time_ns in known.items():
            high = int(time_ns * scale + 0.5) or 1
            width = upper - len(line)
            if width > 1 and line and self._any_size:
                low = line[-1]
                slope = (high - low) / width
                line += [int(low + slope * nth) for nth in range(1, width)]
                line.append(high)
            else:
                line += [high] * width
        return line

    def _fit(self) -> None:
        row = self._in_a_row
        tried = row.end_trials()
        level = self._speed.level(row.number)
        scale = level * (1 + MARGIN_PERCENT / 100)
        usual_ns, high_ns = row.believed()
        usual = [0, *self._line(usual_ns, level)]
        if not _rises(usual_ns):
            usual = _rising(usual)
        for size in tried:
            row.windows[size].judge(_saves(usual, size))
        plan = [0, *self._line(high_ns, scale)]
        measured_ns = {size: row.windows[size].high_ns for size in row.sizes}
        measured = plan if measured_ns == high_ns else [0, *self._line(measured_ns, scale)]
        self.usual_one_ns, self.one_ns_max = usual[1], measured[1]
        joined = self._with_idle(plan)
        plan = joined if joined is plan and _rises(high_ns) else _rising(joined)
        for size in row.sizes:
            # What is believed keeps to this bound already, but rounding may have broken it.
            if plan[size] > size * plan[1] and not row.is_fresh(row.windows[size]):
                plan[size] = size * plan[1]
        self.usual_ns, self.plan_ns = usual, plan
        careful = self.careful
        careful.usual_ns, careful.plan_ns = usual, plan
        if measured_ns != high_ns:
            # Single frames keep the plan of now, by which they are dropped: those that it admits must be able to run.
            careful.plan_ns = _rising([0, plan[1], *map(max, plan[2:], measured[2:])])
        self.trial = careful.trial = self._trial()
        self.efficient, careful.efficient = [], []
        row.note_changes()

    def _with_idle(self, plan: list[int]) -> list[int]:
        """Joins the plan of runs in a row with that of runs after idle, as far as each kind runs now."""
        row, idle = self._in_a_row, self._after_idle
        self._regime = row_now, idle_now = self._regime_now()
        if idle is None:
            return plan
        level = self._speed.level(idle.number)
        scale = level * (1 + MARGIN_PERCENT / 100)
        first = idle.sizes[0]
        self.one_ns_max = max(self.one_ns_max, round(idle.windows[first].high_ns * scale))
        if not idle_now:
            return plan
        if not self._idle_plan:
            usual_ns, high_ns = idle.believed()
            self._idle_one_ns = round(usual_ns[first] * level)
            self._idle_plan = [0, *self._line(high_ns, scale)]
            idle.note_changes()
        self.usual_one_ns, idle_plan = self._idle_one_ns, self._idle_plan
        if not row_now:
            return idle_plan
        # Both kinds run: each size is planned by the longer of the kinds in which it ran lately.
        longer = plan.copy()
        below = 0
        for engine_size in idle.sizes:
            if idle.has_run_lately(engine_size):
                known = row.has_run_lately(engine_size)
                for size in range(engine_size if self._any_size else below + 1, engine_size + 1):
                    longer[size] = max(plan[size], idle_plan[size]) if known else idle_plan[size]
            below = engine_size
        return longer

    def _trial(self) -> int:
        """The smallest size that does not pay and should run all the same, to show what it takes now; 0: none."""
        row, usual, plan = self._in_a_row, self.usual_ns, self.plan_ns
        for size in row.sizes:
            window = row.windows[size]
            due = window.on_trial or (row.runs - window.ran > window.patience and not _saves(usual, size))
            if due and size > 1 and plan[size] <= size * plan[1]:
                return size
        return 0


def _saves(usual: list[int], size: int) -> bool:
    """Whether a batch of that size takes at least GAIN_PERCENT less lane time than its frames one by one; a batch of
    one always counts as saving.
    """
    return size == 1 or usual[size] <= size * (usual[1] * PAYS)


def _rises(known: dict[int, float]) -> bool:
    """Whether no size takes less than those before it, and so neither does any size between them (`_line`)."""
    before_ns = 0.0
    for time_ns in known.values():
        if time_ns < before_ns:
            return False
        before_ns = time_ns
    return True


def _rising(values: list[int]) -> list[int]:
    """The values, each raised to the largest before it."""
    largest = 0
    risen: list[int] = []
    for value in values:
        if value > largest:
            largest = value
        risen.append(largest)
    return risen
