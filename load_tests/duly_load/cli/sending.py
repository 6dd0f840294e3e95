"""The options of all commands that send: how they do."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from duly_load.cli.options import Number
from duly_load.generator.run import LAG_SHARE, Sending

_Command = TypeVar("_Command", bound=Callable[..., Any])


def sending_options(command: _Command) -> _Command:
    """Options about how to send; the command gets them as `sending`, a `Sending`."""

    @click.option(
        "--processes", default=0, type=click.IntRange(0, 256), help="That send.  [default: as the rate needs]"
    )
    @click.option(
        "--lag-share",
        default=LAG_SHARE,
        show_default=True,
        type=Number(0, 1, min_open=True),
        help="Of a frame's budget that the generator's p99 lag may take; a run is invalid beyond.",
    )
    @click.option(
        "--answers-wait",
        "answers_wait_s",
        default=Sending().answers_wait_s,
        show_default=True,
        type=Number(0, 3600),
        help="Seconds after the end in which answers may come.",
    )
    @click.option("--realtime", is_flag=True, help="Senders run before all else (SCHED_RR); needs root.")
    @click.option("--keep-awake", is_flag=True, help="Keep the processors of a virtual machine from sleeping.")
    @functools.wraps(command)
    def with_sending(
        *args: Any,
        processes: int,
        lag_share: float,
        answers_wait_s: float,
        realtime: bool,
        keep_awake: bool,
        **others: Any,
    ) -> Any:
        sending = Sending(processes, answers_wait_s, lag_share, realtime, keep_awake)
        return command(*args, sending=sending, **others)

    return with_sending  # type: ignore[return-value]  # a decorator that takes parameters away
