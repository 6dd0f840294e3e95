"""Streams that are unlike one another, under a load that changes, as a canary in turns sees them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, sin
from random import Random

from duly.trials.comparison import By, Comparison

S = 1_000_000_000
BLOCK_NS = S
FRAMES_A_BLOCK = 3
"""Of each stream."""

Load = Callable[[float, Random], float]
"""How much less likely all frames are to be on time at that part of the canary, 0 to 1."""


def steady(at: float, random: Random) -> float:
    return 0.0


def rising(at: float, random: Random) -> float:
    return 0.3 * at


def falling(at: float, random: Random) -> float:
    return 0.3 * (1 - at)


def step(at: float, random: Random) -> float:
    return 0.2 if at > 0.1 else 0.0


def swinging(at: float, random: Random) -> float:
    """Up and down in about two blocks of a canary of 120 pairs, for whoever takes turns by the clock."""
    return 0.15 * (1 + sin(at * 120 * 6.2832)) / 2 + 0.05 * (1 + cos(at * 40)) / 2


def bursts(at: float, random: Random) -> float:
    """Bad stretches, each for all frames of a block."""
    return 0.8 if random.random() < 0.1 else 0.0


LOADS: tuple[Load, ...] = (steady, rising, falling, step, swinging, bursts)

UNLIKE = (0.6, 0.98, 0.9, 1.0, 0.995)
"""How often each of five streams is on time by nature."""


@dataclass(frozen=True, slots=True)
class Fleet:
    mine: Sequence[float]
    """The on-time ratios of the streams that are drawn."""
    others: Sequence[float]
    load: Load = steady
    harm: float = 0.0
    """How much less likely frames that the candidate answers are to be on time."""
    harm_to_others: float = 0.0
    """The same of other streams' frames meanwhile."""

    def run(self, seed: int, canary: Comparison, pairs: int, over: Callable[[], bool]) -> int:
        """Runs so many pairs of blocks, or until it is over. Returns after how many."""
        random, now_ns = Random(seed), 0
        canary.begin(now_ns)
        for block in range(2 * pairs):
            less = self.load(block / (2 * pairs), random)
            with_it = canary.has_candidate
            for nth in range(FRAMES_A_BLOCK):
                received_ns = now_ns + (3 + nth) * BLOCK_NS // 10
                for ratio in self.mine:
                    on_time = random.random() < ratio - less - self.harm * with_it
                    by = By.CANDIDATE if with_it else By.ACTIVE
                    canary.frame(received_ns, by, True, 2, on_time)
                for ratio in self.others:
                    on_time = random.random() < ratio - less - self.harm_to_others * with_it
                    canary.frame(received_ns, By.ACTIVE, False, 2, on_time)
            now_ns += BLOCK_NS
            canary.passed(now_ns, None)
            if block % 2 and over():  # a pair may have been judged
                return block // 2 + 1
        return pairs
