"""`duly models robustness`: how much of a model's answers is left when its frames are harmed."""

import json
import logging
import random
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import click
import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from duly.models.repository import ModelVersion
from duly_learn.commands.versions import version_of
from duly_learn.errors import LearnError
from duly_learn.frames.frame import LearnFrame
from duly_learn.frames.places import frames_from
from duly_learn.robustness.attack import ATTACKS
from duly_learn.robustness.attacks.spsa import DIRECTIONS
from duly_learn.robustness.corruptions import NAMES, chosen
from duly_learn.robustness.kinds import Kind
from duly_learn.robustness.page import page
from duly_learn.robustness.picture import picture
from duly_learn.robustness.result import Result
from duly_learn.robustness.run import Plan, Teller, material_of, measure_for, result_of, same_frames, tested
from duly_learn.robustness.terminal import tables
from duly_learn.robustness.thumbnails import thumbnails
from duly_learn.robustness.truth import LabelError, read_labels
from duly_learn.running.model import RunningModel, running

FRAMES_MAX, QUERIES_MAX, EPSILON_MAX = 20_000, 1_000_000, 100.0
COLUMNS = 120
FILES = ("robustness.html", "robustness.json", "robustness.svg")
_HARMED = (Kind.PICTURE, Kind.SIGNAL, Kind.TABLE)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@click.argument("model", metavar="NAME[/VERSION]")
@click.option(
    "--frames",
    "places",
    multiple=True,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Frames: a folder of samples or pictures, .npz, .npy, a recording, an MCAP or bag. May be given again.",
)
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What is right: a label "
    "for each frame, as .npy, as a JSON list, or a line each. Not given: those that frames carry, else answers are "
    "compared with the clean ones.",
)
@click.option("--topic", default="", help="The topic of a log in which several fit.")
@click.option("--variant", help="The variant to test; not given: the most accurate one.")
@click.option(
    "--against", metavar="[VERSION][@VARIANT]", help="Another version, or variant, to test on the same frames."
)
@click.option("--corruption", "corruptions", multiple=True, metavar="NAME", help="Only this: " + ", ".join(NAMES) + ".")
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    type=click.Choice((*ATTACKS, "none")),
    help="Attacks within an "
    "L-infinity ball that know the model's answers alone; not given: square. May be given again.",
)
@click.option(
    "--epsilon",
    "epsilons",
    multiple=True,
    metavar="SIZE",
    help="Size of the ball, such as 8/255: a share of "
    "the range of values, of a table standard deviations. May be given again.",
)
@click.option(
    "--queries",
    default=200,
    show_default=True,
    type=click.IntRange(1, QUERIES_MAX),
    help="What an attack may ask of the model, for each frame and ball.",
)
@click.option(
    "--attack-frames",
    default=50,
    show_default=True,
    type=click.IntRange(1, FRAMES_MAX),
    help="How many frames are attacked.",
)
@click.option("--input", "inputs", multiple=True, metavar="NAME", help="Only this input is harmed. May be given again.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="INPUT=KIND",
    help=f"What an input is, where it is not what it looks like: {', '.join(_HARMED)}.",
)
@click.option(
    "--frames-max",
    default=200,
    show_default=True,
    type=click.IntRange(1, FRAMES_MAX),
    help="How many frames are tested, chosen by chance.",
)
@click.option(
    "--seconds",
    default=600.0,
    show_default=True,
    type=click.FloatRange(1, 86_400),
    help="About how long it may take; frames are left out where all would take longer.",
)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 256), help="Threads of the model.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Everything random is from it.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help=f"Folder for {', '.join(FILES)}.")
def robustness(folder: Path, model: str, **options: Any) -> None:
    """Test how much of a model's answers is left when its frames are harmed: by noise, blur, brightness, JPEG,
    occlusion and dropped samples at severities 1 to 5, and by attacks that look for the worst change that nobody sees.

    The frames run in a worker as they would in a server. Scores are those of [task] in model.toml. Exit status 1: it
    could not be tested; whatever the scores are, it is 0.
    """
    # A worker's own lines would stand between those of this command.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        result = _result(folder, model, options)
        Console(width=COLUMNS).print(*tables(result), sep="\n")
        if options["out"] is not None:
            _write(options["out"], result)
    except (LearnError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _result(folder: Path, model: str, options: dict[str, Any]) -> Result:
    plan = _plan(options)
    version = version_of(folder, model)
    asked = [(version, _variant_of(version, options["variant"]))]
    if options["against"] is not None:
        asked.append(_other(folder, *asked[0], options["against"]))
    shared = replace(plan, seconds=plan.seconds / len(asked))
    labels = read_labels(options["labels"]) if options["labels"] is not None else None
    names = [f"{each.key} ({variant})" for each, variant in asked]
    notes: list[str] = []
    with _Bar() as bar, ExitStack() as loaded:
        ready: list[RunningModel] = []
        for (each, variant), name in zip(
            asked, names, strict=True
        ):  # both at first, so that what is wrong is told early
            bar.say(f"{name}: loading", 0)
            ready.append(loaded.enter_context(running(each, variant, options["threads"])))
            same_frames(ready[0].signature, ready[-1].signature, name)
        frames, labels = _frames(ready[0], options, labels, notes)
        bar.say(f"{names[0]}: which frames it takes", 0)
        material = material_of(ready[0], frames, labels, shared)
        found = []
        for each_model, name in zip(ready, names, strict=True):
            one, answers, more = tested(each_model, name, material, shared, bar.teller)
            found.append((one, answers))
            notes += more
        measure = measure_for(ready[0])
    result = result_of(found[0], found[1] if len(found) > 1 else None, material, measure, shared, notes)
    return replace(result, pictures=tuple(thumbnails(material.plain, plan.corruptions, plan.seed)))


def _frames(
    model: RunningModel, options: dict[str, Any], labels: list[Any] | None, notes: list[str]
) -> tuple[list[LearnFrame], list[Any] | None]:
    """Returns at most `frames_max` frames, and their labels. Of frames with labels in a file all are read first, as it
    is told by its place which label is whose. Raises LearnError.
    """
    unusable: list[str] = []
    most = options["frames_max"]
    limit = most if labels is None else len(labels) + 1
    frames = frames_from(
        options["places"],
        model.signature,
        limit,
        options["seed"],
        options["topic"],
        unusable.append,
        model.version.name,
    )
    if labels is None:
        if unusable:
            notes.append(f"{len(unusable)} frames could not be used: {unusable[0]}")
        return frames, None
    if len(frames) != len(labels) or unusable:
        there = f"more than {len(labels)}" if len(frames) > len(labels) else str(len(frames))
        missing = f", and {len(unusable)} that could not be used: {unusable[0]}" if unusable else ""
        raise LabelError(
            f"{options['labels']}: has {len(labels)} labels, but there are {there} frames{missing}; should be one for "
            "each"
        )
    if len(frames) <= most:
        return frames, labels
    if model.signature.stateful:
        chosen = list(range(most))
    else:
        chosen = sorted(random.Random(options["seed"]).sample(range(len(frames)), most))
    return [frames[index] for index in chosen], [labels[index] for index in chosen]


def _plan(options: dict[str, Any]) -> Plan:
    attacks = tuple(dict.fromkeys(options["attacks"])) or ("square",)
    if "none" in attacks:
        attacks = ()
    if "spsa" in attacks and options["queries"] < 2 * DIRECTIONS + 1:
        raise click.UsageError(
            f"--queries: spsa needs {2 * DIRECTIONS + 1} for a single step, got {options['queries']}"
        )
    kinds: dict[str, Kind] = {}
    for stated in options["kinds"]:
        name, _, kind = stated.rpartition("=")
        if not name or kind not in set(_HARMED):
            raise click.UsageError(f"--kind: should be INPUT=KIND with {', '.join(_HARMED)}, got {stated!r}")
        kinds[name] = Kind(kind)
    return Plan(
        chosen(options["corruptions"]),
        attacks,
        tuple(_epsilon(text) for text in options["epsilons"]),
        options["queries"],
        options["attack_frames"],
        options["seconds"],
        options["seed"],
        tuple(options["inputs"]),
        kinds,
    )


def _epsilon(text: str) -> float:
    try:
        epsilon = float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise click.UsageError(f"--epsilon: should be a number such as 0.03 or 8/255, got {text!r}") from None
    if not 0 <= epsilon <= EPSILON_MAX:
        raise click.UsageError(f"--epsilon: should be 0 to {EPSILON_MAX:g}, got {text}")
    return epsilon


def _other(folder: Path, version: ModelVersion, variant: str, against: str) -> tuple[ModelVersion, str]:
    """Returns what is compared with: another version of the same model, or a variant. Raises LearnError."""
    number, _, its_variant = against.partition("@")
    name, _, number = number.rpartition("/")
    other = version_of(folder, f"{name or version.name}/{number}") if number else version
    chosen = _variant_of(other, its_variant or None)
    if (other.key, chosen) == (version.key, variant):
        raise LearnError(f"--against {against}: is the same as what is tested; should be another version or @VARIANT")
    return other, chosen


def _variant_of(version: ModelVersion, variant: str | None) -> str:
    """Returns the variant's name, that of the most accurate one where none is named. Raises LearnError."""
    names = version.config.variant_names
    if variant is not None and variant not in names:
        raise LearnError(f"{version.key}: has no variant {variant}; it has {', '.join(names)}")
    return variant or names[0]


class _Bar:
    """How far the test is."""

    def __init__(self) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("", total=None)
        self.teller = Teller(self.say, self._answered)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, what: str, answers: int) -> None:
        """Begins with something else, which takes at most so many answers; 0: nobody knows."""
        self._progress.reset(self._task, total=answers or None, description=what)

    def _answered(self, frames: int) -> None:
        self._progress.advance(self._task, frames)


def _write(out: Path, result: Result) -> None:
    out.mkdir(parents=True, exist_ok=True)
    page_file, json_file, picture_file = (out / name for name in FILES)
    page_file.write_text(page(result), "utf-8")
    json_file.write_text(json.dumps(result.to_json(), indent=1, ensure_ascii=False), "utf-8")
    picture_file.write_text(picture(result), "utf-8")
    click.echo(f"written to {out}: {', '.join(FILES)}")
