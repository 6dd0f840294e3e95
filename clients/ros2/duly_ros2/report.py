"""How one stream does, for diagnostics. The keys of its times are those of Autoware's nodes.

Time is an argument: nanoseconds of the monotonic clock.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from duly_client import ClockEstimate, Outcome, Status

PROBLEMS_MAX = 32
"""Kinds of problems that are held for one stream; further ones are not shown."""
PROBLEM_SHOWN_NS = 10_000_000_000
"""How long a problem is shown after it was last seen."""
CONSECUTIVE_DELAY_NS_MAX = 1_000_000_000
"""No result in time for longer than this, while messages come, is an error."""

Level = Literal["OK", "WARN", "ERROR"]
_LEVELS: tuple[Level, ...] = ("OK", "WARN", "ERROR")


@dataclass(slots=True)
class _Problem:
    level: Level
    text: str
    seen_ns: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A stream's state."""

    level: Level
    message: str
    values: dict[str, str]


class Report:
    """Counts what became of a stream's messages, and keeps what went wrong lately."""

    def __init__(self, budget_ns: int = 0) -> None:
        self.budget_ns = budget_ns
        """What results are expected within; 0: not known."""
        self._counts: Counter[Status] = Counter()
        self._told: Counter[Status] = Counter()
        self._problems: dict[str, _Problem] = {}
        self._lasting: dict[str, _Problem] = {}
        self._processing_ns = 0
        self._stages_ns: dict[str, int] = {}
        self._missing_since_ns: int | None = None
        """Since when no result was in time, though messages came; None: the newest was."""
        self._why_missing = ""
        """Why there was none, in words; of what newer messages pushed aside nothing is told, as they follow on it."""

    def answered(self, status: Status, outcome: Outcome | None, now_ns: int, reason: str = "") -> None:
        """Counts what became of one message."""
        self._counts[status] += 1
        if status is Status.ON_TIME:
            self._missing_since_ns, self._why_missing = None, ""
        else:
            if self._missing_since_ns is None:
                self._missing_since_ns = now_ns
            if reason and (status is not Status.SUPERSEDED or not self._why_missing):
                self._why_missing = f"{status.name}, {reason}"
        if outcome is None or not outcome.ok:
            return
        timing = outcome.timing
        self._processing_ns = outcome.latency_ns
        self._stages_ns = {
            "transfer": timing.capture_to_receipt_ns,
            "queue": timing.dispatched_ns,
            "execution": timing.finished_ns - timing.started_ns,
            "hand_over": timing.sent_ns - timing.finished_ns,
        }

    def problem(self, kind: str, text: str, now_ns: int, level: Level = "WARN") -> bool:
        """Notes something that went wrong; returns whether it was not known already."""
        known = self._problems.get(kind)
        if known is not None:
            known.count += 1
            is_new = now_ns - known.seen_ns > PROBLEM_SHOWN_NS
            known.text, known.seen_ns, known.level = text, now_ns, level
            return is_new
        if len(self._problems) >= PROBLEMS_MAX:
            return False
        self._problems[kind] = _Problem(level, text, now_ns)
        return True

    def lasting(self, kind: str, text: str | None, now_ns: int) -> bool:
        """Notes an error that stands until it is taken back with None; returns whether it was not known already."""
        if text is None:
            self._lasting.pop(kind, None)
            return False
        known = self._lasting.get(kind)
        self._lasting[kind] = _Problem("ERROR", text, now_ns)
        return known is None or known.text != text

    def diagnose(self, clock: ClockEstimate | None, now_ns: int) -> Diagnosis:
        """Returns the state now; ratios are over what was answered since the last call."""
        self._problems = {k: p for k, p in self._problems.items() if now_ns - p.seen_ns <= PROBLEM_SHOWN_NS}
        since = self._counts - self._told
        self._told = self._counts.copy()
        dropped = sum(count for status, count in since.items() if status > Status.LATE)
        ratio = dropped / since.total() if since else 0.0
        in_range = not self.budget_ns or self._processing_ns <= self.budget_ns
        delay_ns = now_ns - self._missing_since_ns if self._missing_since_ns is not None else 0
        delay_in_range = delay_ns <= CONSECUTIVE_DELAY_NS_MAX
        values = {
            "is_processing_time_ms_in_expected_range": str(in_range),
            "processing_time_ms": f"{self._processing_ns / 1e6:.3f}",
            "is_consecutive_processing_delay_in_range": str(delay_in_range),
            "consecutive_processing_delay_ms": f"{delay_ns / 1e6:.3f}",
            **{f"processing_time/{stage}": f"{time_ns / 1e6:.3f}" for stage, time_ns in self._stages_ns.items()},
            "drop_ratio": f"{ratio:.3f}",
            "frames": str(self._counts.total()),
            **{f"frames/{status.name}": str(count) for status, count in sorted(self._counts.items())},
        }
        if clock is not None:
            values["clock_offset_ms"] = f"{clock.offset_ns / 1e6:.3f}"
            values["clock_uncertainty_ms"] = f"{clock.uncertainty_ns / 1e6:.3f}"
        found = [*self._lasting.values(), *self._problems.values()]
        if not delay_in_range:
            found.append(_Problem("ERROR", _words(delay_ns, self._why_missing), now_ns))
        elif not in_range:
            found.append(_Problem("WARN", "the last result took longer than its budget", now_ns))
        elif ratio > 0:
            found.append(_Problem("WARN", f"{ratio:.0%} of the messages have no result", now_ns))
        found.sort(key=lambda problem: -_LEVELS.index(problem.level))
        for kind, problem in (*self._lasting.items(), *self._problems.items()):
            values[f"problem/{kind}"] = problem.text + (f" ({problem.count} times)" if problem.count > 1 else "")
        return Diagnosis(
            found[0].level if found else "OK",
            "; ".join(problem.text for problem in found)
            or ("frames are served" if self._counts else "no message came yet"),
            values,
        )


def _words(delay_ns: int, why: str) -> str:
    return f"no result in time for {delay_ns / 1e9:.1f} s" + (f": {why}" if why else "")
