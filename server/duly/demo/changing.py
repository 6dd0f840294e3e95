"""Judges a model that learns while the world changes: each version, before and after each change, by what is true."""

from collections import Counter, deque
from collections.abc import Sequence

from duly.demo.judgement import Words, found_and_missed, probability
from duly.demo.sensors import Sensor
from duly.demo.serving import Event
from duly.demo.summary import milliseconds
from duly_client import FeedbackStatus, Outcome

ATTEMPT = "an attempt at a new version has ended"
ENDS = ("ACTIVE", "ROLLED_BACK")
"""Of the server's log: what it calls an attempt, and the stages in which a trial ends."""


SHOWN_FRAMES = 100
"""The live table has how many of so many newest answers were right."""

Counts = Counter[tuple[bool, bool]]
"""How many frames there were, by (truth, answer)."""


class Scoring:
    """Perceives a yes or a no in each frame, and judges it for each time between changes and each version apart."""

    def __init__(self, truth: Sequence[bool], changes: Sequence[int], words: Words, threshold: float) -> None:
        """`changes`: the first frames of the clip after each change. A score of `threshold` and above is a yes."""
        self._truth, self._changes = truth, changes
        self.words, self._threshold = words, threshold
        self._newest: tuple[float, str] | None = None
        self._right: deque[bool] = deque(maxlen=SHOWN_FRAMES)
        self.counts: dict[tuple[int, str], Counts] = {}
        """By how many changes there had been, and the version."""

    def take(self, index: int, outcome: Outcome) -> None:
        score = probability(outcome)
        truth, answer = bool(self._truth[index]), score >= self._threshold
        self._newest = score, outcome.version
        self._right.append(truth == answer)
        changed = sum(index >= change for change in self._changes)
        self.counts.setdefault((changed, outcome.version), Counter())[truth, answer] += 1

    def now(self) -> str:
        if self._newest is None:
            return ""
        score, version = self._newest
        word = self.words.yes if score >= self._threshold else self.words.no
        return f"{word} {score:.2f} by version {version}; {sum(self._right)} of the last {len(self._right)} right"

    def summary(self) -> str:
        total: Counts = sum(self.counts.values(), Counter())
        return found_and_missed(total, self.words) if total else ""


def scored(sensors: Sequence[Sensor]) -> str:
    """Says how many frames were scored in time."""
    on_time, sent = sum(s.tally.on_time for s in sensors), sum(s.tally.sent for s in sensors)
    slow_ns = [latency for sensor in sensors if (latency := sensor.tally.latency_ns(99)) is not None]
    slow = f", 99 of 100 within {milliseconds(max(slow_ns))}" if slow_ns else ""
    return f"{on_time:,} of {sent:,} were scored in time{slow}."


def learnt(sensors: Sequence[Sensor], events: Sequence[Event], headings: Sequence[str]) -> dict[str, str]:
    """Says how right each version was before the first change and after each one, and how the server learnt.

    `headings`: of the paragraph before any change, and of that after each.
    """
    counts: dict[tuple[int, str], Counts] = {}
    for sensor in sensors:
        if isinstance(sensor.perception, Scoring):
            for key, each in sensor.perception.counts.items():
                counts[key] = counts.get(key, Counter()) + each
    words = next(each.perception.words for each in sensors if isinstance(each.perception, Scoring))
    texts: dict[str, str] = {}
    for changed in sorted({changed for changed, _ in counts}):
        versions = sorted((version for each, version in counts if each == changed), key=int)
        told = [f"Version {version}: {found_and_missed(counts[changed, version], words)}" for version in versions]
        if changed and len(versions) > 1:
            stale, fresh = counts[changed, versions[0]], counts[changed, versions[-1]]
            told.append(_recovered(_right(counts, changed - 1), stale, fresh))
        texts[headings[changed]] = " ".join(told)
    texts["learning"] = _told(sensors, events)
    return texts


def _right(counts: dict[tuple[int, str], Counts], changed: int) -> float:
    """Share of right answers of the newest version after so many changes."""
    versions = [version for each, version in counts if each == changed]
    return _share(counts[changed, max(versions, key=int)]) if versions else 1.0


def _share(counts: Counts) -> float:
    return (counts[True, True] + counts[False, False]) / counts.total()


def _recovered(before: float, stale: Counts, fresh: Counts) -> str:
    lost, back = before - _share(stale), _share(fresh) - _share(stale)
    if lost <= 0:
        return "Nothing was lost."
    return f"Of what was lost, {back / lost:.0%} came back without a hand."


def _told(sensors: Sequence[Sensor], events: Sequence[Event]) -> str:
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
        sentences.append(f"{_and(active)} went through shadow and canary, and took over while frames went on.")
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
