"""Deadlines that are missed with a learner at work and without, in turns, on the same machine.

    python -m tests.learn.misses [ROUNDS [SECONDS]]

In each turn a server of its own serves a camera's model to CRITICAL streams that take seven tenths of its lane, and the
fraud model to a stream whose labels come at once. With the learner, a version is tried as often as it can be: a turn is
mostly training, validation in workers, and versions that are published, loaded and activated.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duly_client import Client, Feedback, ServerUnavailable, Status
from tests import graphs
from tests.learn.concepts import FRAUD
from tests.learn.learner.made import TOML, Stream, put_model

LOAD = 0.7
BUDGET_MS = 250.0
ROUNDS, WIDTH = 15, 256
FRAUD_PER_SECOND = 50.0


@dataclass
class Turn:
    learning: bool
    frames: int = 0
    missed: int = 0
    attempts: int = 0
    versions: int = 0
    worst_ms: float = 0.0


def put_models(folder: Path) -> Path:
    models = folder / "models"
    graphs.save(models, "camera", graphs.slow(rounds=ROUNDS, width=WIDTH), "batch_sizes = [1]\n")
    put_model(models, FRAUD, TOML.replace("every = 200", "every = 20"))
    return models


def turn(models: Path, folder: Path, learning: bool, seconds: float) -> Turn:
    """Serves and measures for so many seconds, once a learner has begun."""
    folder.mkdir()
    store = folder / "store"
    store.mkdir()
    if learning:  # there is something to learn from the beginning
        Stream(store, models / "fraud", FRAUD).send(600, 1)
    command = [sys.executable, "-m", "duly.cli", "serve", "--models", str(models), "--threads", "1"]
    command += ["--listen", f"unix:{folder}/duly.sock", "--watch", "activate", "--log-level", "error"]
    command += ["--learn", str(store)] if learning else []
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            return asyncio.run(_measured(f"unix:{folder}/duly.sock", Turn(learning), seconds))
        finally:
            server.terminate()
            server.wait(20)


async def _measured(address: str, found: Turn, seconds: float) -> Turn:
    async with Client(address) as client:
        await _until_there(client, found.learning)
        camera = await client.model("camera")
        planned_ns = camera.versions[0].variants[0].profile[0].planned_nano
        await asyncio.gather(_camera(client, found, planned_ns / 1e9 / LOAD, seconds), _fraud(client, found, seconds))
        for learned in await client.learning("fraud"):
            found.attempts = sum(each.count for each in learned.attempts)
        found.versions = len((await client.model("fraud")).versions)
        return found


async def _until_there(client: Client, learning: bool) -> None:
    """Waits until the server serves, and its learner has begun where it has one."""
    for _ in range(1200):
        try:
            if await client.learning("fraud") or not learning:
                return
        except ServerUnavailable:
            pass  # it is loading its models
        await asyncio.sleep(0.05)
    raise TimeoutError("the server does not serve")


async def _camera(client: Client, found: Turn, period_s: float, seconds: float) -> None:
    frame = np.ones((1, 1), np.float32)
    loop = asyncio.get_running_loop()
    terms: dict[str, Any] = {"budget_ms": BUDGET_MS, "stream_class": "CRITICAL", "backlog": "ALL"}
    async with client.stream("camera", period_ms=period_s * 1e3, **terms) as stream:
        count = int(seconds / period_s)
        began_s = loop.time()

        async def send() -> None:
            for nth in range(count):
                await asyncio.sleep(max(0.0, began_s + nth * period_s - loop.time()))
                await stream.send(frame)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            for _ in range(count):
                outcome = await anext(stream)
                found.frames += 1
                found.missed += outcome.status is not Status.ON_TIME
                found.worst_ms = max(found.worst_ms, outcome.latency_ns / 1e6)


async def _fraud(client: Client, found: Turn, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    numbers, labels = FRAUD.draw(np.random.default_rng(3), int(seconds * FRAUD_PER_SECOND), 1)
    began_s = loop.time()
    async with client.stream("fraud", budget_ms=1000, backlog="ALL") as stream:
        for nth in range(len(numbers)):
            await asyncio.sleep(max(0.0, began_s + nth / FRAUD_PER_SECOND - loop.time()))
            frame_id = await stream.send(numbers[nth])
            outcome = await anext(stream)
            if found.learning and outcome.ok:
                await client.feedback([Feedback(stream.key_of(frame_id), frame_id, int(labels[nth]))])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=int, nargs="?", default=3)
    parser.add_argument("seconds", type=float, nargs="?", default=9.0)
    given = parser.parse_args()
    turns: list[Turn] = []
    with tempfile.TemporaryDirectory() as name:
        for nth in range(given.rounds):
            for learning in (False, True):
                folder = Path(name, f"{nth}-{learning}")
                models = put_models(Path(name, f"models-{nth}-{learning}"))
                turns.append(turn(models, folder, learning, given.seconds))
                print(turns[-1], flush=True)
    for learning in (False, True):
        of_kind = [each for each in turns if each.learning is learning]
        frames, missed = sum(each.frames for each in of_kind), sum(each.missed for each in of_kind)
        print(f"{'with' if learning else 'without'} learner: {missed} of {frames} CRITICAL frames missed")


if __name__ == "__main__":
    main()
