"""Tables for a terminal: names to the left, numbers to the right, no number cut off."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

COLUMNS_MAX = 400
"""Width for consoles whose tables take what they need, 80 to 100 columns; rich cuts numbers off to fit a terminal."""


def terminal_table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    """Without rows; `names` and `numbers` are the headings of its columns."""
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in names:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
