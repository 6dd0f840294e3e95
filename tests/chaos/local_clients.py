"""Rude clients of the local transport, in a process of their own: `python -m tests.chaos.local_clients KIND ...`.

They go on until the time is over, and print what they did as JSON. `wrong` is what the server did to them against the
law: a frame that fits has one outcome though its client changes it all the time, and a lie ends its stream alone, with
its reason.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from duly.rpc.local import layout
from tests.e2e.local_wire import LocalWire, frames_message

SMALL, LARGE = ("double", 16), ("large", 640 * 480 * 3)
"""Models, and the bytes that a frame takes."""
IN_FLIGHT = 4
PIECE_BYTES = 1 << 16
LIVES_S_MAX = 0.08
OPEN_S_MAX = 5.0
LIES_SHOWN = 3
NO_EXTENTS = [0] * layout.EXTENTS


@dataclass(slots=True)
class Field:
    path: str
    until_s: float
    chance: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def on(self) -> bool:
        return time.monotonic() < self.until_s


def described(frame_id: int, offset: int, size_bytes: int) -> bytes:
    tensor = layout.TENSOR.pack(offset, size_bytes, 0, 0, 0, *NO_EXTENTS)
    return layout.FRAME.pack(frame_id, 0, 0, 0, 1, 0) + tensor


# ---- clients that are killed as they write ----


def killed(field: Field) -> None:
    """Forks client after client, each of which writes and sends until it is killed, at any moment."""
    while field.on:
        seed = field.chance.random()
        heard, tell = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(heard)
            try:
                asyncio.run(_write_on(field.path, tell, random.Random(seed)))
            finally:
                os._exit(0)
        os.close(tell)
        # Most of them are killed as they write, some as they connect and open.
        if field.chance.random() < 0.8 and not os.read(heard, 1):
            field.counts["not let in"] += 1
            time.sleep(LIVES_S_MAX)  # the server is being started again
        time.sleep(field.chance.uniform(0, LIVES_S_MAX))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(heard)
        field.counts["killed"] += 1


async def _write_on(path: str, tell: int, chance: random.Random) -> None:
    model, size = chance.choice((SMALL, LARGE))
    async with LocalWire(path, model=model) as wire:
        if wire.end is not None:
            return
        os.write(tell, b"x")
        for frame_id in itertools.count(1):
            offset = frame_id * size % (len(wire.frames) - size)
            for at in range(offset, offset + size, PIECE_BYTES):
                end = min(at + PIECE_BYTES, offset + size)
                wire.frames[at:end] = bytes(end - at)
            await wire.write(frames_message(described(frame_id, offset, size)))
            while frame_id - len(wire.outcomes) >= IN_FLIGHT and await wire.read():
                pass


# ---- one that changes its frames all the time ----


def scribbles(field: Field) -> None:
    asyncio.run(_scribbled(field))


async def _scribbled(field: Field) -> None:
    async with (
        LocalWire(field.path, model=SMALL[0], default_budget_nano=30 * 10**9) as small,
        LocalWire(field.path, model=LARGE[0], default_budget_nano=30 * 10**9) as large,
    ):
        stop = threading.Event()

        def scribble() -> None:
            chance = random.Random(field.chance.random())
            while not stop.is_set():
                for area in (small.frames, large.frames):
                    at = chance.randrange(len(area) - 4096)
                    area[at : at + 4096] = chance.randbytes(4096)
                small.frames[:4096] = chance.randbytes(4096)

        scribbler = threading.Thread(target=scribble)
        scribbler.start()
        sent = {small: 0, large: 0}
        try:
            while field.on:
                for wire, size in ((small, SMALL[1]), (large, LARGE[1])):
                    sent[wire] += 1
                    offset = field.chance.randrange(len(wire.frames) - size)
                    await wire.write(frames_message(described(sent[wire], offset, size)))
                    while sent[wire] - len(wire.outcomes) >= IN_FLIGHT:
                        if not await wire.read():
                            field.wrong.append(f"the stream ended: {wire.end}")
                            return
            for wire in sent:
                await wire.finish()
        finally:
            stop.set()
            scribbler.join()
        for wire, frames in sent.items():
            field.counts["frames that changed"] += frames
            if sorted(wire.outcomes) != list(range(1, frames + 1)):
                field.wrong.append(f"of {frames} frames that changed {len(wire.outcomes)} were answered")
            if wire.end != {"reason": "", "text": ""}:
                field.wrong.append(f"the stream of frames that changed ended with {wire.end}")


# ---- one that lies ----


def lies(field: Field) -> None:
    asyncio.run(_lie_on(field))


async def _lie_on(field: Field) -> None:
    while field.on:
        async with LocalWire(field.path, model=SMALL[0]) as wire:
            if wire.end is not None:
                field.wrong.append(f"no stream to lie on: {wire.end}")
                return
            honest = field.chance.randrange(4)
            for frame_id in range(1, honest + 1):
                await wire.write(frames_message(wire.described(frame_id)))
            name, lie = _lie(field.chance, len(wire.frames), honest + 1)
            await wire.write(lie)
            async with asyncio.timeout(30):
                reason = await wire.ended()
            field.counts["lies"] += 1
            if reason != "MESSAGE_MALFORMED" and len(field.wrong) < LIES_SHOWN:
                field.wrong.append(f"{name}: its stream ended with {reason!r}")


def _lie(chance: random.Random, area_bytes: int, frame_id: int) -> tuple[str, bytes]:
    """Returns what is said, in words and as a message."""
    size = chance.randrange(1, 2**32)
    true = described(frame_id, 0, SMALL[1])
    tensor = layout.TENSOR.pack(0, SMALL[1], 0, 0, chance.randrange(layout.EXTENTS + 1, 256), *NO_EXTENTS)
    cut = chance.randrange(1, len(true))
    said = {
        "an offset beyond the end": frames_message(described(frame_id, chance.randrange(area_bytes, 2**64), SMALL[1])),
        "a length beyond the end": frames_message(described(frame_id, max(0, area_bytes - size + 1), size)),
        "too many dimensions": frames_message(layout.FRAME.pack(frame_id, 0, 0, 0, 1, 0) + tensor),
        "a wrong number of frames": frames_message(true, count=chance.choice((0, *range(2, 65_536)))),
        "a wrong number of inputs": frames_message(
            layout.FRAME.pack(frame_id, 0, 0, 0, chance.randrange(2, 65_536), 0) + true[layout.FRAME.size :]
        ),
        "a frame that is cut off": frames_message(true)[:-cut],
        "a frame that goes on": frames_message(true) + true[:cut],
        "no message": bytes([chance.choice((0, 1, *range(5, 256)))]) + chance.randbytes(chance.randrange(40)),
    }
    name = chance.choice(sorted(said))
    return name, said[name]


KINDS: dict[str, Callable[[Field], None]] = {each.__name__: each for each in (killed, scribbles, lies)}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--path", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    os.nice(10)
    field = Field(asked.path, time.monotonic() + asked.seconds, random.Random(asked.seed))
    try:
        KINDS[asked.kind](field)
    except Exception as error:
        field.wrong.append(f"{asked.kind}: {type(error).__name__}: {error}")
    sys.stdout.write(json.dumps({"counts": field.counts, "wrong": field.wrong}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
