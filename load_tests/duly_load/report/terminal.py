"""Tables for a terminal: names to the left, numbers to the right, no number cut off."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from duly_load.report import page

COLUMNS_MAX = 400
"""Width of the console, of which tables take the 80 to 100 columns that they need; rich would cut numbers off to fit a
narrower terminal.
"""


def terminal_table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    """A table without rows; `names` and `numbers` are the headings of its columns."""
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in names:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def table_of(page_table: page.Table) -> Table:
    """A table of a page, for the terminal."""
    table = terminal_table(
        page_table.heading, [page_table.first], [escape(column.title) for column in page_table.columns]
    )
    for name, cells in page_table.rows:
        texts = (column.text(value) for column, value in zip(page_table.columns, cells, strict=True))
        table.add_row(escape(name), *texts)
    return table
