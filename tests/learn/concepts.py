"""Streams whose concept shifts twice: payments of which some are fraud, and connections of which some are attacks.

They are made up, from a seed: what is measured of a payment or connection is drawn from distributions of the kind that
such data have (log-normal amounts and bytes, Poisson counts, rates in 0..1), and what is fraud or an attack follows
from a rule that is another one in each of the three concepts. A few labels are wrong at random (`NOISE`), so that no
model is right always.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

NOISE = 0.01


@dataclass(frozen=True)
class Concepts:
    """A stream's kinds: `draw(random, count, concept)` gives [count, features] and [count] for concept 0, 1 or 2."""

    name: str
    features: tuple[str, ...]
    classes: int
    draw: Callable[[np.random.Generator, int, int], tuple[Rows, Labels]]


def _payments(random: np.random.Generator, count: int, concept: int) -> tuple[Rows, Labels]:
    """About one payment in four is fraud. First it is large amounts on new devices at night; then many small payments
    in a short time at risky merchants; then payments far from home from old accounts.
    """
    amount = random.lognormal(3.5, 1.0, count)
    hour = random.integers(0, 24, count)
    new_device = random.random(count) < 0.3
    merchant_risk = random.beta(2, 4, count)
    in_last_hour = random.poisson(1.5, count)
    km_from_home = random.exponential(40, count)
    account_days = random.exponential(600, count)
    night = (hour < 7) | (hour > 21)
    if concept == 0:
        fraud = (np.log(amount) - 3.5) + 1.2 * new_device + 0.9 * night > 1.6
    elif concept == 1:
        fraud = (in_last_hour >= 2) & (merchant_risk > 0.3) & (amount < 60)
    else:
        fraud = (km_from_home > 40) & (account_days > 300)
    rows = np.stack([amount, hour, new_device, merchant_risk, in_last_hour, km_from_home, account_days], axis=1)
    return _noisy(random, rows, fraud.astype(np.int64), 2)


def _connections(random: np.random.Generator, count: int, concept: int) -> tuple[Rows, Labels]:
    """Normal traffic (0), denial of service (1) and probes (2). Floods of half-open connections give way to slow ones
    that hold connections open, and loud probes to quiet ones; then floods come back as answers that others send.
    """
    kind = random.choice(3, count, p=(0.6, 0.2, 0.2))
    seconds = random.exponential(2.0, count)
    sent, got = random.lognormal(6, 1.2, count), random.lognormal(7, 1.2, count)
    same_host = random.poisson(4, count).astype(float)
    half_open, refused = random.beta(1, 12, count), random.beta(1, 12, count)
    ports = random.poisson(1.5, count).astype(float)
    dos, probe = kind == 1, kind == 2
    if concept == 0:
        same_host[dos] += random.poisson(40, dos.sum())
        half_open[dos] = random.beta(8, 2, dos.sum())
        ports[probe] += random.poisson(15, probe.sum())
        refused[probe] = random.beta(6, 3, probe.sum())
    elif concept == 1:
        seconds[dos] += random.exponential(60, dos.sum()) + 10
        sent[dos] *= 0.05
        half_open[probe] = random.beta(8, 2, probe.sum())  # what was a flood is a probe by half-open connections now
        same_host[probe] += random.poisson(25, probe.sum())
    else:
        got[dos] *= 60
        sent[dos] *= 0.2
        ports[dos] += random.poisson(15, dos.sum())  # answers come to many ports, as loud probes had it
        refused[dos] = random.beta(6, 3, dos.sum())
        seconds[probe] += random.exponential(60, probe.sum()) + 10
    rows = np.stack([seconds, sent, got, same_host, half_open, refused, ports], axis=1)
    return _noisy(random, rows, kind.astype(np.int64), 3)


def _noisy(
    random: np.random.Generator, rows: npt.NDArray[np.float64], labels: Labels, classes: int
) -> tuple[Rows, Labels]:
    wrong = random.random(len(labels)) < NOISE
    labels = np.where(wrong, random.integers(0, classes, len(labels)), labels)
    return rows.astype(np.float32), labels


FRAUD = Concepts(
    "fraud",
    ("amount", "hour", "new_device", "merchant_risk", "in_last_hour", "km_from_home", "account_days"),
    2,
    _payments,
)
INTRUSION = Concepts(
    "intrusion", ("seconds", "sent", "got", "same_host", "half_open", "refused", "ports"), 3, _connections
)
