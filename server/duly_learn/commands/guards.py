"""`duly models guards`: what the guards of a model find, and what they take for spoilt of clean frames."""

import json
import logging
from pathlib import Path

import click
import structlog

from duly.cli_numbers import Number
from duly_learn.commands.versions import version_of
from duly_learn.frames.places import frames_from
from duly_learn.frames.split import split
from duly_learn.guards.measure import measure, table
from duly_learn.running.model import running


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@click.argument("model", metavar="NAME[/VERSION]")
@click.option(
    "--frames",
    "places",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Clean frames: folder of samples or pictures, recording, MCAP, .npy or .npz; may be given again.",
)
@click.option("--topic", default="", help="Topic of logs, where several fit.")
@click.option(
    "--held-out",
    type=Number(0, 1, min_open=True),
    default="0.3",
    show_default=True,
    help="Share of the frames that are used: those to which duly models optimize with the same frames, share and seed "
    "fits nothing. 1: all.",
)
@click.option("--frames-max", type=click.IntRange(2, 100_000), default=1000, show_default=True, help="Frames to read.")
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="What chance begins with."
)
@click.option(
    "--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Where model.toml states none."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")
def guards(
    folder: Path,
    model: str,
    places: tuple[Path, ...],
    topic: str,
    held_out: float,
    frames_max: int,
    seed: int,
    threads: int,
    as_json: bool,
) -> None:
    """Measure the guards of a model: of its newest version, or of the one named.

    Clean frames run in a worker, and frames that are made of them: blank, frozen, noise, shuffled. The table says on
    which share of each kind each guard finds something. On clean frames these are false alarms; docs/guards.md has
    more.
    """
    # A worker's own lines would stand between those of this command.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    version = version_of(folder, model)
    if not version.config.guards:
        raise click.ClickException(f"{version.key} has no guards; say [[guard]] in its model.toml")
    with running(version, threads=threads) as worker:
        # Frames that were flagged stay: without them there would be no false alarms.
        frames = frames_from(places, worker.signature, frames_max, seed, topic, _tell, version.name, flagged=True)
        used = frames if held_out == 1 else split(frames, held_out, seed)[1]
        rows = measure(worker, used, seed, _tell)
    if as_json:
        click.echo(
            json.dumps([{"kind": r.kind, "frames": r.frames, "found": dict(r.by_guard), "any": r.by_any} for r in rows])
        )
    else:
        click.echo(table(rows))


def _tell(line: str) -> None:
    click.echo(line, err=True)
