"""`duly demo fraud`: card payments are scored as they come. Fraudsters change their ways, and the model learns."""

import csv
import gzip
from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duly.demo import training
from duly.demo.clips import Clip
from duly.demo.description import Demo, Files
from duly.demo.judgement import Words, found_and_missed, probability
from duly.demo.sensors import Labels, Sensor
from duly.demo.serving import Event
from duly.demo.summary import milliseconds
from duly_client import Client, FeedbackStatus, Outcome

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


SHOWN_PAYMENTS = 100
"""The live table has how many of so many newest answers were right."""

Counts = Counter[tuple[bool, bool]]
"""How many payments there were, by (fraud, called fraud)."""


class Scoring:
    """Perceives frauds among payments, for each way of the fraudsters and each version of the model apart."""

    def __init__(self, truth: Sequence[bool], changes: Sequence[int]) -> None:
        """`changes`: the first payments of the clip after each change."""
        self._truth, self._changes = truth, changes
        self._newest: tuple[float, str] | None = None
        self._right: deque[bool] = deque(maxlen=SHOWN_PAYMENTS)
        self.counts: dict[tuple[int, str], Counts] = {}
        """By how often the fraudsters had changed their ways, and the version."""

    def take(self, index: int, outcome: Outcome) -> None:
        score = probability(outcome)
        fraud, called = bool(self._truth[index]), score >= FRAUD_MIN
        self._newest = score, outcome.version
        self._right.append(fraud == called)
        ways = sum(index >= change for change in self._changes)
        self.counts.setdefault((ways, outcome.version), Counter())[fraud, called] += 1

    def now(self) -> str:
        if self._newest is None:
            return ""
        score, version = self._newest
        called = _WORDS.yes if score >= FRAUD_MIN else _WORDS.no
        return f"{called} {score:.2f} by version {version}; {sum(self._right)} of the last {len(self._right)} right"

    def summary(self) -> str:
        total: Counts = sum(self.counts.values(), Counter())
        return found_and_missed(total, _WORDS) if total else ""


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
        scoring = Scoring(frauds.tolist(), changes)
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

ATTEMPT = "an attempt at a new version has ended"
ENDS = ("ACTIVE", "ROLLED_BACK")
"""Of the server's log: what it calls an attempt, and the stages in which a trial ends."""


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
    on_time, sent = sum(s.tally.on_time for s in sensors), sum(s.tally.sent for s in sensors)
    slow_ns = [latency for sensor in sensors if (latency := sensor.tally.latency_ns(99)) is not None]
    slow = f", 99 of 100 within {milliseconds(max(slow_ns))}" if slow_ns else ""
    return {"payments": f"{on_time:,} of {sent:,} were scored in time{slow}."}


def _learnt(sensors: list[Sensor], events: Sequence[Event]) -> dict[str, str]:
    counts: dict[tuple[int, str], Counts] = {}
    for sensor in sensors:
        if isinstance(sensor.perception, Scoring):
            for key, each in sensor.perception.counts.items():
                counts[key] = counts.get(key, Counter()) + each
    texts: dict[str, str] = {}
    for ways in sorted({ways for ways, _ in counts}):
        versions = sorted((version for each, version in counts if each == ways), key=int)
        heading = "as learnt" if ways == 0 else "changed ways" if ways == 1 else "changed again"
        told = [f"Version {version}: {found_and_missed(counts[ways, version], _WORDS)}" for version in versions]
        if ways and len(versions) > 1:
            told.append(_recovered(_right(counts, ways - 1), counts[ways, versions[0]], counts[ways, versions[-1]]))
        texts[heading] = " ".join(told)
    texts["learning"] = _told(sensors, events)
    return texts


def _right(counts: dict[tuple[int, str], Counts], ways: int) -> float:
    """Share of right answers of the newest version before a change."""
    versions = [version for each, version in counts if each == ways]
    return _share(counts[ways, max(versions, key=int)]) if versions else 1.0


def _share(counts: Counts) -> float:
    return (counts[True, True] + counts[False, False]) / counts.total()


def _recovered(before: float, stale: Counts, fresh: Counts) -> str:
    lost, back = before - _share(stale), _share(fresh) - _share(stale)
    if lost <= 0:
        return "Nothing was lost."
    return f"Of what was lost, {back / lost:.0%} came back without a hand."


def _told(sensors: list[Sensor], events: Sequence[Event]) -> str:
    """Says what the server did with the labels, as its log told."""
    labels = [sensor.labels for sensor in sensors if sensor.labels is not None]
    joined = sum(each.by_status[FeedbackStatus.JOINED] for each in labels)
    told = [event.entry for event in events]
    drifts = [entry.get("at") for entry in told if entry.get("event") == "drift" and entry.get("signal") == "errors"]
    attempts = Counter(entry.get("result") for entry in told if entry.get("event") == ATTEMPT)
    stages = [(entry.get("model"), entry.get("stage")) for entry in told if entry.get("event") == "trial"]
    active, rolled_back = ([model for model, stage in dict.fromkeys(stages) if stage == end] for end in ENDS)
    sentences = [f"{joined:,} labels reached the server."]
    if drifts:
        sentences.append(f"It saw drift: {_and([f'at label {at}' for at in drifts])} errors were others than before.")
    if attempts["published"]:
        sentences.append(
            f"It made {_count(attempts['published'], 'new version')}, better on labels that were held back."
        )
    if refused := attempts.total() - attempts["published"]:
        sentences.append(f"{_count(refused, 'attempt')} came to no better one.")
    if active:
        sentences.append(f"{_and(active)} went through shadow and canary, and took over while payments went on.")
    if rolled_back:
        sentences.append(f"{_and(rolled_back)} did not pass.")
    if not attempts:
        sentences.append("In this time it made no new version.")
    elif not active:
        sentences.append("In this time none took over; --seconds 40 gives it more.")
    return " ".join(sentences)


def _and(texts: Sequence[object]) -> str:
    *first, last = (str(text) for text in texts)
    return f"{', '.join(first)} and {last}" if first else last


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


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
