"""A server's streams driven by a seed through any order of what clients, workers and operators do, over a scripted lane
and a clock that stands still until it is moved: `python -m tests.chaos.interleaved --seed 3`.

Every cancel and every close comes at a moment drawn anew, among frames that wait, run, wait for their client or are on
their way out. The law is checked as each stream ends: every frame that was taken left exactly once, a graceful end left
none out, and nothing is held for a stream that is gone.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Coroutine
from random import Random
from typing import Any

from duly.core.events import DrainRequested, ModelGone, ModelReady, TimerFired
from duly.core.fates import DOES_NOT_FIT
from duly.core.types import BacklogPolicy, StreamClass, Verdict
from duly.runtime.held_frames import InputData
from duly.runtime.outcome import Outcome
from duly.runtime.worker_port import BatchResult
from duly.streams.ordering import OrderingPolicy
from duly.streams.stream import Stream
from duly.streams.terms import StreamRequest
from tests.runtime.fake_lane import FakeLane
from tests.streams.bench import LIMITS, Bench, version

MS = 1_000_000
STREAMS_MAX = 6
STREAMS_A_WORLD = 60
"""A world ends after so many streams, with a drain, so that one that goes wrong does not go on."""


class Broken(AssertionError):
    """The law is broken."""


class Client:
    """A stream, and what its client knows of it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.newest = 0
        self.sent: list[int] = []
        self.got: Counter[int] = Counter()
        self.half_closed = False
        self.cancelling: list[Coroutine[Any, Any, None]] = []


class World:
    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.bench = Bench(LIMITS)
        self.versions = {"1": self.bench.catalogue.find("m"), "2": version("2")}
        self.lanes = {"1": self.bench.lane}
        self._add_lane("2")
        self.clients: list[Client] = []
        self.opened = 0
        self.taken = 0
        self.did: Counter[str] = Counter()
        self.log: list[str] = []

    def _add_lane(self, number: str) -> None:
        self.lanes[number] = lane = FakeLane(f"m/{number}", "cpu:0")
        self.bench.driver.add_worker(lane)
        times: dict[int, tuple[int, ...]] = {1: (MS,), 4: (2 * MS,)}
        self.bench.driver.submit(ModelReady(f"m/{number}", "cpu:0", "default", times, True))

    async def run(self) -> None:
        """Raises Broken."""
        while self.opened < STREAMS_A_WORLD:
            act = self.chance.choice(ACTS)
            self.log.append(act.__name__)
            self.did[act.__name__] += 1
            act(self)
            self.bench.driver._admit()
            if self.chance.random() < 0.1:
                await asyncio.sleep(0)  # what was put off to a later turn
        self.drain()
        for _ in range(400):
            await asyncio.sleep(0)
            self.worker_answers()
            self.time_passes()
            for client in list(self.clients):
                self._read(client)
                self._half_close(client)
        for client in list(self.clients):
            self.close(client)
        self._check(not self.bench.driver.held, f"{len(self.bench.driver.held)} frames are held after the end")
        self._check(self.bench.use.bytes == 0, f"{self.bench.use.bytes} bytes are counted for nobody")
        memory = self.bench.host.memory
        self._check(memory.result_bytes == 0, f"{memory.result_bytes} bytes of results are held for nobody")
        self._check(memory.outcomes == 0, f"{memory.outcomes} outcomes are held for nobody")
        self._check(not memory._streams, f"{len(memory._streams)} streams that are gone hold memory")
        counted = sum(self.bench.counts().values())
        self._check(counted == self.taken, f"{self.taken} frames were taken, {counted} outcomes counted")

    # ---- clients ----

    def open(self) -> None:
        if len(self.clients) < STREAMS_MAX:
            backlog = self.chance.choice(list(BacklogPolicy))
            asked = StreamRequest(
                "m",
                version=self.chance.choice(["", "", "", "1", "2"]),
                stream_class=self.chance.choice([StreamClass.STANDARD, StreamClass.BEST_EFFORT]),
                backlog_policy=backlog,
                backlog_frames=2 if backlog is BacklogPolicy.KEEP_LAST else 0,
                ordering=self.chance.choice(list(OrderingPolicy)),
                default_budget_ns=self.chance.choice([2, 20, 200, 2000]) * MS,
            )
            stream = Stream(asked, self.versions[asked.version or "1"], self.bench.host, "somebody", self.bench.use)
            stream.open(Verdict(True, "", 0.0, 0))
            self.clients.append(Client(stream))
            self.opened += 1

    def _client(self) -> Client | None:
        return self.chance.choice(self.clients) if self.clients else None

    def send(self) -> None:
        client = self._client()
        if client is None or client.half_closed:
            return
        for _ in range(self.chance.randint(1, 5)):
            client.newest += self.chance.randint(1, 2)
            client.sent.append(client.newest)
            self.taken += 1
            budget_ns = self.chance.choice([0, 0, 0, 1, -1, 5 * MS])
            held = client.stream.take(client.newest, 0, budget_ns, self.chance.random() < 0.1, 0)
            if held is None:
                continue
            if self.chance.random() < 0.1:
                client.stream.refuse(held, DOES_NOT_FIT, "it does not fit")
            else:
                size = self.chance.choice([1, 1, 1, 30])
                client.stream.submit(held, [InputData(0, (1,), client.newest.to_bytes(size, "little"))], size)

    def read(self) -> None:
        if client := self._client():
            self._read(client, self.chance.randint(1, 4))

    def _read(self, client: Client, messages: int = 100) -> None:
        for _ in range(messages):
            item = client.stream.next()
            if item is None:
                if client.stream.over:
                    self._ended(client)
                return
            if isinstance(item, tuple):
                for outcome in item[1]:
                    self._got(client, outcome)
            client.stream.written()

    def _got(self, client: Client, outcome: Outcome) -> None:
        frame_id = outcome.held.frame.frame_id
        client.got[frame_id] += 1
        self._check(client.got[frame_id] == 1, f"frame {frame_id} was answered twice")
        self._check(frame_id in client.sent, f"frame {frame_id} was answered and never sent")
        if outcome.outputs is not None:
            number = int.from_bytes(outcome.outputs[0][2], "little")
            self._check(number == frame_id, f"frame {frame_id} got the result of {number}")

    def _ended(self, client: Client) -> None:
        """The stream ended well: nothing may be missing."""
        missing = sorted(set(client.sent) - set(client.got))
        self._check(not missing, f"frames {missing} have no outcome though the stream ended well")
        self.did["ended well"] += 1
        client.stream.close()
        client.stream.abandon()
        self._gone(client)

    def half_close(self) -> None:
        if client := self._client():
            self._half_close(client)

    def _half_close(self, client: Client) -> None:
        if not client.half_closed:
            client.half_closed = True
            client.stream.finish()

    def cancel(self) -> None:
        """Cancels some of the last frames, ids that were never used, or more than go in one turn."""
        client = self._client()
        if client is None:
            return
        ids = [client.newest - back for back in self.chance.sample(range(8), self.chance.randint(1, 4))]
        ids = [each for each in ids if each >= 0] + ([2**64 - 1] if self.chance.random() < 0.1 else [])
        if self.chance.random() < 0.02:
            ids = [*ids, *range(1025)]
        self.did["cancels"] += 1
        cancelling = client.stream.cancel(ids)
        client.cancelling.append(cancelling)
        self._go_on(client)

    def go_on(self) -> None:
        if client := self._client():
            self._go_on(client)

    def _go_on(self, client: Client) -> None:
        """Lets a cancel that gave way go on by a step."""
        for cancelling in list(client.cancelling):
            try:
                cancelling.send(None)
            except StopIteration:
                client.cancelling.remove(cancelling)
            except RuntimeError:  # it waits for room in the outbox, which no loop here tells it of
                cancelling.close()
                client.cancelling.remove(cancelling)

    def close_any(self) -> None:
        """The call ends: the client cancelled it, or is gone."""
        if client := self._client():
            self.close(client)

    def close(self, client: Client) -> None:
        self.did["closes"] += 1
        client.stream.close()
        if self.chance.random() < 0.4:  # as where the last outcomes of a broken stream are flushed
            self._read_closed(client)
        client.stream.abandon()
        self._check(client.stream.next() is None, "a stream that was abandoned has something to say")
        self._gone(client)

    def _read_closed(self, client: Client) -> None:
        for _ in range(self.chance.randint(0, 3)):
            item = client.stream.next()
            if item is None:
                return
            if isinstance(item, tuple):
                for outcome in item[1]:
                    self._got(client, outcome)
            if self.chance.random() < 0.8:
                client.stream.written()

    def _gone(self, client: Client) -> None:
        for cancelling in client.cancelling:
            cancelling.close()
        self.clients.remove(client)

    # ---- workers, operators, time ----

    def worker_answers(self) -> None:
        for lane in self.lanes.values():
            if lane.running:
                action, payloads = lane.running.pop()
                now_ns = self.bench.driver.clock()
                count = len(action.frames)
                invalid = {index: "no" for index in range(count) if self.chance.random() < 0.05}

                def outputs(index: int, payloads: Any = payloads) -> list[tuple[int, tuple[int, ...], bytes]]:
                    return [(0, (1,), bytes(payloads[index][0].data))]

                self.bench.driver.batch_ended(action.batch_id, BatchResult(now_ns, now_ns, outputs, invalid))
            for warming in list(lane.warming):
                lane.warming.remove(warming)
                now_ns = self.bench.driver.clock()
                self.bench.driver.batch_ended(warming.batch_id, BatchResult(now_ns, now_ns, lambda index: []))

    def batch_fails(self) -> None:
        for lane in self.lanes.values():
            if lane.running:
                action, _ = lane.running.pop()
                self.bench.driver.batch_ended(action.batch_id, "the device reset")

    def worker_dies(self) -> None:
        number = self.chance.choice(["1", "2"])
        lane = self.lanes[number]
        self.bench.driver.remove_worker(lane)  # type: ignore[arg-type]
        lane.running.clear()
        lane.warming.clear()
        lane.gone = True
        self.bench.driver.submit(ModelGone(f"m/{number}", "cpu:0", "its worker process ended"))
        if self.chance.random() < 0.8:
            self._add_lane(number)
        else:
            self.did["stayed away"] += 1
            self.bench.driver._admit()
            self.worker_answers()
            self._add_lane(number)

    def version_changes(self) -> None:
        self.bench.activate(self.versions[self.chance.choice(["1", "2"])])

    def time_passes(self) -> None:
        self.bench.clock.now_ns += self.chance.choice([0, MS // 10, MS, 5 * MS, 60 * MS])
        wake_ns = self.bench.driver.scheduler.next_wake_ns()
        if wake_ns is not None and wake_ns <= self.bench.clock.now_ns:
            self.bench.driver.submit(TimerFired())

    def drain(self) -> None:
        self.bench.driver.submit(DrainRequested(self.bench.clock.now_ns + 50 * MS))

    def _check(self, true: bool, failure: str) -> None:
        if not true:
            raise Broken(f"{failure}; the last acts: {' '.join(self.log[-25:])}")


ACTS = (
    *[World.open] * 3,
    *[World.send] * 6,
    *[World.read] * 4,
    *[World.worker_answers] * 4,
    *[World.time_passes] * 2,
    *[World.cancel] * 8,
    World.go_on,
    *[World.close_any] * 2,
    World.half_close,
    World.batch_fails,
    World.worker_dies,
    World.version_changes,
)


async def _worlds(seed: int, wanted: int) -> Counter[str]:
    did: Counter[str] = Counter()
    while did["cancels"] + did["closes"] < wanted:
        world = World(seed)
        try:
            await world.run()
        except BaseException as error:
            error.add_note(f"python -m tests.chaos.interleaved --seed {seed}")
            raise
        did += world.did
        did["worlds"] += 1
        did["streams"] += world.opened
        did["frames"] += world.taken
        seed += 1
    return did


def worlds(seed: int, wanted: int) -> Counter[str]:
    """Runs worlds with the seeds from `seed` on until there were so many cancels and closes. Returns what was done.
    Raises Broken, with the command that shows it again.
    """
    return asyncio.run(_worlds(seed, wanted))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wanted", type=int, default=1)
    asked = parser.parse_args()
    for what, times in worlds(asked.seed, asked.wanted).items():
        sys.stdout.write(f"{times:10,} {what}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
