"""How many frames in a row count as one, since they are alike as far as agreement goes.

Theory. The mean of n values of a stationary series varies as that of n / t independent ones, where t is how much more
the means of long blocks vary than those of as many independent values would. Blocks are doubled until longer ones vary
no more than chance explains: the variance ratio test of Lo and MacKinlay ("Stock market prices do not follow random
walks", Review of Financial Studies, 1988), by the rule of doubling of Fishman and Yarberry ("An implementation of the
batch means method", INFORMS Journal on Computing, 1997). Faint likeness over long times is seen so, too, which is not
to be seen of neighbours.

What is looked at are the margins by which answers agree (`Measure.margin`), as there is nothing to be seen in scores
that are all 1. A score is a margin that exceeds a threshold or not. Of a Gaussian series, no function of its values is
more alike from one frame to another than these are themselves (Gebelein 1941), and ranks make little of what is not
Gaussian; so t of the margins is no less than t of the scores. Failures that are rare come in groups of fewer than t
(the extremal index, Leadbetter 1983).

What a recording does not show, such as another day, no number says anything of.
"""

from collections.abc import Sequence

import numpy as np

FRAMES_MIN = 50
"""Of fewer frames nothing can be told."""
BLOCKS_MIN = 8
"""The variance of so few blocks' means still tells something. No block is longer than this allows."""
TIED_MAX = 0.75
"""Where a larger share of the margins are equal, nothing can be told."""
DEVIATIONS = 2.0
"""Longer blocks may vary more than independent ones would by so many standard deviations of the ratio."""


def frames_alike(margins: Sequence[float]) -> float:
    """Returns how many frames count as one, 1 or more, of margins in the order of time; 0: they do not tell."""
    values = np.asarray(margins, np.float64)
    count = len(values)
    if count < FRAMES_MIN:
        return 0.0
    _, kinds, often = np.unique(values, return_inverse=True, return_counts=True)
    if often.max() > TIED_MAX * count:
        return 0.0
    ranks = (np.cumsum(often) - (often - 1) / 2)[kinds]
    lengths = [1]
    while count // (2 * lengths[-1]) >= BLOCKS_MIN:
        lengths.append(2 * lengths[-1])
    ratios = [
        length * ranks[: count // length * length].reshape(-1, length).mean(axis=1).var(ddof=1) / ranks.var(ddof=1)
        for length in lengths
    ]
    for place, ratio in enumerate(ratios):
        longer = zip(lengths[place + 1 :], ratios[place + 1 :], strict=True)
        if all(other <= ratio * (1 + DEVIATIONS * (2 * length / count) ** 0.5) for length, other in longer):
            return float(max(ratios[: place + 1]))
    return float(max(ratios))
