"""Random histories of a lane: what models on it believe after loads, speeds, hiccups and idle times of all kinds.

A history ends with its last change. From then on one model has as many frames waiting as it can batch, and runs the
batch size that its profile considers best. `Recovery` compares the throughput of this with that of a new profile, and
the plans with what the runs since then took.

    python -m tests.core.histories --seed 0 --runs 3000
"""

import argparse
import sys
from dataclasses import dataclass
from random import Random
from statistics import median

from duly.core.timing.lane_speed import LaneSpeed
from duly.core.timing.profile import Profile

BATCHES = 50
"""Number of batches after the last change within which a model has to recover."""
LOOKED_AT = 30
"""Number of batches after those, over which the throughput is measured."""
SIZES = ((1, 2, 4, 8, 16, 32, 64, 128), (1, 2, 4, 8), (1, 4, 16), (1, 2, 3, 4, 5, 6), (1, 8, 32))
GAINS = (0.01, 0.05, 0.2, 0.5, 0.9, 2.0, 20.0)
"""What one more frame costs, in units of the fixed cost of a batch: from batches that gain nearly all to nearly
nothing.
"""


class Model:
    """What the batches of a model truly take, and what its profile believes."""

    def __init__(self, random: Random, lane: LaneSpeed) -> None:
        self.random = random
        self.fixed_ns = 10 ** random.uniform(3.5, 7)
        self.each_ns = self.fixed_ns * random.choice(GAINS)
        self.cv = random.choice([0.0, 0.01, 0.05, 0.1, 0.2])
        self.own = 1.0
        """Run times of this model over those that the lane's speed explains."""
        self.wake_ns = random.choice([0.0, 0.0, self.fixed_ns * random.uniform(0, 10)])
        self.wake_factor = random.choice([1.0, 1.0, random.uniform(0.6, 4)])
        """Run times after idle over those in a row, before `wake_ns` is added."""
        self.any_size = random.random() < 0.6
        self.sizes = random.choice(SIZES)
        warm = {size: self._samples(random, size, 1.0, random.choice([3, 30])) for size in self.sizes}
        if random.random() < 0.2:
            # The warm-up of one size was disturbed.
            spoilt, factor = random.choice(self.sizes), random.uniform(2, 20)
            warm[spoilt] = tuple(round(time_ns * factor) for time_ns in warm[spoilt])
        self.profile = Profile(warm, self.any_size, lane)

    def engine_size(self, batch_size: int) -> int:
        return batch_size if self.any_size else min(size for size in self.sizes if size >= batch_size)

    def truth_ns(self, batch_size: int, speed: float) -> float:
        return (self.fixed_ns + self.each_ns * self.engine_size(batch_size)) * speed * self.own

    def rate(self, batch_size: int, speed: float) -> float:
        """Frames for each nanosecond."""
        return batch_size / self.truth_ns(batch_size, speed)

    def chosen(self) -> int:
        """The batch size that runs while more frames wait than fit."""
        return self.profile.largest_efficient(self.profile.batch_max)

    def fresh(self, speed: float) -> int:
        """The batch size that a profile made now would choose."""
        random = Random(5)
        warm = {size: self._samples(random, size, speed, 30) for size in self.sizes}
        made = Profile(warm, self.any_size, LaneSpeed())
        return made.largest_efficient(made.batch_max)

    def _samples(self, random: Random, size: int, speed: float, runs: int) -> tuple[int, ...]:
        return tuple(round(self.truth_ns(size, speed) * random.lognormvariate(0, self.cv)) for _ in range(runs))


@dataclass(frozen=True)
class Recovery:
    """What one model is like after BATCHES batches under backlog."""

    throughput: float
    """Throughput over that of a new profile, at the median of LOOKED_AT batches."""
    plan: float
    """The largest ratio, over all sizes, of the plan to the longest run since the last change, times the number of such
    runs that the size would take.
    """


class Lane:
    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.speed = 1.0
        self.hiccups = 0.0
        """The share of runs that have a hiccup."""
        lane = LaneSpeed()
        self.models = [Model(random, lane) for _ in range(random.choice([1, 1, 2, 3]))]

    def run(self, model: Model, batch_size: int, *, after_idle: bool = False) -> float:
        """Runs a batch, lets the profile learn from it, and returns how long it took in nanoseconds."""
        time_ns = model.truth_ns(batch_size, self.speed) * self.random.lognormvariate(0, model.cv)
        if after_idle:
            time_ns = time_ns * model.wake_factor + model.wake_ns
        if self.random.random() < self.hiccups:
            time_ns *= 10 ** self.random.uniform(0.3, 2)
        if model.profile.observe(batch_size, max(1, round(time_ns)), after_idle=after_idle):
            for other in self.models:
                other.profile.refit()
        return time_ns

    def phase(self) -> None:
        """Changes something or nothing, and then runs some load for a while."""
        random = self.random
        kind = random.choice(["singles", "few", "busy", "busy", "mixed", "speed", "own", "hiccups"])
        if kind == "speed":
            self.change_speed()
        elif kind == "own":
            model = random.choice(self.models)
            model.own = min(20, max(0.05, model.own * 10 ** random.uniform(-0.5, 0.5)))
        elif kind == "hiccups":
            self.hiccups = random.choice([0, 0.01, 0.05, 0.1])
        runs, active = random.choice([3, 10, 50, 200]), random.sample(self.models, random.randint(1, len(self.models)))
        for _ in range(runs):
            model = random.choice(active)
            profile = model.profile
            if kind == "singles":
                self.run(model, 1, after_idle=True)
            elif kind == "few":
                waiting = random.randint(1, min(6, profile.batch_max))
                self.run(model, profile.largest_efficient(waiting), after_idle=random.random() < 0.5)
            elif kind == "mixed":
                waiting = random.randint(1, profile.batch_max)
                self.run(model, profile.largest_efficient(waiting), after_idle=random.random() < 0.3)
            else:
                self.run(model, model.chosen())

    def change_speed(self) -> None:
        self.speed = min(50, max(0.02, self.speed * 10 ** self.random.uniform(-0.7, 0.7)))

    def recover(self, model: Model) -> Recovery:
        took = []
        for _ in range(BATCHES):
            size = model.chosen()
            took.append((size, self.run(model, size)))
        rates = []
        for _ in range(LOOKED_AT):
            size = model.chosen()
            rates.append(model.rate(size, self.speed))
            self.run(model, size)
        longest_ns, smallest = max(time_ns for _, time_ns in took), min(size for size, _ in took)
        plan_ns = model.profile.plan_ns
        return Recovery(
            median(rates) / model.rate(model.fresh(self.speed), self.speed),
            max(
                plan_ns[size] / (longest_ns * -(-model.engine_size(size) // smallest))
                for size in range(1, model.profile.batch_max + 1)
            ),
        )


def recoveries(seed: int) -> list[Recovery]:
    """The recoveries of the models on a lane of that history, one after another."""
    lane = Lane(seed)
    for _ in range(lane.random.randint(1, 40)):
        lane.phase()
    lane.hiccups = 0.0
    if lane.random.random() < 0.5:
        lane.change_speed()
    return [lane.recover(model) for model in lane.random.sample(lane.models, len(lane.models))]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.core.histories", description="What profiles recover from.")
    parser.add_argument("--seed", type=int, default=0, help="of the first history")
    parser.add_argument("--runs", type=int, default=100, help="so many, with the seeds that follow")
    arguments = parser.parse_args()
    short = 0
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        for found in recoveries(seed):
            if found.throughput < 0.95 or found.plan > 1.6:
                short += 1
                sys.stdout.write(f"seed {seed}: throughput {found.throughput:.3f}, plan {found.plan:.2f}\n")
    sys.stdout.write(f"{short} fall short in {arguments.runs} histories\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
