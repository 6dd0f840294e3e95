"""Takes the urgency back from a server whose event loop does not come to itself, and from its workers. The server
starts it as

    python -P -m duly.realtime.watchdog FD PARENT_PID

where FD is the inherited descriptor of its end of a pair of sockets. A server that runs under SCHED_FIFO and loops
without end would have its processor for good, and neither its own timers nor the interpreter's other threads come to
anything then; so this is another process, more urgent than it. It sleeps but for a look every 100 ms.

`silence` has the messages. It ends with the server, and with having taken the urgency back.
"""

import contextlib
import gc
import os
import select
import socket
import sys
from pathlib import Path

from duly.die_with_parent import die_with_parent
from duly.realtime import memory, scheduling
from duly.realtime.silence import LOOK_NS, MESSAGE_BYTES_MAX, ORDINARY, READY, Silence

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def main(arguments: list[str]) -> int:
    descriptor, parent_pid = map(int, arguments)
    die_with_parent(parent_pid)  # one that is stopped would never hear that it is gone
    with contextlib.suppress(OSError):  # a name for `ps`, and no more
        Path("/proc/self/comm").write_text("duly watchdog")
    with socket.socket(fileno=descriptor) as connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _watch(connection, parent_pid)
    return 0


def _watch(connection: socket.socket, server: int) -> None:
    scheduling.make_urgent([0], scheduling.WATCHDOG_PRIORITY)
    memory.lock()
    gc.collect()
    gc.disable()
    connection.send(READY)
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    silence, workers = Silence(), list[int]()
    while True:
        if poll.poll(LOOK_NS // 1_000_000):
            message = connection.recv(MESSAGE_BYTES_MAX)
            if not message:
                return
            silence.heard()
            workers = [int(word) for word in message.split()]
        elif silence.look(_cpu_ns(server)):
            for pid in (server, *workers):
                with contextlib.suppress(PermissionError):
                    scheduling.make_ordinary(scheduling.threads(pid))
            connection.send(ORDINARY)
            return


def _cpu_ns(pid: int) -> int:
    """Returns what the first thread of a process, that of its event loop, has used of a processor; 0: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_NS
    except (OSError, ValueError, IndexError):
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
