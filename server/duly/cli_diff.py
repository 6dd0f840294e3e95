"""`duly diff`: what is different between two replays of one drive."""

import json
from pathlib import Path

import click

from duly.cli_numbers import Number
from duly_logs.comparison import compare
from duly_logs.report import report, verdict
from duly_logs.written import read_written

_LOG = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("before", type=_LOG)
@click.argument("after", type=_LOG)
@click.option("--report", "page", type=_LOG, help="HTML file to write, with pictures and plots in it.")
@click.option("--pictures", type=click.IntRange(0, 500), default=24, show_default=True, help="Frames shown in it.")
@click.option(
    "--score", type=Number(0, 1), default=0.05, show_default=True, help="Scores that differ by no more agree."
)
@click.option("--tolerance", type=Number(0, 1), default=1e-3, show_default=True, help="Other numbers, likewise.")
@click.option("--exit-code", is_flag=True, help="End with status 3 where something changed.")
@click.option("--json", "as_json", is_flag=True, help="Print what changed as JSON.")
def diff(
    before: Path,
    after: Path,
    page: Path | None,
    pictures: int,
    score: float,
    tolerance: float,
    exit_code: bool,
    as_json: bool,
) -> int:
    """Compare two logs that `duly replay --write` has written of one drive, frame by frame.

    The exit status is 0 where they were compared, 3 where something changed and --exit-code is given, 1 where they
    cannot be read or are not of one drive, and 2 where the options are wrong.
    """
    comparison = compare(read_written(before), read_written(after), score=score, tolerance=tolerance)
    for written in (comparison.before, comparison.after):
        if written.log.damage:
            click.echo(f"duly: {written.log.damage}", err=True)
    if page is not None:
        page.write_text(report(comparison, pictures), "utf-8")
    if as_json:
        changes = [{"frame": change.before.frame, "what": change.words()} for change in comparison.changes]
        click.echo(json.dumps({"frames": len(comparison.common), "changed": len(changes), "changes": changes}))
    else:
        click.echo(verdict(comparison))
        if page is not None:
            click.echo(f"written to {page}")
    return 3 if exit_code and comparison.changes else 0
