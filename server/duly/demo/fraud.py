"""`duly demo fraud`: card payments are scored as they come. Fraudsters change their ways, and the model learns."""

import csv
import gzip
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duly.demo import training
from duly.demo.changing import Scoring, learnt, scored
from duly.demo.clips import Clip
from duly.demo.description import Demo, Files
from duly.demo.judgement import Words
from duly.demo.sensors import Labels, Sensor
from duly.demo.serving import Event
from duly_client import Client

LEARNT_PAYMENTS = 30_000
"""The oldest payments, from which the model learns. Those that stream came later."""
HONEST_KEPT = 3
"""Of the honest payments one in so many streams, so that there are frauds enough to see in seconds."""
TERMINALS = 4
RATE_HZ = 75
"""Payments a second at each terminal."""
BUDGET_MS = 50.0
FRAUD_MIN = 0.5
LABEL_AFTER_S = 1.0
"""So long after a payment it is known whether it was a fraud. With a bank it is days."""
CHANGES_S = (2.0, 30.0)
"""Fraudsters change their ways so long after the start, and again."""
LARGE = 90_000.0
"""No honest payment of the data set is larger; two frauds of three are."""
SAME_SUM = 45_000.0

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


def changed_ways(rows: training.Floats, fraud: npt.NDArray[np.bool_], ways: int) -> training.Floats:
    """Returns the payments as they are once fraudsters have changed their ways so often. At first (0) they take the
    largest sums, then (1) a thousandth of those, and then (2) always about the same sum. Honest payments, and frauds
    with sums like theirs, stay what they are.
    """
    changed = rows.copy()
    large = fraud & (rows[:, 0] > LARGE)
    if ways > 0:
        changed[large, 0] /= 1000
    if ways > 1:
        changed[large, 0] += SAME_SUM
    return changed


def _make(files: Files, models: Path) -> None:
    rows, fraud = read_payments(files["fraud_transactions.csv.gz"])
    training.write_forest(models / "fraud/1/model.onnx", rows[:LEARNT_PAYMENTS], fraud[:LEARNT_PAYMENTS])


async def _sensors(client: Client, files: Files) -> list[Sensor]:
    rows, fraud = read_payments(files["fraud_transactions.csv.gz"])
    rows, fraud = rows[LEARNT_PAYMENTS:], fraud[LEARNT_PAYMENTS:]
    kept = fraud | (np.cumsum(~fraud) % HONEST_KEPT == 0)
    rows, fraud = rows[kept], fraud[kept]
    each = len(rows) // TERMINALS
    changes = [round(change_s * RATE_HZ) for change_s in CHANGES_S]
    period_ns = 1_000_000_000 // RATE_HZ
    sensors = []
    for terminal in range(TERMINALS):
        part = slice(terminal * each, (terminal + 1) * each)
        frauds = fraud[part]
        ways = [changed_ways(rows[part], frauds, number) for number in range(len(changes) + 1)]
        payments = [
            payment
            for number, (start, stop) in enumerate(pairwise([0, *changes, each]))
            for payment in ways[number][start:stop]
        ]
        scoring = Scoring(frauds.tolist(), changes, _WORDS, FRAUD_MIN)
        labels = Labels(frauds.astype(int).tolist(), round(LABEL_AFTER_S * 1e9))
        sensor = Sensor(
            f"terminal {terminal + 1}",
            "fraud",
            Clip(payments, period_ns),
            period_ns,
            period_ns * terminal // TERMINALS,
            BUDGET_MS,
            "CRITICAL",
            "ALL",
            scoring,
            labels,
        )
        sensors.append(sensor)
    return sensors


# ---- words ----


def _words(sensors: list[Sensor], seconds: float) -> str:
    rate_hz = sum(sensor.rate_hz for sensor in sensors)
    changes = " and ".join(f"{change_s:g} s" for change_s in CHANGES_S if change_s < seconds) or "nothing"
    return (
        f"Streaming for {seconds:g} s: {rate_hz:g} card payments a second at {len(sensors)} terminals, each wanted "
        f"within {BUDGET_MS:g} ms: the customer waits. No package was found that ships real frauds, as banks keep "
        "theirs; the payments and what they are come with EvalML, and look generated. The model learnt from older "
        f"ones. After {changes} fraudsters change their ways: from the largest sums to a thousandth of them, and then "
        f"to always the same. What a payment was is known {LABEL_AFTER_S:g} s after it, and told to the server, which "
        "learns from it and tries what it has learnt before it relies on that."
    )


def _summary(sensors: list[Sensor]) -> dict[str, str]:
    return {"payments": scored(sensors)}


def _learnt(sensors: list[Sensor], events: Sequence[Event]) -> dict[str, str]:
    return learnt(sensors, events, ("as learnt", "changed ways", "changed again"))


DEMO = Demo(
    name="fraud",
    assets=("fraud_transactions.csv.gz",),
    models=("fraud",),
    made_by=(Path(__file__),),
    make=_make,
    sensors=_sensors,
    words=_words,
    summary=_summary,
    learnt=_learnt,
)
