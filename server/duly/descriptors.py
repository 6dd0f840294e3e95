"""How many file descriptors this process may have, and how they are shared out.

Each connection takes one, and a worker that is started takes some. Without a bound of connections, those that only lie
there would take the last ones, and a worker that dies could not be replaced.
"""

import os
import resource

RAISED_MAX = 65_536
"""The soft limit is raised to the hard one, but no further than this: some kernels make room for all of them."""
KEPT_BACK = 32
"""Descriptors that no connection takes: for starting workers, for files, and for scrapes of the metrics."""
_LISTED = "/proc/self/fd"


class DescriptorError(Exception):
    """The limit of open files leaves none for connections; the text says what to do."""


def raise_limit() -> int:
    """Raises the soft limit of this process, which its workers inherit, and returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = RAISED_MAX if hard == resource.RLIM_INFINITY else min(hard, RAISED_MAX)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return RAISED_MAX if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def connections_max(limit: int) -> int:
    """Returns how many connections the limit leaves room for beside what is open now. Raises DescriptorError."""
    taken = len(os.listdir(_LISTED)) + KEPT_BACK
    if taken >= limit:
        raise DescriptorError(
            f"the limit of {limit} open files leaves none for connections, the server itself takes {taken}: "
            "raise it with ulimit -n, LimitNOFILE= of systemd or --ulimit nofile= of docker"
        )
    return limit - taken
