"""Says when a worker hangs. It reads no clock and no process: it is told what was seen.

Theory. How long a worker has not answered says little by itself. A batch may be longer than its plan because the
machine is busy, because a frame is larger than those that the plan was learnt from, or because the serving process
itself did not run and the answer lies unread. What tells hanging from working is what the process does meanwhile:

    it is stopped (SIGSTOP, a debugger) ........... it hangs, whatever it was asked, after STOPPED_LOOKS looks
    none of its threads runs or waits for a disk,
    and it uses no processor time ................. it hangs after STILL_NS and PLANS_MAX plans without a sign of life
    it computes, and frames have a fixed size ..... it hangs after BUSY_NS and PLANS_MAX plans, by the clock and by its
                                                    own processor time: a busy machine is not held against it
    it computes, and the size of frames is open ... it hangs after the time-out and PLANS_MAX plans

The time-out (`batch_timeout_ms`) and PLANS_MAX plans bound all of them, and are all there is where a system does not
show its processes. An idle worker is pinged, so that one which hangs is replaced before a frame pays for it.

Time counts only as far as it was watched: between two looks that are farther apart than planned, nobody knows whether
the serving process was stopped, the loop was held up, or the whole machine slept.
"""

from dataclasses import dataclass

LOOK_NS = 100_000_000
"""The time between two looks at a worker."""
LOOK_NS_MAX = 2 * LOOK_NS
"""At most so much time counts from one look to the next."""
PLANS_MAX = 20
"""A worker that owes an answer for so many times its plan, and for a time by what it does, is replaced."""
BUSY_NS = 1_000_000_000
STILL_NS = 500_000_000
STOPPED_LOOKS = 3
SUSPECT_NS = 200_000_000
"""A worker that answers within this is not looked at more closely."""
PING_NS = 500_000_000
"""An idle worker is pinged this often."""


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What a process does, as the system shows it."""

    stopped: bool
    runs: bool
    """Whether any of its threads runs, would run if it got a processor, or waits for a disk."""
    cpu_ns: int
    """The processor time that it has used, in all its threads."""


class HangWatch:
    """Watches one worker. `look` is to be called about every LOOK_NS."""

    __slots__ = ("_busy_ns", "_cpu_ns", "_cpu_ns_first", "_idle_ns", "_owes", "_still_ns", "_stopped", "waited_ns")

    def __init__(self) -> None:
        self._owes: tuple[str, int] | None = None
        self._idle_ns = 0
        self._forget()

    def _forget(self) -> None:
        self.waited_ns = 0
        """How long the worker has owed an answer, as far as that was watched."""
        self._still_ns = 0
        self._stopped = 0
        self._cpu_ns = -1
        self._cpu_ns_first = -1

    def look(self, owes: tuple[str, int] | None, elapsed_ns: int) -> bool:
        """Notes what the worker owes, `elapsed_ns` after the last look. Returns whether its process should be looked
        at.
        """
        elapsed_ns = min(elapsed_ns, LOOK_NS_MAX)
        if owes is None or owes != self._owes:
            self._owes = owes
            self._idle_ns = self._idle_ns + elapsed_ns if owes is None else 0
            self._forget()
            return False
        self.waited_ns += elapsed_ns
        self._still_ns += elapsed_ns
        return self.waited_ns >= SUSPECT_NS

    def ping_is_due(self) -> bool:
        """Whether the worker has been idle for so long that it should be pinged."""
        return self._owes is None and self._idle_ns >= PING_NS

    def hangs(self, state: ProcessState | None, planned_ns: int, sizes_vary: bool, timeout_ns: int) -> str:
        """Says how the worker hangs, as the end of a sentence; empty: it does not, as far as one can tell.

        `state`: None where the system does not show it. `planned_ns`: how long the batch should take; 0 for a ping.
        """
        plans_ns = PLANS_MAX * planned_ns
        if self.waited_ns > max(timeout_ns, plans_ns):
            return "did not answer"
        if state is None:
            return ""
        self._stopped = self._stopped + 1 if state.stopped else 0
        if self._stopped >= STOPPED_LOOKS:
            return "was stopped"
        if self._cpu_ns_first < 0:
            self._cpu_ns_first = state.cpu_ns
        if state.runs or (self._cpu_ns >= 0 and state.cpu_ns > self._cpu_ns):
            self._still_ns = 0
        self._cpu_ns = state.cpu_ns
        if self._still_ns > STILL_NS + plans_ns:
            return "did nothing"
        busy_ns = min(BUSY_NS + plans_ns, timeout_ns)
        if not sizes_vary and self.waited_ns > busy_ns and state.cpu_ns - self._cpu_ns_first > busy_ns:
            return "did not come to an end"
        return ""
