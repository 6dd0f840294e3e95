"""When a worker counts as one that hangs, by what is seen of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from duly.runtime.hang import BUSY_NS, LOOK_NS, PING_NS, PLANS_MAX, STILL_NS, STOPPED_LOOKS, HangWatch, ProcessState
from duly.runtime.process_state import process_state

MS = 1_000_000
S = 1_000_000_000
TIMEOUT_NS = 10 * S


@dataclass
class Seen:
    """What a process shows from look to look."""

    stopped: bool = False
    runs: bool = False
    cpu: float = 0.0
    """Processor time that it uses, over the time that passes."""
    hidden: bool = False

    def states(self) -> Iterator[ProcessState | None]:
        cpu_ns = 5 * S
        while True:
            yield None if self.hidden else ProcessState(self.stopped, self.runs, cpu_ns)
            cpu_ns += int(self.cpu * LOOK_NS)


def found_after_ns(seen: Seen, planned_ns: int = 5 * MS, sizes_vary: bool = False) -> int | None:
    """How long a batch runs before its worker counts as one that hangs; None: it does not within two time-outs."""
    watch, states = HangWatch(), seen.states()
    for look in range(2 * TIMEOUT_NS // LOOK_NS):
        state = next(states)
        if watch.look(("batch", 1), LOOK_NS) and watch.hangs(state, planned_ns, sizes_vary, TIMEOUT_NS):
            return look * LOOK_NS
    return None


def test_a_stopped_process_is_found_within_half_a_second_whatever_it_was_to_do() -> None:
    found_ns = found_after_ns(Seen(stopped=True), planned_ns=60 * S)
    assert found_ns is not None
    assert found_ns <= (STOPPED_LOOKS + 2) * LOOK_NS <= S // 2


def test_one_that_waits_for_nothing_is_given_its_plan_many_times() -> None:
    assert (found_after_ns(Seen()) or 0) <= STILL_NS + PLANS_MAX * 5 * MS + 2 * LOOK_NS < S
    found_ns = found_after_ns(Seen(), planned_ns=100 * MS)
    assert found_ns is not None
    assert found_ns > PLANS_MAX * 100 * MS


def test_one_that_computes_for_ever_is_found_soon_where_frames_have_one_size() -> None:
    busy = Seen(runs=True, cpu=1.0)
    assert (found_after_ns(busy) or 0) <= BUSY_NS + PLANS_MAX * 5 * MS + 4 * LOOK_NS
    assert (found_after_ns(busy, sizes_vary=True) or 0) > TIMEOUT_NS - LOOK_NS


def test_one_that_gets_no_processor_is_not_to_blame_until_the_time_out() -> None:
    for starved in (Seen(runs=True), Seen(runs=True, cpu=0.05), Seen(cpu=0.02)):
        assert (found_after_ns(starved) or 0) > TIMEOUT_NS - LOOK_NS


def test_where_nothing_is_shown_the_time_out_and_many_plans_count() -> None:
    assert (found_after_ns(Seen(hidden=True)) or 0) > TIMEOUT_NS - LOOK_NS
    assert found_after_ns(Seen(hidden=True), planned_ns=TIMEOUT_NS) is None


def test_time_that_nobody_watched_does_not_count() -> None:
    """The serving process, or the machine, was stopped for a minute between any two looks."""
    watch = HangWatch()
    state = ProcessState(stopped=False, runs=False, cpu_ns=0)
    watch.look(("batch", 1), 60 * S)
    watch.look(("batch", 1), 60 * S)
    assert not watch.hangs(state, MS, False, TIMEOUT_NS)


def test_each_batch_and_each_ping_is_watched_for_itself() -> None:
    watch = HangWatch()
    for number in range(500):
        assert not watch.look(("batch", number), LOOK_NS)
    assert not watch.look(("ping", 499), LOOK_NS)
    assert not watch.ping_is_due(), "it has not been idle"


def test_an_idle_worker_is_pinged_now_and_then() -> None:
    watch = HangWatch()
    looks = 0
    while not watch.ping_is_due():
        watch.look(None, LOOK_NS)
        looks += 1
    assert looks == PING_NS // LOOK_NS


@pytest.mark.parametrize("name", ["plain", "a ) S 1 (b", "\u00fc\u00fc"])
def test_what_a_process_does_is_read_whatever_its_name(name: str) -> None:
    script = f"open('/proc/self/comm', 'w').write({name!r}); print('up', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        state = process_state(process.pid)
        assert state is not None
        assert (state.stopped, state.runs) == (True, False)
        os.kill(process.pid, signal.SIGCONT)
        process.kill()
    assert process_state(process.pid) is None


def test_a_process_that_computes_is_seen_to() -> None:
    own = process_state(os.getpid())
    assert own is not None
    assert own.runs
    assert own.cpu_ns > 0
