"""Deadlines that are missed with a learner at work and without, in turns, on the same machine.

    python -m tests.learn.misses [--within SECONDS] [--seconds SECONDS] [--results FILE]

In each turn a server of its own serves a camera's model to a CRITICAL stream that takes two fifths of its lane, and the
fraud model to a stream whose labels come at once. With the learner, a version is tried as often as it can be: a turn
is mostly training, validation in workers, and versions that are published, loaded and activated.

Turns come in pairs, one with and one without, of which now the one and now the other is first. A run makes as many
pairs as end within its time, and adds them to FILE, so that an hour can be made of slices; what it says at its end is
of all pairs there. Frames of a turn have much in common, and so the pairs are what counts: the interval is Student's of
their differences, and the test flips the signs of these at random (seeded).
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from duly_client import Client, Feedback, ServerUnavailable, Status
from tests import graphs
from tests.learn.concepts import FRAUD
from tests.learn.learner.made import TOML, Stream, put_model

LOAD = 0.4
START_SECONDS_MAX = 30.0
FLIPS = 100_000
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
    ends_s = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < ends_s:
        try:
            if await client.learning("fraud") or not learning:
                return
        except ServerUnavailable:
            pass  # it is loading its models
        await asyncio.sleep(0.05)
    raise TimeoutError(
        f"the server{' or its learner' if learning else ''} has not begun within {START_SECONDS_MAX:g} s: a learner "
        "has what others leave of the processors, and so this needs a machine that does nothing else"
    )


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


def told(turns: Sequence[Turn]) -> str:
    """What all turns say, which are pairs: of two that follow one another one is with a learner."""
    lines = []
    for learning in (True, False):
        of_kind = [each for each in turns if each.learning is learning]
        frames, missed = sum(each.frames for each in of_kind), sum(each.missed for each in of_kind)
        share = f"{missed / frames:.3%}" if frames else "none"
        more = f", {sum(each.attempts for each in of_kind)} attempts at versions" if learning else ""
        lines.append(
            f"{'with' if learning else 'without'} a learner: {missed} of {frames} CRITICAL frames missed, {share}{more}"
        )
    differences = np.array([
        (1 if first.learning else -1) * (first.missed / first.frames - second.missed / second.frames)
        for first, second in zip(turns[::2], turns[1::2], strict=True)
    ])  # fmt: skip
    count = len(differences)
    if count < 2:
        return "\n".join([*lines, f"{count} pair of turns says nothing about chance"])
    mean, error = float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(count))
    reach = float(student.isf(0.025, count - 1)) * error
    flipped = np.random.default_rng(1).choice((-1.0, 1.0), (FLIPS, count)) @ differences / count
    chance = float((flipped >= mean - 1e-12).mean())
    lines.append(
        f"{count} pairs: {100 * mean:+.3f} points more are missed with one, 95 % interval {100 * (mean - reach):+.3f} "
        f"to {100 * (mean + reach):+.3f}; if it made no difference, so many or more come by chance in {chance:.1%}"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--within", type=float, default=85.0, help="seconds in which the last pair has to end")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn that are measured")
    parser.add_argument("--results", type=Path, help="a file that turns are added to")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("ended"))  # and with it the server
    turns: list[Turn] = []
    if given.results is not None and given.results.exists():
        turns = [Turn(**json.loads(line)) for line in given.results.read_text().splitlines()]
    began_s, longest_s = time.monotonic(), 0.0
    with tempfile.TemporaryDirectory() as name:
        while time.monotonic() - began_s + longest_s < given.within:
            pair_s = time.monotonic()
            first = len(turns) % 4 == 0
            pair = []
            for learning in (first, not first):
                place = Path(name, f"{len(turns)}-{learning}")
                place.mkdir()
                pair.append(turn(put_models(place), place / "served", learning, given.seconds))
                print(pair[-1], flush=True)
            turns += pair
            if given.results is not None:
                with given.results.open("a") as file:
                    file.writelines(f"{json.dumps(asdict(each))}\n" for each in pair)
            longest_s = max(longest_s, time.monotonic() - pair_s)
    print(told(turns))


if __name__ == "__main__":
    main()
