"""A filter of system calls (seccomp(2)), written by hand: what running a graph never needs is refused with an errno.

It is a list of what is refused, not of what is allowed: drivers of accelerators and the C library use calls that differ
by release, and a worker that ends at one of them would be a fault of ours. A refused call fails as it does for lack of
rights, which libraries expect. What Landlock holds by paths is not repeated here.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from duly.worker.kernel import AARCH64, MACHINE, X86_64, call

_SECCOMP = {X86_64: 317, AARCH64: 277}
_ARCH = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}  # linux/audit.h
_X32_BIT = 0x40000000

# linux/seccomp.h
_SET_MODE_FILTER, _GET_ACTION_AVAIL = 1, 2
_TSYNC, _SPEC_ALLOW = 1, 4
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NR_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data

# linux/filter.h
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_STEPS_MAX = 4096

_CLONE_THREAD = 0x10000
_AF_UNIX = 1

# name: number on x86_64 and on aarch64; None: there is no such call
# fmt: off
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # other processes: their memory, their descriptors, their control
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "tkill": (200, 130),
    # programs and processes
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "unshare": (272, 97),
    "setns": (308, 268), "personality": (135, 92), "modify_ldt": (154, None),
    # messages and memory that processes share by name
    "shmget": (29, 194), "shmat": (30, 196), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    # file systems
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "open_by_handle_at": (304, 265), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "swapon": (167, 224), "swapoff": (168, 225), "fanotify_init": (300, 262),
    # the kernel itself
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "syslog": (103, 116),
    "acct": (163, 89), "reboot": (169, 142), "iopl": (172, None), "ioperm": (173, None), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171), "sethostname": (170, 161),
    "setdomainname": (171, 162), "vhangup": (153, 58), "lookup_dcookie": (212, 18),
}
_NOT_THERE: dict[str, tuple[int, int]] = {
    # A ring makes calls that no filter sees. clone3 hides its flags, and the C library then takes clone.
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "clone3": (435, 435),
}
"""Calls that are answered as on a kernel that lacks them."""
_ONLY_ITSELF: dict[str, tuple[int, int, int]] = {
    # the position of the argument that says which process
    "prlimit64": (302, 261, 0), "setpriority": (141, 140, 1), "ioprio_set": (251, 30, 1),
    "sched_setparam": (142, 118, 0), "sched_setscheduler": (144, 119, 0), "sched_setattr": (314, 274, 0),
    "migrate_pages": (256, 238, 0), "move_pages": (279, 239, 0),
}
"""Calls that are allowed for this process alone, by its number or by 0."""
_SIGNALS: tuple[tuple[int, int, int], ...] = ((62, 129, 0), (234, 131, 0))  # kill, tgkill; 0 would be the whole group
_PINS: tuple[int, int, int] = (203, 122, 0)  # sched_setaffinity
_NOT_WITH: tuple[tuple[int, int, int, int], ...] = (
    # the position of an argument and the value that is refused
    (16, 29, 1, 0x5412), (16, 29, 1, 0x541C),  # ioctl TIOCSTI and TIOCLINUX: they type into the terminal of the server
    (72, 25, 1, 8), (72, 25, 1, 15),  # fcntl F_SETOWN and F_SETOWN_EX: they send signals to others
    (141, 140, 0, 1), (141, 140, 0, 2), (251, 30, 0, 2), (251, 30, 0, 3),  # setpriority and ioprio_set of groups, users
    (157, 167, 0, 1),  # prctl PR_SET_PDEATHSIG: the worker ends with the server
)
# fmt: on
_SOCKET = (41, 198)
_CLONE = (56, 220)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What some workers need and others do not."""

    unix_sockets: bool = False
    """Drivers of NVIDIA reach their daemons (MPS, persistence) so."""
    pinning: bool = False
    """ONNX Runtime pins the threads of a pool whose size it chooses itself."""


def available() -> bool:
    """Whether this kernel filters system calls, with an errno as the answer, on a machine that is known here."""
    if MACHINE not in _SECCOMP:
        return False
    try:
        action = ctypes.c_uint32(_ERRNO)
        call(_SECCOMP[MACHINE], _GET_ACTION_AVAIL, 0, ctypes.addressof(action))
    except OSError:
        return False
    return True


def refuse_calls(allowed: Allowed) -> None:
    """Filters the system calls of all threads of this process for good. Raises OSError where the kernel will not.

    The process must have given up new privileges before.
    """
    steps = b"".join(_program(allowed, os.getpid(), MACHINE))
    count = len(steps) // 8
    assert count <= _STEPS_MAX
    buffer = ctypes.create_string_buffer(steps, len(steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", count, ctypes.addressof(buffer)))
    # Without SPEC_ALLOW older kernels also slow down all of the process against speculative store bypass.
    call(_SECCOMP[MACHINE], _SET_MODE_FILTER, _TSYNC | _SPEC_ALLOW, ctypes.addressof(program))


def _program(allowed: Allowed, pid: int, machine: str) -> Iterator[bytes]:
    """Yields the instructions of the filter (linux/filter.h). Each block ends with the number of the call loaded."""
    side = (X86_64, AARCH64).index(machine)
    refused, not_there = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    yield _step(_LOAD, _ARCH_AT)
    yield _step(_EQUAL, _ARCH[machine], 1, 0)
    yield _step(_RETURN, _KILL_PROCESS)
    yield _step(_LOAD, _NR_AT)
    if machine == X86_64:
        yield _step(_AT_LEAST, _X32_BIT, 0, 1)
        yield _step(_RETURN, not_there)
    for numbers, answer in ((_REFUSED, refused), (_NOT_THERE, not_there)):
        for each in numbers.values():
            number = each[side]
            if number is not None:
                yield _step(_EQUAL, number, 0, 1)
                yield _step(_RETURN, answer)
    itself = [*_ONLY_ITSELF.values(), *(() if allowed.pinning else (_PINS,))]
    for *of_machines, position in itself:
        yield from _for(of_machines[side], position, [_step(_EQUAL, 0, 2, 0), _step(_EQUAL, pid, 1, 0)], refused)
    for *of_machines, position in _SIGNALS:
        yield from _for(of_machines[side], position, [_step(_EQUAL, pid, 1, 0)], refused)
    for *of_machines, position, value in _NOT_WITH:
        yield from _for(of_machines[side], position, [_step(_EQUAL, value, 0, 1)], refused)
    if allowed.unix_sockets:
        yield from _for(_SOCKET[side], 0, [_step(_EQUAL, _AF_UNIX, 1, 0)], refused)
    else:
        yield from _for(_SOCKET[side], 0, [], refused)
    yield from _for(_CLONE[side], 0, [_step(_ANY_BIT, _CLONE_THREAD, 1, 0)], refused)
    yield _step(_RETURN, _ALLOW)


def _for(number: int, position: int, tests: list[bytes], answer: int) -> Iterator[bytes]:
    """For one call: `tests` look at the lower half of one argument, and skip the refusal that follows them or not."""
    body = [_step(_LOAD, _ARGUMENTS_AT + 8 * position), *tests, _step(_RETURN, answer), _step(_LOAD, _NR_AT)]
    yield _step(_EQUAL, number, 0, len(body))
    yield from body


def _step(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, operand)
