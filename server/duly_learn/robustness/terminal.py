"""A result as tables in a terminal."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from duly_learn.robustness.result import CLEAN, Level, Result, Tested
from duly_learn.robustness.significance import MISTAKE


def tables(result: Result) -> Iterator[Table | str]:
    """Gives what there is to say, one after the other."""
    both = [result.tested] + ([result.against] if result.against is not None else [])
    for tested in both:
        yield from _tested(tested, result)
    if result.against is not None:
        yield escape(
            f"{result.against.model} less {result.tested.model}, in points; *: significant ({MISTAKE:.0%} for all "
            "together)"
        )
        yield _compared(result)
    for note in result.notes:
        yield escape(f"note: {note}")


def _tested(tested: Tested, result: Result) -> Iterator[Table | str]:
    clean = tested.clean.mean
    yield escape(
        f"{tested.model}: {result.measure}, %, of {result.frames} frames, against {result.expected}; clean "
        f"{100 * clean.mean:.1f} ({100 * clean.low:.1f} to {100 * clean.high:.1f})"
    )
    corruptions = [row for row in tested.rows if row.what == "corruption"]
    if corruptions:
        table = _table("severity", ["1", "2", "3", "4", "5", "severities of"])
        for row in corruptions:
            table.add_row(escape(row.name), *map(_cell, row.levels), escape(row.scale))
        yield table
    if corruptions and tested.guarded:
        clean_share = tested.clean.flagged / len(tested.clean.scores)
        yield f"flagged by guards, in %; of clean frames {100 * clean_share:.1f}"
        table = _table("severity", ["1", "2", "3", "4", "5"])
        for row in corruptions:
            table.add_row(escape(row.name), *(f"{100 * level.flagged / len(level.scores):.1f}" for level in row.levels))
        yield table
    for row in tested.rows:
        if row.what == "attack" and row.levels:
            yield escape(f"{row.name} ({row.scale}), {len(row.levels[0].scores)} frames")
            table = _table(row.unit, [level.label for level in row.levels])
            table.add_row("score left", *map(_cell, row.levels))
            table.add_row(
                "queries a frame", *(f"{level.queries / max(1, len(level.scores)):,.0f}" for level in row.levels)
            )
            table.add_row("at the limit", *(f"{level.at_limit} of {len(level.scores)}" for level in row.levels))
            if any(level.out_of_time for level in row.levels):
                table.add_row("of them by time", *(str(level.out_of_time) for level in row.levels))
            yield table


def _compared(result: Result) -> Table:
    table = _table("condition", _labels(result))
    clean = result.find(CLEAN, CLEAN)
    if clean is not None:
        table.add_row(CLEAN, _difference(result, CLEAN, CLEAN))
    for row in filter(lambda each: each.levels, result.tested.rows):
        table.add_row(escape(row.name), *(_difference(result, row.name, level.label) for level in row.levels))
    return table


def _labels(result: Result) -> list[str]:
    """Columns of differences are only numbered: severities, or epsilons in their order."""
    return [str(nth + 1) for nth in range(max((len(row.levels) for row in result.tested.rows), default=1))]


def _difference(result: Result, row: str, label: str) -> str:
    found = result.find(row, label)
    if found is None:
        return "-"
    each = found.difference
    mark = "*" if found.significant else ""
    return f"{100 * each.mean:+.1f}{mark}\n({100 * each.low:+.0f} to {100 * each.high:+.0f})"


def _cell(level: Level) -> str:
    mean = level.mean
    return f"{100 * mean.mean:.1f}\n({100 * mean.low:.0f} to {100 * mean.high:.0f})"


def _table(first: str, columns: Sequence[str]) -> Table:
    """Its title stands in a line of its own, which is not broken where the table is narrow."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(escape(first), no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
