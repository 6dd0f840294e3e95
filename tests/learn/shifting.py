"""A stream whose concept shifts twice, sent to a real server that learns: what is lost, seen, and won back.

    python -m tests.learn.shifting fraud|intrusion [FRAMES_PER_CONCEPT [FRAMES_PER_SECOND]]

Frames are sent, and their labels a little later, as banks and analysts would; nobody does anything else. The report has
the accuracy before and after each shift, after how many frames drift was told, how many versions were published, and
the share of what was lost that came back.
"""

import argparse
import asyncio
import tempfile
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from duly.app import App
from duly.telemetry import configure_logging
from duly_client import Client, Feedback, Status
from tests.e2e.serving import serving
from tests.e2e.waiting import until
from tests.learn.concepts import FRAUD, INTRUSION, Concepts
from tests.learn.learner.made import TOML, put_model

LATER_FRAMES = 40
"""Labels come so many frames later."""
ATTEMPT_SECONDS_MAX = 300.0
SETTLED = 300
"""Accuracy is that of so many frames: the last before a shift, the first after it."""


@dataclass
class Shift:
    """What one shift of the concept did."""

    at: int
    """The number of the first frame of the new concept."""
    before: float
    """Shares of right answers: before it, in the worst stretch after it, and at the end of the concept."""
    after: float = 0.0
    recovered: float = 0.0
    seen_after: int | None = None
    """Frames until drift of errors was told."""
    first_version_after: int | None = None
    """Frames until a version that was made since served."""

    @property
    def share(self) -> float:
        """The share of what was lost that came back."""
        lost = self.before - self.after
        return (self.recovered - self.after) / lost if lost > 0 else 1.0


@dataclass
class Report:
    shifts: list[Shift] = field(default_factory=list)
    frames: int = 0
    missed: int = 0
    """Frames without an answer in time."""
    versions: list[str] = field(default_factory=list)
    """Versions that served, in their order."""


class Watch:
    """Looks at the learning of a server from frame to frame."""

    def __init__(self, app: App, name: str) -> None:
        self._app, self._name = app, name

    @property
    def drifts(self) -> int:
        learned = self._app.learning.models.get(self._name)
        return learned.drifts["errors"] if learned is not None else 0

    @property
    def attempts(self) -> int:
        learned = self._app.learning.models.get(self._name)
        return sum(learned.attempts.values()) if learned is not None else 0

    @property
    def labels(self) -> int:
        learned = self._app.learning.models.get(self._name)
        return learned.labels if learned is not None else 0


async def run(
    app: App,
    concepts: Concepts,
    frames_each: int,
    per_second: float,
    shifts: int = 2,
    wait_every: int = 0,
    streams: int = 1,
) -> Report:
    """Sends `frames_each` frames of each concept. `per_second`: the pace; 0: as fast as answers come. `wait_every`:
    after so many frames the learner is waited for until it has taken all labels, so that a test does not depend on
    speed. `streams`: how many send them, in turns.
    """
    report, watch = Report(), Watch(app, concepts.name)
    random = np.random.default_rng(7)
    right: list[bool] = []
    waiting: deque[Feedback] = deque()
    loop = asyncio.get_running_loop()
    period_ms = 1000 * streams / per_second if per_second else None
    async with AsyncExitStack() as open_now:
        client = await open_now.enter_async_context(Client(app.address))
        senders = [
            await open_now.enter_async_context(
                client.stream(concepts.name, name=f"sender-{at}", budget_ms=2000, backlog="ALL", period_ms=period_ms)
            )
            for at in range(streams)
        ]
        due_s = loop.time()
        for concept in range(shifts + 1):
            drifts = watch.drifts
            if concept:
                report.shifts.append(Shift(len(right), float(np.mean(right[-SETTLED:]))))
            numbers, labels = concepts.draw(random, frames_each, concept)
            for nth in range(frames_each):
                if per_second:
                    due_s = max(due_s + 1 / per_second, loop.time())
                    await asyncio.sleep(due_s - loop.time())
                stream = senders[nth % streams]
                frame_id = await stream.send(numbers[nth])
                outcome = await anext(stream)
                report.missed += outcome.status is not Status.ON_TIME
                right.append(outcome.ok and int(outcome.outputs["scores"].argmax()) == labels[nth])
                if not report.versions or report.versions[-1] != outcome.version:
                    report.versions.append(outcome.version)
                    if concept and report.shifts[-1].first_version_after is None and len(report.versions) > 1:
                        report.shifts[-1].first_version_after = nth
                waiting.append(
                    Feedback(stream.key_of(frame_id), frame_id, int(labels[nth]), source=f"branch-{len(right) % 4}")
                )
                if len(waiting) >= 2 * LATER_FRAMES:
                    await client.feedback([waiting.popleft() for _ in range(LATER_FRAMES)])
                if concept and report.shifts[-1].seen_after is None and watch.drifts > drifts:
                    report.shifts[-1].seen_after = nth + 1
                if wait_every and (nth + 1) % wait_every == 0:
                    await client.feedback([waiting.popleft() for _ in range(len(waiting))])
                    await _has_taken(app, watch, len(right))
            if concept:
                shift = report.shifts[-1]
                since = right[shift.at :]
                shift.after = float(np.mean(since[: min(SETTLED, shift.first_version_after or SETTLED)]))
                shift.recovered = float(np.mean(since[-SETTLED:]))
    report.frames = len(right)
    return report


async def _has_taken(app: App, watch: Watch, labels: int) -> None:
    """Waits until the learner knows so many labels, has tried what was due, and what it published serves."""
    name = watch._name

    def has() -> bool:
        learned, active = app.learning.models.get(name), app.catalogue.active(name)
        if learned is not None and learned.phase == "on trial":
            return True  # which frames have to go on for
        return (
            watch.labels >= labels
            and learned is not None
            and learned.phase == "watching"
            and active is not None
            and (not learned.published or int(active.version.version) >= int(learned.published))
        )

    await until(has, f"the learner has taken {labels} labels and tried what was due", ATTEMPT_SECONDS_MAX)


def told(concepts: Concepts, report: Report) -> str:
    """The report in words."""
    lines = [
        f"{concepts.name}: {report.frames} frames, {report.missed} not in time, versions that served: "
        f"{', '.join(report.versions)}"
    ]
    for shift in report.shifts:
        lines.append(
            f"  shift at frame {shift.at}: {shift.before:.1%} right before, {shift.after:.1%} after, drift told after "
            f"{shift.seen_after} frames, first new version after {shift.first_version_after} frames, "
            f"{shift.recovered:.1%} at the end: {shift.share:.0%} of the loss recovered"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stream", choices=["fraud", "intrusion"])
    parser.add_argument("frames", type=int, nargs="?", default=3000)
    parser.add_argument("per_second", type=float, nargs="?", default=50.0)
    given = parser.parse_args()
    concepts = FRAUD if given.stream == "fraud" else INTRUSION
    configure_logging("console", "warning")
    with tempfile.TemporaryDirectory() as folder:
        models, store = Path(folder, "models"), Path(folder, "store")
        store.mkdir()
        put_model(models, concepts, TOML)

        async def served() -> Report:
            async with serving(models, learn=store, watch="activate") as app:
                return await run(app, concepts, given.frames, given.per_second)

        print(told(concepts, asyncio.run(served())))


if __name__ == "__main__":
    main()
