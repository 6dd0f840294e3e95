"""What a row of the chaos run found: its counts, and what was wrong."""

import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FAILURES_SHOWN = 40
"""How many failures of a row are shown in full."""


class CannotRun(Exception):
    """A row cannot be shown here; the text says why."""


@dataclass(slots=True)
class Finding:
    """What one row found."""

    name: str
    counts: dict[str, int | float | str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Parts that could not be shown here, with the reason."""
    judges_speed: bool = True
    """Whether what was too slow is a failure. A quick run tells of it and no more, as it runs on machines of which
    nothing is known.
    """
    slow: list[str] = field(default_factory=list)

    def check(self, true: bool, failure: str) -> bool:
        """Notes `failure` unless `true`."""
        if not true:
            self.failures.append(failure)
        return true

    def check_speed(self, true: bool, slow: str) -> None:
        """Notes `slow` unless `true`."""
        if not true:
            (self.failures if self.judges_speed else self.slow).append(slow)

    def count(self, what: str, times: int = 1) -> None:
        before = self.counts.get(what, 0)
        assert isinstance(before, int)
        self.counts[what] = before + times

    def say(self, text: str) -> None:
        """Prints what is known so far."""
        sys.stdout.write(f"  {text}\n")
        sys.stdout.flush()

    @property
    def verdict(self) -> str:
        if self.failures:
            return "FAILED"
        return "held" if self.counts else "not run"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of a row."""

    seed: int
    full: bool
    """Whether the row's full counts are asked for, rather than the few that show that it works."""
    folder: Path
    """An empty folder of the row's own."""
    hours: float
    """How long a soak takes."""
    only: frozenset[str] = frozenset()
    """The attacks or parts of a row that are to be shown; empty: all."""
    arguments: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Arguments of the two servers whose costs are compared."""

    def wants(self, name: str) -> bool:
        return not self.only or name in self.only

    def of(self, quick: int, full: int) -> int:
        return full if self.full else quick


Show = Callable[[Plan, Finding], Coroutine[Any, Any, None]]
"""Shows one row. Raises CannotRun."""


def told(findings: list[Finding]) -> str:
    """Returns the closing table, with the failures of each row below it."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = ["", f"{'row':{width}}  verdict  counts"]
    for finding in findings:
        counts = ", ".join(f"{_number(value)} {what}" for what, value in finding.counts.items())
        lines.append(f"{finding.name:{width}}  {finding.verdict:7}  {counts}")
        lines += [f"{'':{width}}           not shown: {reason}" for reason in finding.skipped]
        lines += [f"{'':{width}}           slow here: {slow}" for slow in finding.slow[:FAILURES_SHOWN]]
        lines += [f"{'':{width}}           ! {failure}" for failure in finding.failures[:FAILURES_SHOWN]]
        if len(finding.failures) > FAILURES_SHOWN:
            lines.append(f"{'':{width}}           ! and {len(finding.failures) - FAILURES_SHOWN} more")
    return "\n".join(lines) + "\n"


def _number(value: int | float | str) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value
