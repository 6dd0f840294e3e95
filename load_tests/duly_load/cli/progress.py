"""How far a live run is, on standard error if that is a terminal; if it is none, what takes time is told in lines."""

import sys
from collections.abc import Callable
from typing import Self

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from duly_load.generator import run
from duly_load.scenario.scenario import Scenario


class RunProgress:
    """Shown inside a `with` block."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[so_far]}"),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=2,  # drawing takes time from the generator
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("", total=None, so_far="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """What is being done."""
        self._bar.reset(self._task, description=escape(text), total=None, so_far="")
        if self._bar.disable:
            click.echo(text, err=True)

    def follow(self, name: str, scenario: Scenario) -> Callable[[run.Progress], None]:
        """For `offer`: begins a run of `scenario`, named so."""
        self.say(f"{scenario.name} to {name}, {scenario.duration_s:g} s")
        duration_ns = round(scenario.duration_s * 1e9)
        self._bar.reset(self._task, total=duration_ns)

        def show(at: run.Progress) -> None:
            on_time = f", {at.on_time / at.answered:.1%} of the answers on time" if at.answered else ""
            so_far = f"{at.sent:,} sent{on_time}"
            if at.at_ns > duration_ns:
                so_far += f"; waiting for {at.sent - at.answered:,} answers"
            self._bar.update(self._task, completed=max(0, min(at.at_ns, duration_ns)), so_far=so_far)

        return show
