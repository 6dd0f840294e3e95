"""`duly demo fraud`: card payments are scored the moment they come, and half-way fraudsters change their ways."""

import csv
import gzip
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duly.demo import training
from duly.demo.clips import Clip
from duly.demo.description import Demo, Files
from duly.demo.judgement import Words, found_and_missed, probability
from duly.demo.sensors import Sensor
from duly.demo.summary import milliseconds
from duly_client import Client, Outcome

LEARNT_PAYMENTS = 30_000
"""The oldest payments, from which the model learns. Those that stream came later."""
TERMINALS = 4
PAYMENTS_PER_TERMINAL = 8_000
RATE_HZ = 25
"""Payments a second at each terminal."""
BUDGET_MS = 50.0
FRAUD_MIN = 0.5
SHIFT_S = 10.0
"""Fraudsters change their ways so long after the start."""
AMOUNT_MAX = 100_000.0
"""No payment of the data set is larger."""

_WORDS = Words(yes="FRAUD", no="paid", things="frauds", others="honest payments")


def read_payments(path: Path) -> tuple[training.Floats, npt.NDArray[np.bool_]]:
    """Reads payments in the order of time: nine traits of each, [N, 9], and whether it was a fraud, [N].

    The traits: amount, whether the customer was there, hour, weekday, months until the card expires, latitude,
    longitude, seconds since the card's last payment (-1: there was none), and how many it had made before.
    """
    with gzip.open(path, "rt") as file:
        payments = list(csv.DictReader(file))
    last_s: dict[str, float] = {}
    made: Counter[str] = Counter()
    rows = []
    for payment in payments:
        when = datetime.fromisoformat(payment["datetime"])
        month, year = payment["expiration_date"].split("/")
        card, now_s = payment["card_id"], when.timestamp()
        rows.append(
            (
                float(payment["amount"]),
                payment["customer_present"] == "True",
                when.hour,
                when.weekday(),
                12 * (2000 + int(year) - when.year) + int(month) - when.month,
                float(payment["lat"]),
                float(payment["lng"]),
                now_s - last_s.get(card, now_s + 1),
                made[card],
            )
        )
        last_s[card] = now_s
        made[card] += 1
    return np.array(rows, np.float32), np.array([payment["fraud"] == "True" for payment in payments])


def changed_ways(rows: training.Floats, fraud: npt.NDArray[np.bool_]) -> training.Floats:
    """Returns the payments as they are once fraudsters change their ways: they turn from the largest sums to the
    smallest. Honest payments stay what they are.
    """
    changed = rows.copy()
    changed[fraud, 0] = AMOUNT_MAX - changed[fraud, 0]
    return changed


def _make(files: Files, models: Path) -> None:
    rows, fraud = read_payments(files["fraud_transactions.csv.gz"])
    training.write_forest(models / "fraud/1/model.onnx", rows[:LEARNT_PAYMENTS], fraud[:LEARNT_PAYMENTS])


class Scoring:
    """Perceives frauds among payments, before and after fraudsters change their ways."""

    def __init__(self, truth: Sequence[bool], shift_index: int) -> None:
        """`shift_index`: the first payment of the clip after the change."""
        self._truth, self._shift_index = truth, shift_index
        self._newest: float | None = None
        self.before: Counter[tuple[bool, bool]] = Counter()
        self.after: Counter[tuple[bool, bool]] = Counter()
        """How many payments there were, by (fraud, called fraud)."""

    def take(self, index: int, outcome: Outcome) -> None:
        self._newest = probability(outcome)
        counts = self.before if index < self._shift_index else self.after
        counts[bool(self._truth[index]), self._newest >= FRAUD_MIN] += 1

    def now(self) -> str:
        if self._newest is None:
            return ""
        counts = self.after or self.before
        found, there = counts[True, True], counts[True, True] + counts[True, False]
        word = _WORDS.yes if self._newest >= FRAUD_MIN else _WORDS.no
        changed = " since fraudsters changed their ways" if self.after else ""
        return f"{word} {self._newest:.2f}; {found} of {there} frauds found{changed}"

    def summary(self) -> str:
        return found_and_missed(self.before + self.after, _WORDS) if self.before or self.after else ""


async def _sensors(client: Client, files: Files) -> list[Sensor]:
    rows, fraud = read_payments(files["fraud_transactions.csv.gz"])
    period_ns = 1_000_000_000 // RATE_HZ
    shift_index = round(SHIFT_S * RATE_HZ)
    sensors = []
    for terminal in range(TERMINALS):
        first = LEARNT_PAYMENTS + terminal * PAYMENTS_PER_TERMINAL
        part = slice(first, first + PAYMENTS_PER_TERMINAL)
        honest_and_not, changed = rows[part], changed_ways(rows[part], fraud[part])
        clip = Clip([*honest_and_not[:shift_index], *changed[shift_index:]], period_ns)
        scoring, phase_ns = Scoring(fraud[part].tolist(), shift_index), period_ns * terminal // TERMINALS
        name = f"terminal {terminal + 1}"
        sensors.append(Sensor(name, "fraud", clip, period_ns, phase_ns, BUDGET_MS, "CRITICAL", "ALL", scoring))
    return sensors


def _words(sensors: list[Sensor], seconds: float) -> str:
    rate_hz = sum(sensor.rate_hz for sensor in sensors)
    return (
        f"Streaming for {seconds:g} s: {rate_hz:g} card payments a second at {len(sensors)} terminals, each wanted "
        f"within {BUDGET_MS:g} ms: the customer waits. No package was found that ships real frauds, as banks keep "
        "theirs; the payments and what they are come with EvalML, and look generated. The model learnt from older "
        f"ones. After {SHIFT_S:g} s fraudsters change their ways: in place of the largest sums they take the smallest."
    )


def _summary(sensors: list[Sensor]) -> dict[str, str]:
    scorings = [sensor.perception for sensor in sensors if isinstance(sensor.perception, Scoring)]
    before: Counter[tuple[bool, bool]] = sum((scoring.before for scoring in scorings), Counter())
    after: Counter[tuple[bool, bool]] = sum((scoring.after for scoring in scorings), Counter())
    on_time, sent = sum(s.tally.on_time for s in sensors), sum(s.tally.sent for s in sensors)
    slow_ns = [latency for sensor in sensors if (latency := sensor.tally.latency_ns(99)) is not None]
    slow = f", 99 of 100 within {milliseconds(max(slow_ns))}" if slow_ns else ""
    texts = {"payments": f"{on_time:,} of {sent:,} were scored in time{slow}."}
    if before:
        texts["as learnt"] = found_and_missed(before, _WORDS)
    if after:
        texts["changed ways"] = (
            f"{found_and_missed(after, _WORDS)} Labels are not used here: the model stays what it was."
        )
    return texts


DEMO = Demo(
    name="fraud",
    assets=("fraud_transactions.csv.gz",),
    models=("fraud",),
    made_by=(Path(__file__),),
    make=_make,
    sensors=_sensors,
    words=_words,
    summary=_summary,
)
