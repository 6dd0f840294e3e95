"""A progress bar on standard error if that is a terminal; if it is none, lines about what takes time."""

import sys
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class ProgressBar:
    """The bar is shown inside a `with` block. What is done and its total are in a unit that the command chooses."""

    def __init__(self, total: float) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[so_far]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            refresh_per_second=2,  # drawing takes time from the generator
            speed_estimate_period=3600,  # settling shows no progress and takes time all the same
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("", total=total, so_far="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @property
    def drawn(self) -> bool:
        """Whether there is a terminal to draw on."""
        return not self._bar.disable

    def title(self, what: str) -> None:
        """Shows beside the bar what is done from here on."""
        self._bar.update(self._task, description=escape(what), so_far="")

    def say(self, what: str) -> None:
        """The same for what takes time and shows no progress: where no bar is drawn it is a line."""
        self.title(what)
        if not self.drawn:
            self.line(what)

    def line(self, text: str) -> None:
        """Prints what must be read afterwards too, above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def at(self, done: float, so_far: str) -> None:
        """Moves the bar; `so_far` says in words what was done."""
        self._bar.update(self._task, completed=max(0.0, done), so_far=escape(so_far))
