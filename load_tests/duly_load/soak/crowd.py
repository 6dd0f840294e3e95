"""The clients that misbehave while a soak runs: starts them, kills those that are to vanish, and leaves none behind.

They are forked from a process that has imported everything and holds no gRPC object: a client more costs next to
nothing then, where a fresh interpreter takes a second of a core from those who are measured.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from typing import Any, Self

from duly_load.soak import misbehaviour
from duly_load.soak.misbehaviour import Aim, CountIndex, Counts, churn, read_slowly, vanish

TICK_S = 0.05
VANISHING_MAX = 4
"""Clients that are about to vanish at the same time: on a busy machine it takes a while to start one."""
LIFE_S_MAX = 2.0
"""How long after it has opened its streams a client vanishes, at most."""
READY_S_MAX = 30.0
"""After this a client vanishes even without a stream, and nobody waits any more for the others to begin."""
RESTART_S, RESTART_S_MAX = 1.0, 60.0
"""The least time from one start of a kind to the next, and its bound; it doubles each time."""

Tallies = dict[str, dict[str, int]]
"""The counts of each kind of client, by what they count."""


@dataclass(frozen=True, slots=True)
class Rudeness:
    """How many clients misbehave, and how."""

    slow_readers: int
    """The number of streams that are read slowly."""
    vanish_per_minute: float
    """The number of clients that are killed each minute."""
    churn: bool

    def __bool__(self) -> bool:
        return bool(self.slow_readers or self.vanish_per_minute or self.churn)


@dataclass(slots=True)
class _Client:
    """One process of the crowd."""

    process: ForkServerProcess
    counts: Counts
    began_s: float
    vanish_at_s: float | None = None
    """When it is killed; None: not known yet."""


@dataclass(slots=True)
class _Kind:
    """Clients of one kind."""

    main: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    clients: list[_Client] = field(default_factory=list)
    ended: dict[CountIndex, int] = field(default_factory=lambda: dict.fromkeys(CountIndex, 0))
    """The counts of clients that have ended."""
    fell: int = 0
    """The number of clients that ended by themselves, which none should."""
    restart_s: float = RESTART_S
    next_start_s: float = 0.0


class Crowd:
    """Misbehaves inside a `with` block, in processes of its own that a thread watches over."""

    def __init__(self, aim: Aim, rudeness: Rudeness) -> None:
        self._aim = aim
        self._rudeness = rudeness
        self._chance = random.Random(aim.seed)
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload([misbehaviour.__name__])
        self._started = 0
        self._kinds: dict[str, _Kind] = {}
        if rudeness.slow_readers:
            self._kinds["slow readers"] = _Kind(read_slowly, (rudeness.slow_readers,))
        if rudeness.churn:
            self._kinds["churners"] = _Kind(churn)
        self._vanishing = _Kind(vanish)
        if rudeness.vanish_per_minute:
            self._kinds["vanishing clients"] = self._vanishing
        self._lock = threading.Lock()
        self._begun = threading.Event()
        self._error = ""
        """The first error that the thread met."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crowd", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        with self._lock:
            for kind in self._kinds.values():
                for client in kind.clients.copy():
                    self._end(kind, client)

    def wait_until_begun(self, wait_s: float = READY_S_MAX) -> bool:
        """Returns when slow readers and churners are at work, or after `wait_s`: False, they are not."""
        return self._begun.wait(wait_s)

    def pids(self) -> list[int]:
        """The process ids of clients that live now."""
        with self._lock:
            clients = [client for kind in self._kinds.values() for client in kind.clients]
            return [client.process.pid for client in clients if client.process.pid is not None]

    def tallies(self) -> Tallies:
        """What each kind of client has done so far."""
        with self._lock:
            return {name: _tally(kind) for name, kind in self._kinds.items()}

    def doubts(self) -> list[str]:
        """Why this was not the crowd that was asked for, in words; none: it was."""
        found = [f"who misbehaves could not be looked after: {self._error}"] if self._error else []
        with self._lock:
            for name, kind in self._kinds.items():
                if kind.fell:
                    found.append(f"the {name} ended by themselves {kind.fell:,} times")
                # One that vanishes may simply not have been due.
                if not _acted(kind) and (kind is not self._vanishing or kind.ended[CountIndex.KILLED]):
                    found.append(f"the {name} did nothing at all")
        return found

    def _run(self) -> None:
        next_s = time.monotonic() + self._gap_s()
        while not self._stopping.wait(TICK_S):
            with self._lock:
                try:
                    for kind in self._kinds.values():
                        self._look_after(kind)
                    if all(_acted(kind) for kind in self._kinds.values() if kind is not self._vanishing):
                        self._begun.set()
                    if time.monotonic() >= next_s:
                        next_s += self._gap_s()
                        if len(self._vanishing.clients) < VANISHING_MAX:
                            self._start(self._vanishing)
                except Exception as error:
                    self._error = self._error or f"{type(error).__name__}: {error}"

    def _gap_s(self) -> float:
        per_minute = self._rudeness.vanish_per_minute
        return self._chance.expovariate(per_minute / 60) if per_minute else float("inf")

    def _look_after(self, kind: _Kind) -> None:
        for client in kind.clients.copy():
            if not client.process.is_alive():
                kind.fell += 1
                self._end(kind, client)
            elif kind is self._vanishing and self._is_due(client):
                client.counts.add(CountIndex.KILLED)
                self._end(kind, client)
        now_s = time.monotonic()
        if kind is not self._vanishing and not kind.clients and now_s >= kind.next_start_s:
            kind.next_start_s = now_s + kind.restart_s
            kind.restart_s = min(2 * kind.restart_s, RESTART_S_MAX)
            self._start(kind)

    def _is_due(self, client: _Client) -> bool:
        now_s = time.monotonic()
        if client.vanish_at_s is None and (client.counts.of(CountIndex.OPENED) or now_s - client.began_s > READY_S_MAX):
            client.vanish_at_s = now_s + self._chance.uniform(0, LIFE_S_MAX)
        return client.vanish_at_s is not None and now_s >= client.vanish_at_s

    def _start(self, kind: _Kind) -> None:
        self._started += 1
        memory = self._context.RawArray("q", len(CountIndex))
        aim = replace(self._aim, seed=self._aim.seed + self._started)
        process = self._context.Process(target=kind.main, args=(aim, *kind.arguments, memory), daemon=True)
        process.start()
        kind.clients.append(_Client(process, Counts(memory), time.monotonic()))

    def _end(self, kind: _Kind, client: _Client) -> None:
        """Ends the client with SIGKILL: no client of the crowd closes its streams."""
        client.process.kill()
        client.process.join()
        kind.clients.remove(client)
        for deed in CountIndex:
            kind.ended[deed] += client.counts.of(deed)


def _acted(kind: _Kind) -> bool:
    """Being killed is no deed of one's own."""
    return any(
        times or any(client.counts.of(deed) for client in kind.clients)
        for deed, times in kind.ended.items()
        if deed is not CountIndex.KILLED
    )


def _tally(kind: _Kind) -> dict[str, int]:
    counts = {
        deed.name.lower().replace("_", " "): times + sum(client.counts.of(deed) for client in kind.clients)
        for deed, times in kind.ended.items()
    }
    return {name: times for name, times in (counts | {"fell": kind.fell}).items() if times}
