"""A learner or a trainer that is killed at any step leaves what serves as it is: every frame has the outcome that it
has on a server that learns nothing.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from duly.app import App
from duly.models.repository import Repository
from duly.runtime import learning
from duly_client import Client, Feedback, Outcome
from tests import graphs
from tests.e2e.serving import serving
from tests.learn.concepts import FRAUD
from tests.learn.learner import dying_served
from tests.learn.learner.made import TOML, put_model, versions_of
from tests.learn.learner.test_crashes import STEPS

pytestmark = pytest.mark.learn

BUDGET_MS = 600_000
PATIENT = {"budget_ms_max": BUDGET_MS, "slow_reader_timeout_s": 3600.0}
"""However slow the machine is, no frame is late."""
FRAMES_MAX = 20_000
"""A learner that has not died at all its steps by then never will."""
LABELS_EVERY, PAUSE_SECONDS = 20, 0.2
"""The pace of the stream, as of a sensor: labels come after so many frames, and then there is a pause."""
OF_LEARNER = STEPS
OF_TRAINER = (*(f"{dying_served.TRAINER}{death}" for death in dying_served.DEATHS), "published")


@dataclass(frozen=True)
class Served:
    """An outcome, as far as it can be compared."""

    frame_id: int
    status: str
    reason: str
    version: str
    outputs: tuple[tuple[str, bytes], ...]


def served(outcome: Outcome) -> Served:
    outputs = tuple((name, np.asarray(array).tobytes()) for name, array in sorted(outcome.outputs.items()))
    return Served(outcome.frame_id, outcome.status.name, outcome.reason, outcome.version, outputs)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = graphs.save(tmp_path / "models", "double", graphs.doubling())
    put_model(folder, FRAUD, TOML.replace("every = 200", "every = 20"))
    return folder


NUMBERS, LABELS = FRAUD.draw(np.random.default_rng(5), FRAMES_MAX, 1)


@dataclass
class Sent:
    """Frames of payments and of plain numbers, with all their outcomes, by model."""

    ids: dict[str, list[int]]
    found: dict[str, list[Served]]
    key: str


async def send(app: App, is_over: Callable[[int, Sent], Awaitable[bool]]) -> Sent:
    """Sends a frame to each model, one after another, until `is_over(count, sent)`. Whatever else then comes counts."""
    sent = Sent({"fraud": [], "double": []}, {"fraud": [], "double": []}, "")
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(app.address))
        streams = {name: await stack.enter_async_context(client.stream(name, budget_ms=BUDGET_MS)) for name in sent.ids}
        for nth in range(FRAMES_MAX):
            frames = {"fraud": NUMBERS[nth], "double": np.full(4, nth, np.float32)}
            for name, stream in streams.items():
                sent.ids[name].append(await stream.send(frames[name]))
            for name, stream in streams.items():
                sent.found[name].append(served(await anext(stream)))
            sent.key = sent.key or streams["fraud"].key_of(sent.ids["fraud"][0])
            if await is_over(nth + 1, sent):
                break
        for name, stream in streams.items():
            await stream.finish()
            sent.found[name] += [served(outcome) async for outcome in stream]
    return sent


async def send_until_learnt(app: App, left: Callable[[], str]) -> Sent:
    """Sends frames and their labels until the learner has died at every step, and has learnt all the same."""
    async with Client(app.address) as client:

        async def is_over(count: int, sent: Sent) -> bool:
            if count % LABELS_EVERY:
                return False
            ids = sent.ids["fraud"]
            last = range(count - LABELS_EVERY, count)
            await client.feedback([Feedback(sent.key, ids[at], int(LABELS[at])) for at in last])
            await asyncio.sleep(PAUSE_SECONDS)
            learned = app.learning.models.get("fraud")
            assert count < FRAMES_MAX, f"{left()} is left, and of the learner was heard {learned}"
            return bool(not left() and learned and learned.published)  # which only the life after the last death says

        return await send(app, is_over)


def until(frames: int) -> Callable[[int, Sent], Awaitable[bool]]:
    async def is_over(count: int, sent: Sent) -> bool:
        return count == frames

    return is_over


@pytest.mark.timeout(600)
@pytest.mark.parametrize("deaths", [OF_LEARNER, OF_TRAINER], ids=["learner", "trainer"])
async def test_every_outcome_is_that_of_a_server_that_learns_nothing(
    tmp_path: Path, models: Path, deaths: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, steps = tmp_path / "store", tmp_path / "steps"
    store.mkdir()
    steps.write_text("\n".join(deaths))
    monkeypatch.setattr(learning, "LEARNER", (sys.executable, "-P", dying_served.__file__))
    monkeypatch.setattr(learning, "BACK_OFF_SECONDS", 0.05)
    monkeypatch.setattr(learning, "BACK_OFF_SECONDS_MAX", 0.05)
    async with serving(models, learn=store, **PATIENT) as app:
        learnt = await send_until_learnt(app, steps.read_text)
        assert app.learning.restarts >= len(deaths)
        assert {each.version for each in learnt.found["fraud"]} == {"1"}, "without --watch the version stays"
    assert versions_of(models / "fraud") == [1, 2]
    assert not Repository(models).scan()[1]
    (models / "fraud" / "2").rename(tmp_path / "learnt")
    async with serving(models, **PATIENT) as app:
        plain = await send(app, until(len(learnt.ids["fraud"])))
    for name in ("fraud", "double"):
        assert [each.frame_id for each in learnt.found[name]] == learnt.ids[name], "one outcome for each frame"
        assert learnt.found[name] == plain.found[name]
