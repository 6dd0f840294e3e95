"""What all commands that send share: their options, the errors of targets, and how far a run is."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from duly_load.cli.options import Number, UsageError
from duly_load.cli.progress import ProgressBar
from duly_load.generator.run import LAG_SHARE, Progress, Sending
from duly_load.protocols.connection import TargetError
from duly_load.scenario.parsing import ScenarioError
from duly_load.targets.opened import TargetNameError
from duly_load.targets.peer import PeerError

_Command = TypeVar("_Command", bound=Callable[..., Any])


@contextmanager
def target_errors() -> Iterator[None]:
    """Tells what the block raises: wrong scenarios and names with exit status 2, targets that fail with 1."""
    try:
        yield
    except (ScenarioError, TargetNameError) as error:
        raise UsageError(str(error)) from error
    except (TargetError, PeerError) as error:
        raise click.ClickException(str(error)) from error


def following(bar: ProgressBar, duration_s: float, from_s: float = 0.0) -> Callable[[Progress], None]:
    """Shows on the bar, which counts in s, how far a run is that begins where the bar is at `from_s`."""

    def show(at: Progress) -> None:
        on_time = f", {at.on_time / at.answered:.1%} of the answers on time" if at.answered else ""
        so_far = f"{at.sent:,} sent{on_time}"
        if at.at_ns > duration_s * 1e9:
            so_far += f"; waiting for {at.sent - at.answered:,} answers"
        bar.at(from_s + min(max(at.at_ns / 1e9, 0.0), duration_s), so_far)

    return show


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
