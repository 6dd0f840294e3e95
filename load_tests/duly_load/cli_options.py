"""What the commands for live loads share: options, a folder for what they write, and errors of who typed them."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from duly_load.generator.run import LAG_SHARE, Sending

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Wrong(click.ClickException):
    """What was typed, or the scenario, is wrong."""

    exit_code = 2


class Number(click.FloatRange):
    """click's own range lets nan through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("should be a number, got nan", param, ctx)
        return number


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


def make_folder(out: Path, files: tuple[str, ...]) -> None:
    """For `files`. What can't be written is told before the work, not after it. Raises Wrong."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in files:
            (out / name).touch()
    except OSError as error:
        raise Wrong(f"--out: {error.filename} can't be written: {error.strerror}") from error
