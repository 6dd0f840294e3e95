"""Says so where gRPC cannot work because this process was forked after it had been used.

gRPC's threads, and what they hold at that moment, do not survive a fork: whatever the child asks of it waits for ever.
A child of a process that has not used gRPC yet is free to use it.

A child that does not use gRPC is safe, but for gRPC's own attempt to go on after a fork: where nothing is stated, its
core makes it and its Python package does not, and one child in six ends by SIGSEGV (seen with gRPC 1.85).
"""

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # gRPC reads it when it is imported
_used = False
_used_before_fork = False
_forked = False
_REMEDY = "start it with multiprocessing's 'spawn' or 'forkserver'"


class ForkedError(RuntimeError):
    """gRPC was used before this process was forked, by a client of duly."""

    def __init__(self) -> None:
        super().__init__(
            f"this process was forked after gRPC had been used, which does not survive that: {_REMEDY}, "
            "or make the first client after the fork"
        )


def using_grpc() -> None:
    """Notes that gRPC is used from now on. Raises ForkedError where it cannot be used."""
    global _used
    if _used_before_fork:
        raise ForkedError
    _used = True


def is_forked() -> bool:
    """Returns whether gRPC had been used when this process was forked."""
    return _used_before_fork


def fork_hint() -> str:
    """Returns words for an error in a forked process: somebody else may have used gRPC before."""
    return f"; this process was forked: if gRPC had been used before, {_REMEDY}" if _forked else ""


def _after_fork_in_child() -> None:
    global _forked, _used_before_fork
    _forked, _used_before_fork = True, _used


if hasattr(os, "register_at_fork"):  # else nothing is ever forked
    os.register_at_fork(after_in_child=_after_fork_in_child)
