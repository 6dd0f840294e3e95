"""What a candidate must show to be kept.

The lower end of the agreement's confidence interval is what must be within the tolerance, not its mean: of 20 frames
that all agree, one knows little, and of 20 that are alike less. All candidates are judged by the same frames, and those
that look best are taken: so each has its share of the risk (Bonferroni), and the lower ends of all of them hold at
once, whichever are taken. What differs by rounding alone is within the tolerance whatever the number of frames. And a
candidate must be faster, at every batch size: a less accurate variant that is no faster is of no use.
"""

from dataclasses import dataclass
from math import ceil

from duly.agreement.interval import Interval, scores_needed
from duly_learn.optimize.judged import Judged
from duly_learn.optimize.timing import Compared

RISK = 0.05
"""So likely at most some candidate, of all that are judged, agrees less than its lower end says."""


@dataclass(frozen=True, slots=True)
class Rule:
    """By what candidates are kept."""

    tolerance: float
    """How much of the agreement may be lost."""
    by_mean: bool = False
    """Whether the mean agreement is what must be within the tolerance, and not the lower end of its interval."""
    candidates: int = 1
    """So many are judged by the same frames."""
    lost: float = 0.0
    """What the original itself has lost of the agreement with the version that it was made of."""
    fitted: int = 0
    """Number of frames that candidates were fitted to."""

    @property
    def confidence(self) -> float:
        """That of a candidate's interval, each end of which has its share of the risk."""
        return 1 - 2 * RISK / self.candidates

    @property
    def least(self) -> float:
        """The agreement that is asked for."""
        return 1 - self.tolerance + self.lost


def refusals(judged: Judged, rule: Rule) -> list[str]:
    """Returns why a candidate that was measured is not kept, each reason with its figure; nothing: it is kept."""
    agreement, found = judged.agreement, []
    least = rule.least
    spent = f", of which {rule.lost:.4g} are lost already" if rule.lost else ""
    asked = f"{least:.4g} is asked for (tolerance {rule.tolerance:g}{spent})"
    if agreement is not None and not judged.same:
        if agreement.mean < least:
            found.append(f"its agreement is {agreement}, and {asked}")
        elif not rule.by_mean and agreement.low < least:
            found.append(
                f"its agreement may be as low as {agreement.low:.4f}: {agreement}, and {asked}; "
                f"{_what_would_do(judged, agreement, rule)}, or take the mean (--judge mean)"
            )
    slow = {size: times for size, times in judged.times.items() if times.ratio_low <= 1}
    if slow:
        size, times = next(iter(slow.items()))
        found.append(
            f"it is not faster: {times.ratio:.2f} times as fast in batches of {size}, "
            f"{times.ratio_low:.2f} in a quarter of the rounds; {_both(times)}"
        )
    return found


def _what_would_do(judged: Judged, agreement: Interval, rule: Rule) -> str:
    """How many frames would prove that the agreement is as good, if they come out as these."""
    scores = [frame.score for frame in judged.frames]
    needed = scores_needed(scores, rule.least, rule.confidence) if 0 < rule.least < 1 else 0
    if not needed:
        return "no number of frames like these would do"
    frames = ceil(needed * agreement.alike)
    whole = ceil(frames * (len(scores) + rule.fitted) / len(scores))
    hint = (
        "; frames that lie further apart, of a longer recording or of more of them, count for more"
        if agreement.worth < agreement.count
        else ""
    )
    return (
        f"{frames:,} held-out frames that come out like these {len(scores):,} would do: {whole:,} frames in all "
        f"(--frames-max), or {2 * frames:,} with --held-out 0.5{hint}"
    )


def _both(times: Compared) -> str:
    return f"{times.spread_ms(times.candidate_ns)}, the original {times.spread_ms(times.original_ns)}"
