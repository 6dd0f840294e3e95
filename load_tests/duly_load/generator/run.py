"""One run: the schedule is made, sender processes offer it to the target, what they saw is put together and judged."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Self

from duly.cpus import usable_cpus
from duly_load.generator.keep_cpus_awake import keep_cpus_awake
from duly_load.generator.sender import shares
from duly_load.generator.sender_process import Failed, Opened, SenderReport, Sent, Share, main
from duly_load.generator.stalls import Watch
from duly_load.protocols.address import Address
from duly_load.protocols.clock import unix_minus_monotonic_ns
from duly_load.protocols.connection import AllRefused, TargetError
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import Ending, LiveRun, Record
from duly_load.results.validity import Signs, problems
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.scenario import Scenario
from duly_load.scenario.schedule import Schedule, schedule_of

LAG_SHARE = 0.05
"""The share of a frame's budget that the generator's own lag may take."""
LEAD_NS = 300_000_000
"""The time from the opening of the last stream to the schedule's time zero."""
OPEN_S = 120.0
"""How long payloads may take to prepare and streams to open."""
OVER_S = 60.0
"""How long a sender process may take to come to its end, beyond the time in which it waits for answers."""
PROGRESS_S = 0.5
PROCESS_FRAMES_PER_S = 1500
"""The rate up to which one sender process is not late; see the README of the load tests."""


@dataclass(frozen=True, slots=True)
class Sending:
    """How it is sent, and how late that may be."""

    processes: int = 0
    """The number of sender processes; 0: as many as the rate needs."""
    answers_wait_s: float = 10.0
    """How long after the last frame was due answers may come."""
    lag_share: float = LAG_SHARE
    """The share of its budget by which a frame may be sent late."""
    realtime: bool = False
    """Senders run before all normal processes (SCHED_RR, sched(7)), so that a server that takes all processors does not
    make them late. Needs root or CAP_SYS_NICE.
    """
    keep_awake: bool = False
    """Keeps the processors of a virtual machine from sleeping meanwhile, see `duly_load.generator.keep_cpus_awake`."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What is asked of a run."""

    scenario: Scenario
    seed: int
    target: str
    """The target as the user named it."""
    address: Address
    sending: Sending = Sending()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    at_ns: int
    """The time since the schedule's zero; negative while streams open."""
    sent: int
    answered: int
    on_time: int


@dataclass(frozen=True, slots=True)
class ScheduledAction:
    """What is done to the target meanwhile, such as a fault."""

    at_ns: int
    """The time since the schedule's zero."""
    do: Callable[[], None]
    always: bool = False
    """It is done even if the run ends, or fails, before the time comes, such as the end of a fault."""


def offer(
    asked: Offer, progress: Callable[[Progress], None] | None = None, actions: Sequence[ScheduledAction] = ()
) -> LiveRun:
    """Offers the load and returns what became of it; a run that can't be believed says why in `LiveRun.problems`.

    `progress` is called about twice a second. `actions`: in order of time.
    Raises TargetError where the target is not there, AllRefused where it takes none of the streams, ScenarioError where
    the payloads are not what it takes, all before anything is measured.
    """
    planned = schedule_of(asked.scenario, asked.seed)
    if not len(planned.frames):
        raise TargetError(f"{asked.scenario.name}: its schedule has no frames, which shows nothing of {asked.target}")
    count = len(shares(planned, asked.sending.processes or _processes(planned, asked.scenario)))
    difference_ns = unix_minus_monotonic_ns()
    left = deque(actions)
    with ExitStack() as afterwards:
        afterwards.callback(_do_always, left)
        senders = afterwards.enter_context(_Senders(asked, count, difference_ns))
        afterwards.enter_context(keep_cpus_awake(asked.sending.keep_awake))
        watch = afterwards.enter_context(Watch())
        senders.wait_until_open(sum(session.opened_ns == 0 for session in planned.sessions))
        begin_ns = time.monotonic_ns() + LEAD_NS
        senders.begin(begin_ns)
        saw, given_up = senders.wait_until_over(begin_ns, left, progress)
        # The wait for the last answers would thin the stalls out.
        sending_ns = min(time.monotonic_ns() - begin_ns, round(asked.scenario.duration_s * 1e9))
        stalled = watch.stalls(begin_ns).share(0, max(1, sending_ns))
    set_by_ns = unix_minus_monotonic_ns() - difference_ns
    record = Record.empty(len(planned.frames))
    record.outcome[:] = FrameOutcome.UNSENT
    endings: list[Ending] = []
    for part in saw:
        record.put(part.frames, part.record)
        endings += part.endings
    busiest = max((part.busy for part in saw), default=0.0)
    found = [
        *_lost(count, len(saw), given_up, asked),
        *(
            f"the fault at {action.at_ns / 1e9:g} s never came: the run was over"
            for action in left
            if not action.always
        ),
        *problems(
            planned,
            record,
            endings,
            round(asked.scenario.warm_s * 1e9),
            Signs(stalled, busiest, set_by_ns),
            asked.sending.lag_share,
        ),
    ]
    endings.sort(key=lambda ending: ending.at_ns)
    return LiveRun(
        asked.scenario,
        asked.seed,
        asked.target,
        planned,
        record,
        tuple(endings),
        begin_ns + difference_ns,
        count,
        stalled,
        busiest,
        problems=tuple(found),
    )


def _processes(planned: Schedule, scenario: Scenario) -> int:
    wanted = math.ceil(len(planned.frames) / scenario.duration_s / PROCESS_FRAMES_PER_S)
    return max(1, min(wanted, usable_cpus()))


def _do_always(left: "deque[ScheduledAction]") -> None:
    with ExitStack() as all_of_them:  # also where one fails
        for action in reversed(left):
            if action.always:
                all_of_them.callback(action.do)


def _lost(count: int, saw: int, given_up: int, asked: Offer) -> Iterator[str]:
    if ended := count - saw - given_up:
        yield f"{ended} of {count} sender processes ended by themselves"
    if given_up:
        wait_s = asked.sending.answers_wait_s + OVER_S
        yield f"{given_up} of {count} sender processes were given up: not over {wait_s:g} s after the scenario's end"


class _Senders:
    """The sender processes of a run; none is left behind."""

    def __init__(self, asked: Offer, count: int, difference_ns: int) -> None:
        self._asked = asked
        self._count = count
        self._difference_ns = difference_ns

    def __enter__(self) -> Self:
        asked, sending, context = self._asked, self._asked.sending, get_context("spawn")
        self._ways: list[Connection[Any, Any]] = []
        self._processes: list[SpawnProcess] = []
        try:
            for index in range(self._count):
                mine, its = context.Pipe()
                share = Share(
                    asked.scenario,
                    asked.seed,
                    asked.address,
                    index,
                    self._count,
                    sending.answers_wait_s,
                    sending.realtime,
                    self._difference_ns,
                )
                process = context.Process(target=main, args=(share, its), name=f"sender {index}", daemon=True)
                process.start()
                its.close()
                self._ways.append(mine)
                self._processes.append(process)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for way in self._ways:
            way.close()

    def wait_until_open(self, sessions: int) -> None:
        """`sessions`: that open at the start."""
        refused = 0
        for way in self._ways:
            if not way.poll(OPEN_S):
                raise TargetError(f"{self._asked.target}: its streams were not open after {OPEN_S:g} s")
            message = self._heard(way)
            if not isinstance(message, Opened):
                raise self._ended_early()
            refused += message.refused
        if sessions and refused == sessions:
            raise AllRefused(f"{self._asked.target}: all {sessions} streams were refused")

    def begin(self, at_ns: int) -> None:
        for way in self._ways:
            try:
                way.send(at_ns)
            except (BrokenPipeError, ConnectionResetError):
                self._heard(way)  # it may have said why
                raise self._ended_early() from None

    def _ended_early(self) -> TargetError:
        return TargetError(f"{self._asked.target}: a sender process ended before it had sent anything")

    def wait_until_over(
        self, begin_ns: int, actions: deque[ScheduledAction], progress: Callable[[Progress], None] | None
    ) -> tuple[list[SenderReport], int]:
        """What those saw that came to the end in time, and how many were still at it. Actions that were done are taken
        out
        of `actions`.
        """
        saw: list[SenderReport] = []
        so_far = dict.fromkeys(self._ways, Sent(0, 0, 0))
        waiting = set(self._ways)
        give_up_ns = round((self._asked.scenario.duration_s + self._asked.sending.answers_wait_s + OVER_S) * 1e9)
        while waiting and (at_ns := time.monotonic_ns() - begin_ns) < give_up_ns:
            while actions and actions[0].at_ns <= at_ns:
                actions.popleft().do()
            wait_s = min(PROGRESS_S, (actions[0].at_ns - at_ns) / 1e9) if actions else PROGRESS_S
            for way in wait(list(waiting), wait_s):
                assert isinstance(way, Connection)
                message = self._heard(way)
                if isinstance(message, Sent):
                    so_far[way] = message
                else:
                    waiting.remove(way)
                if isinstance(message, SenderReport):
                    saw.append(message)
            if progress is not None:
                senders = so_far.values()
                progress(
                    Progress(
                        time.monotonic_ns() - begin_ns,
                        sum(each.sent for each in senders),
                        sum(each.answered for each in senders),
                        sum(each.on_time for each in senders),
                    )
                )
        return saw, len(waiting)

    def _heard(self, way: "Connection[Any, Any]") -> object:
        """The next message of a sender; None: the sender ended."""
        try:
            message: object = way.recv()
        except (EOFError, ConnectionResetError):
            return None
        if isinstance(message, Failed):
            if message.wrong_input:
                raise ScenarioError(f"{self._asked.scenario.name}: {message.why}")
            named = self._asked.target in message.why
            raise TargetError(message.why if named else f"{self._asked.target}: {message.why}")
        return message
