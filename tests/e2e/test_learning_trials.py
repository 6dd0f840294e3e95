"""The whole way of a version that was learnt: made of labels, published, tried in the shadow and in the canary, active,
by rules that decide by evidence; and that of a version that should never have been made.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from duly.app import App
from duly.trials.trial import Stage
from duly_client import Client, Feedback, Stream
from duly_learn.alone import Taken, alone
from duly_learn.learner.publish import publish
from tests.e2e.serving import serving
from tests.learn.concepts import FRAUD
from tests.learn.learner.made import TOML, put_model

pytestmark = pytest.mark.learn

TRIAL = """
[task]
measure = "top1"
[trial]
agreement_min = 0.3
frames_min = 20
on_time_worse_max = 0.3
shadow_share = 1.0
canary_share = 0.5
canary_block_s = 0.4
"""
"""What is left at its default: nothing goes on that is not proven (`at_limit`), and an hour for each stage."""
CONCEPT = 1
STREAMS, PERIOD_S = 4, 0.02
BUDGET_MS = 250.0
"""Shorter than a block of the canary."""
ROUNDS_MAX = 20_000
"""What has not come by then never will."""


class Payments:
    """Terminals that send a payment each, again and again, and say soon what it was."""

    def __init__(self, app: App, client: Client, streams: list[Stream]) -> None:
        self._app, self._client, self._streams = app, client, streams
        self._random = np.random.default_rng(3)
        self.answers: list[tuple[str, bool]] = []
        """The version that answered, and whether it was right."""

    async def until(self, there: Callable[[], bool], what: str) -> None:
        for _ in range(ROUNDS_MAX):
            if there():
                return
            await self._round()
        raise AssertionError(f"{what}; trials: {self._app.trials.reports()}; {self._app.learning.models}")

    async def _round(self) -> None:
        numbers, labels = FRAUD.draw(self._random, STREAMS, CONCEPT)
        ids = [await stream.send(row) for stream, row in zip(self._streams, numbers, strict=True)]
        said = []
        for stream, frame_id, label in zip(self._streams, ids, labels, strict=True):
            outcome = await anext(stream)
            if outcome.ok:
                self.answers.append((outcome.version, int(outcome.outputs["scores"].argmax()) == label))
                said.append(Feedback(stream.key_of(frame_id), frame_id, int(label)))
        if said:
            await self._client.feedback(said)
        await asyncio.sleep(PERIOD_S)  # as terminals do

    def right(self, newest: int) -> float:
        return float(np.mean([right for _, right in self.answers[-newest:]]))


@asynccontextmanager
async def payments(app: App) -> AsyncIterator[Payments]:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(app.address))
        streams = [
            await stack.enter_async_context(
                client.stream(
                    "fraud", name=f"terminal-{at}", budget_ms=BUDGET_MS, backlog="ALL", period_ms=PERIOD_S * 1e3
                )
            )
            for at in range(STREAMS)
        ]
        yield Payments(app, client, streams)


def put_poisoned(folder: Path) -> Path:
    """Makes a version that has learnt labels of which each says the opposite. Returns its folder."""

    def flipped(random: np.random.Generator, count: int, concept: int) -> tuple[np.ndarray, np.ndarray]:
        numbers, labels = FRAUD.draw(random, count, CONCEPT)
        return numbers, 1 - labels

    return put_model(folder, replace(FRAUD, draw=flipped), TOML) / "1"


@pytest.mark.timeout(600)
async def test_a_learnt_version_is_promoted_by_evidence_and_a_poisoned_one_rolled_back(tmp_path: Path) -> None:
    models, store = tmp_path / "models", tmp_path / "store"
    store.mkdir()
    folder, made = put_model(models, FRAUD, TOML + TRIAL), put_poisoned(tmp_path / "made")
    async with serving(models, learn=store, watch="activate", watch_settle_s=0.1) as app, payments(app) as sent:

        def stage(version: str) -> Stage | None:
            report = app.trials.report("fraud", version)
            return report.stage if report is not None else None

        await sent.until(lambda: len(sent.answers) >= 200, "frames are answered")
        before = sent.right(200)
        await sent.until(lambda: stage("2") is Stage.ACTIVE, "version 2 is learnt and becomes active")
        report = app.trials.report("fraud", "2")
        assert report is not None
        assert report.against == "1"
        assert "nothing was proven" not in report.reason
        assert report.figures.agreement_low > 0.3, "proven in the shadow"
        assert report.figures.canary_frames >= 20
        first = len(sent.answers)
        await sent.until(lambda: len(sent.answers) >= first + 400, "version 2 answers")
        assert "1" not in {version for version, _ in sent.answers[-200:]}
        assert sent.right(200) > 0.9 > 0.7 > before

        poisoned = ""

        def is_published() -> bool:
            nonlocal poisoned
            try:
                with alone(folder):
                    poisoned = publish(folder, made, {"from": "2"}, False, lambda step: None)
            except Taken:  # by the learner, which tries again and finds nothing better
                return False
            return True

        await sent.until(is_published, "nobody makes a version")
        await sent.until(lambda: stage(poisoned) is Stage.ROLLED_BACK, "the poisoned version is rolled back")
        report = app.trials.report("fraud", poisoned)
        assert report is not None
        assert "less than asked for" in report.reason
        assert report.figures.agreement_high < 0.3
        assert poisoned not in {version for version, _ in sent.answers}, "no terminal has had an answer of it"
        active = app.catalogue.active("fraud")
        assert active is not None
        assert active.version.version != poisoned  # but "2", or what the learner has made of it meanwhile
        assert stage(active.version.version) is Stage.ACTIVE
