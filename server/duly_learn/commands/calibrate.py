"""`duly models calibrate`: finds the ranges of a model's tensors, for TensorRT and MIGraphX to run it with 8 bits."""

import logging
from pathlib import Path

import click
import structlog

from duly_learn.commands.versions import version_of
from duly_learn.optimize.calibrate import FRAMES_MAX, CalibrationAsked
from duly_learn.optimize.calibrate import calibrate as run


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@click.argument("model", metavar="NAME[/VERSION]")
@click.option(
    "--frames",
    "places",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of samples or pictures, recording, MCAP, .npy or .npz; may be given again.",
)
@click.option("--topic", default="", help="Topic of logs, where several fit.")
@click.option("--variant", default="", help="The variant whose graph it is.  [default: the most accurate]")
@click.option(
    "--ranges",
    type=click.Choice(["least-error", "widest"]),
    default="least-error",
    show_default=True,
    help="Which ranges: those of the least mean squared error, or those that hold all that was seen.",
)
@click.option(
    "--frames-max", type=click.IntRange(1, 100_000), default=FRAMES_MAX, show_default=True, help="Frames that are used."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="What chance begins with."
)
@click.option(
    "--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Where model.toml states none."
)
@click.option(
    "--out", "number", type=click.IntRange(1, 10**18 - 1), help="Number of the new version.  [default: the next]"
)
def calibrate(
    folder: Path,
    model: str,
    places: tuple[Path, ...],
    topic: str,
    variant: str,
    ranges: str,
    frames_max: int,
    seed: int,
    threads: int,
    number: int | None,
) -> None:
    """Find the ranges of a model's tensors: of its newest version, or of the one named.

    A new version is written, in which the graph is there twice: as it is, and as a variant that TensorRT (10) or
    MIGraphX runs with 8 bits in the ranges that were found on the frames. The server switches between them under load.
    How much of the answers is left is not judged, as that takes the GPU: add check samples, or try the version
    ([trial]).
    """
    # A worker's own lines would stand between those of this command.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    version = version_of(folder, model)
    places_of_model = [place / version.name if (place / version.name).is_dir() else place for place in places]
    asked = CalibrationAsked(
        version, places_of_model, variant, ranges == "widest", frames_max, seed, threads, topic, number
    )
    written = run(asked, lambda line: click.echo(line, err=True))
    click.echo(f"{version.name}/{written} is written; load and activate it where TensorRT or MIGraphX is")
