"""Loads a version behind everything else that the machine does, so that streams do not feel it. Worker processes import
it first, so it imports next to nothing.

Without privileges a process can become less urgent, but never urgent again. A thread can do so for itself alone: it
loads and warms up the model, ends, and leaves the worker's first thread, which runs the batches, as it was. Threads
that it starts are as it is, so this is for models that run on one thread of a CPU; others load as urgently as they run.
"""

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

NICE = 19

_Result = TypeVar("_Result")


def fits(body: dict[str, Any]) -> bool:
    """Whether a LOAD message asks for a load in the background and the model allows it."""
    if not body.get("background") or not str(body["lane"]).startswith("cpu:") or int(body["threads"]) != 1:
        return False
    return not body["config"]["providers"]


def in_background(work: Callable[[], _Result]) -> _Result:
    """Returns what `work()` returns, or raises what it raises. It gets what the CPUs have left."""
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        step_back()
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="load")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def step_back() -> None:
    """Makes this thread, and those that it starts, less urgent than any other. Where a sandbox forbids it, it stays as
    it is.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        except OSError:
            return
