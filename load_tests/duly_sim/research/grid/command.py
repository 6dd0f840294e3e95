"""`duly-sim grid`: what the scheduler must show, measured row by row, and judged."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from duly.cpus import usable_cpus
from duly_load.results.formats import write_json
from duly_sim.research.grid.efforts import EFFORTS, ROWS
from duly_sim.research.grid.judge import Finding, Row
from duly_sim.research.grid.run import JobRunner

PIPE_COLUMNS = 180
"""The width of the table where standard output is no terminal."""


def _rows(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, ...]:
    names = [str(number) for number in ROWS]
    chosen = [name.strip() for name in value.split(",")] if value else names
    for name in chosen:
        if name not in names:
            raise click.BadParameter(f"no row is {name!r}; should be of {', '.join(names)}, as in 1,3")
    return tuple(dict.fromkeys(int(name) for name in chosen))


@click.command()
@click.option("--rows", callback=_rows, default="", help="Which, as in 1,3; all unless given.")
@click.option("--effort", type=click.Choice(list(EFFORTS)), default="short", show_default=True)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    default=usable_cpus(),
    show_default="one a processor",
    help="Processes at a time.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for grid.json and the curves as HTML; what is finished is kept there and not run again.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 where a row falls short.")
def grid(rows: tuple[int, ...], effort: str, jobs: int, out: Path | None, strict: bool) -> None:
    """Measure what the scheduler must show, in the simulator, and judge it row by row.

    \b
    Processor time, to be divided by --jobs:
      short:  5 cells of row 1, 2 seeds x 8 s or 8,000 frames a run: 10 minutes.
      medium: all 96 cells, 3 seeds x 20 s or 10,000 frames a run: 3 hours, most of them row 1.
      full:   all 96 cells, 5 seeds x 60 s: 40 hours; give it --out and it goes on where it was stopped.

    Rows: 1 capacity, 2 near the optimum, 3 no collapse, 4 wasted lane time, 5 what each class is promised, 6 admission,
    7 variants, 8 LATEST streams under overload, 9 waiting at low load, 10 what a decision costs, 12 random loads,
    13 loads that alternate.
    Whether the simulator tells the truth (11) is shown by `duly-sim sim-vs-live`.
    """
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.UsageError(f"--out: {out} can't be made: {error.strerror}") from error
    judged: list[Row] = []
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    with progress:
        task = progress.add_task("", total=None)

        def show(done: int, of: int) -> None:
            progress.update(task, completed=done, total=of)

        try:
            measure = JobRunner(jobs, out / "cells.jsonl" if out is not None else None, show)
        except ValueError as error:
            raise click.UsageError(f"--out: {error}; remove the file, or name another folder") from error
        for number in rows:
            progress.update(task, description=f"row {number}")
            judged.append(ROWS[number](EFFORTS[effort], measure))
    console = Console()
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    console.print(_table(judged, effort))
    for row in judged:
        console.print(f"{row.number}: {row.how}", highlight=False)
        for note in row.notes:
            console.print(f"   {note}", highlight=False)
    if out is not None:
        _write(out, effort, judged)
    if strict and not all(row.passes for row in judged):
        sys.exit(1)


def _table(judged: list[Row], effort: str) -> Table:
    table = Table(title=f"effort: {effort}")
    for heading in ("row", "asked for", "limit", "least", "median", "greatest", "", "where"):
        table.add_column(heading, justify="left" if heading in ("asked for", "", "where") else "right")
    for row in judged:
        for index, finding in enumerate(row.findings):
            table.add_row(
                str(row.number) if index == 0 else "", *_cells(finding), end_section=index == len(row.findings) - 1
            )
    return table


def _cells(finding: Finding) -> list[str]:
    return [
        finding.asked,
        f"{'≥' if finding.at_least else '≤'} {finding.limit:,.6g}",
        *(f"{value:,.4g}" for value in finding.spread),
        "[green]pass[/]" if finding.passes else "[bold red]falls short[/]",
        finding.where,
    ]


def _write(out: Path, effort: str, judged: list[Row]) -> None:
    from duly_sim.report.curves import write_curves  # late: it draws with plotly, which nothing else needs

    content: dict[str, Any] = {"effort": asdict(EFFORTS[effort]), "rows": [row.to_json() for row in judged]}
    write_json(out / "grid.json", content)
    written = [out / "grid.json"]
    for row in judged:
        for title, curves in row.curves:
            page = out / f"row-{row.number}, {title}.html".replace(", ", "-").replace(" ", "-")
            write_curves(page, f"{row.title}: {title}", list(curves), "load (times capacity)")
            written.append(page)
    click.echo(f"written: {', '.join(str(file) for file in written)}")
