"""`duly models optimize`: makes faster variants of a model, judges them, and writes those that are good enough as a new
version.
"""

import difflib
import logging
import sys
from pathlib import Path

import click
import structlog

from duly.cli_numbers import Number
from duly.models.repository import ModelVersion
from duly_learn.commands.versions import version_of
from duly_learn.optimize.distillation import SECONDS_MAX
from duly_learn.optimize.page import report
from duly_learn.optimize.pruning import SHARE
from duly_learn.optimize.run import FRAMES_MAX, Asked, Found
from duly_learn.optimize.run import optimize as run
from duly_learn.optimize.step import Step
from duly_learn.optimize.steps import STEPS, with_bounds


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@click.argument("model", metavar="NAME[/VERSION]")
@click.option(
    "--frames",
    "places",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of samples or pictures, recording, MCAP, .npy or .npz; may be given again.",
)
@click.option("--topic", default="", help="Topic of logs, where several fit.")
@click.option("--all", "every", is_flag=True, help="Try all steps.")
@click.option("--steps", "named", default="", help=f"Steps to try: {','.join(step.name for step in STEPS)}.")
@click.option(
    "--tolerance",
    type=Number(0, 1, max_open=True),
    help="How much of the agreement with the original may be lost.  [default: that of [task] in model.toml, 0.01]",
)
@click.option(
    "--judge",
    "by_mean",
    type=click.Choice(["low", "mean"]),
    default="low",
    show_default=True,
    help="What must be within the tolerance: the low end of the agreement's interval, which holds with 95 % for all "
    "candidates at once, or its mean.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="What chance begins with."
)
@click.option(
    "--held-out",
    type=Number(0, 1, min_open=True, max_open=True),
    default="0.3",
    show_default=True,
    help="Share of the frames that candidates are judged by and never fitted to.",
)
@click.option(
    "--frames-max", type=click.IntRange(2, 100_000), default=FRAMES_MAX, show_default=True, help="Frames that are used."
)
@click.option(
    "--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Where model.toml states none."
)
@click.option(
    "--guards",
    is_flag=True,
    help="Fit a detector of frames unlike others to the model's own layers, guard by it, and by BLANK and FROZEN where "
    "no clean frame is either; measure what they find. Needs no steps.",
)
@click.option(
    "--share",
    type=Number(0, 1, min_open=True, max_open=True),
    default=str(SHARE),
    show_default=True,
    help="Share of the multiplications that pruned and distilled variants have at most.",
)
@click.option(
    "--train-seconds",
    type=click.IntRange(1, 86_400),
    default=int(SECONDS_MAX),
    show_default=True,
    help="How long a student is trained at most.",
)
@click.option("--report", "page", type=click.Path(dir_okay=False, path_type=Path), help="HTML page to write.")
@click.option(
    "--out", "number", type=click.IntRange(1, 10**18 - 1), help="Number of the new version.  [default: the next]"
)
def optimize(
    folder: Path,
    model: str,
    places: tuple[Path, ...],
    topic: str,
    every: bool,
    named: str,
    tolerance: float | None,
    by_mean: str,
    seed: int,
    held_out: float,
    frames_max: int,
    threads: int,
    guards: bool,
    share: float,
    train_seconds: int,
    page: Path | None,
    number: int | None,
) -> None:
    """Make faster variants of a model: of its newest version, or of the one named.

    Each is judged on frames that it was not fitted to: by how much its answers agree with the original's, as [task] in
    model.toml says or the outputs look, and by how fast its worker is. Those within the tolerance that are faster
    become the variants of a new version, the most accurate first, for the server to switch between under load. The exit
    status is 1 where nothing is kept. docs/optimize.md has all of it.
    """
    # A worker's own lines would stand between those of this command.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    version = version_of(folder, model)
    page = page or Path(f"{version.name}-{version.version}-optimize.html")
    asked = Asked(
        version,
        [_samples_of(place, version) for place in places],
        with_bounds(_steps(every, named, guards), share, train_seconds),
        version.config.task.tolerance if tolerance is None else tolerance,
        seed,
        held_out,
        frames_max,
        by_mean == "mean",
        threads,
        number,
        topic,
        guards,
    )
    found = run(asked, click.echo)
    page.write_text(report(found), "utf-8")
    _tell(found, page)
    sys.exit(0 if found.number else 1)


def _samples_of(place: Path, version: ModelVersion) -> Path:
    """The model's own folder where a place holds samples of several models, as `duly serve --sample` writes them."""
    own = place / version.name
    return own if place.is_dir() and own.is_dir() else place


def _steps(every: bool, named: str, guards: bool) -> list[Step]:
    known = {step.name: step for step in STEPS}
    names = [name.strip() for name in named.split(",") if name.strip()]
    if every == bool(names) and (every or not guards):
        raise click.UsageError(f"say --all, or some of --steps {','.join(known)}")
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise click.UsageError(f"--steps: there is no step {name}; {hint}")
    return [step for step in STEPS if every or step.name in names]


def _tell(found: Found, page: Path) -> None:
    name = found.asked.version.name
    for variant in found.variants:
        judged = next(each for each in (found.original, *found.candidates) if each.name == variant.name)
        click.echo(
            f"{name}/{found.number} {variant.name}: agreement {judged.agreement}, "
            f"{judged.speed_up:.2f} times as fast, {judged.size_bytes:,} bytes"
        )
    if found.number:
        click.echo(f"{name}/{found.number} is written; load and activate it, or serve with --watch activate")
    elif found.asked.guards and not found.asked.steps:
        click.echo(
            f"duly: {name}: no guard is worth having, and no version is written; the lines above say why", err=True
        )
    else:
        click.echo(
            f"duly: {name}: nothing is faster within the tolerance of {found.asked.tolerance:g}, and no version is "
            "written; the lines above have the figure that each step failed by",
            err=True,
        )
    click.echo(f"report: {page}")
