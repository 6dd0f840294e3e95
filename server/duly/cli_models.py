"""`duly models`: what is in a model repository, and whether it would load."""

import difflib
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from duly.cli_convert import convert
from duly.cli_lazy import Lazy
from duly.cli_manifest import manifest
from duly.cli_settings import CONFIG_OPTION, setting_option
from duly.cli_versions import COMMANDS
from duly.config_sources import ConfigError, load_config
from duly.models.repository import ModelVersion, NotARepository, Repository, RepositoryProblem

_FOLDER = click.argument("folder", metavar="DIR", type=click.Path(exists=True, path_type=Path), required=True)

_LEARN_EXTRAS = "pip install 'duly[learn]'"

_CHECKED = (
    "lanes",
    "threads",
    "load_timeout_s",
    "bytes_in_flight_max",
    "payload_bytes_max",
    "principal_bytes_in_flight_max",
    "sandbox",
    "worker_memory_bytes_max",
    "worker_device_memory_bytes_max",
    "cache_folders",
    "engine_cache",
    "engine_cache_bytes_max",
    "engine_build_timeout_s",
    "libraries_sha256",
    "manifests",
    "manifest_keys",
)
"""The settings on which it depends whether a model can be served."""


@click.group()
def models() -> None:
    """Look at a model repository, a folder of NAME/VERSION/*.onnx, or change what a running server serves of it."""


@models.command("list")
@_FOLDER
def list_models(folder: Path) -> None:
    """Print one line for each version of each model. What is broken goes to standard error."""
    versions, problems = _scan(folder)
    width = max((len(version.key) for version in versions), default=0)
    for version in versions:
        click.echo(f"{version.key:{width}}  {_summary(version)}".rstrip())
    if not versions and not problems:
        click.echo(_empty(folder))
    _echo(problems)
    sys.exit(1 if any(not problem.harmless for problem in problems) else 0)


def _scan(folder: Path) -> tuple[list[ModelVersion], list[RepositoryProblem]]:
    try:
        return Repository(folder).scan()
    except NotARepository as error:
        raise click.UsageError(str(error)) from error


def _echo(problems: list[RepositoryProblem]) -> None:
    for problem in problems:
        click.echo(f"duly: {problem.reason}", err=True)


def _empty(folder: Path) -> str:
    return f"no models in {folder}: it should hold NAME/VERSION/*.onnx"


def _summary(version: ModelVersion) -> str:
    config = version.config
    variants = ", ".join(variant.name for variant in config.variants)
    parts = [f"variants: {variants}", f"budget: {config.default_budget_ms:g} ms", f"class: {config.default_class}"]
    return "  ".join([*parts, config.description])


@models.command()
@_FOLDER
@click.argument("model", metavar="NAME[/VERSION]")
def show(folder: Path, model: str) -> None:
    """Print the settings of a model as JSON, defaults filled in: of its newest version, or of the one named.

    Beside the settings, `graph` has the inputs and outputs of the graph with their batch dimension, and `frame` what
    clients send and get for one frame; where one of them is null, `problem` says why.
    """
    versions, problems = _scan(folder)
    for version in versions:
        if model in (version.key, version.name):
            _show(version)
            return
    _echo(problems)
    known = sorted({name for version in versions for name in (version.name, version.key)})
    close = difflib.get_close_matches(model, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none'}"
    raise click.ClickException(f"no model {model} in {folder}; {hint}")


def _show(version: ModelVersion) -> None:
    from duly.runtime.worker_launch import describe_version  # it imports what `list` does not need

    settings = version.config.model_dump(mode="json", by_alias=True)
    click.echo(json.dumps(settings | describe_version(version), indent=2, ensure_ascii=False))


def _check(folder: Path, config: Path | None, **settings: Any) -> None:
    _, problems = _scan(folder)
    _echo([problem for problem in problems if problem.harmless])
    given = {"models": folder, **settings}
    try:
        checked = load_config({name: value for name, value in given.items() if value is not None}, config, os.environ)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    from duly import app  # it imports all of gRPC, which the other commands do not need

    results = app.check_models(checked)
    width = max((len(found.key) for found in results), default=0)
    for found in results:
        problem = (found.problem or "ok").removeprefix(f"{found.key}: ")  # which the line names already
        click.echo(f"{found.key:{width}}  {problem}")
        for note in found.notes:
            click.echo(f"{'':{width}}  note: {note}")
    if not results:
        click.echo(_empty(folder))
    sys.exit(0 if results and not any(found.problem for found in results) else 1)


for _command in (
    convert,
    manifest,
    *COMMANDS,
    Lazy("optimize", "duly_learn.commands.optimize:optimize", "Make faster variants of a model.", _LEARN_EXTRAS),
    Lazy("calibrate", "duly_learn.commands.calibrate:calibrate", "Find ranges for 8 bits.", _LEARN_EXTRAS),
    Lazy("guards", "duly_learn.commands.guards:guards", "Measure what the guards of a model find.", _LEARN_EXTRAS),
    Lazy("robustness", "duly_learn.commands.robustness:robustness", "Test a model on harmed frames.", _LEARN_EXTRAS),
):
    models.add_command(_command)
models.add_command(
    click.Command(
        "check",
        callback=_check,
        help="""Load and warm up every model just as the server would, and say which ones do not work.

        The server's settings count here as they do there: the options below, the environment, and the TOML file. Give
        what `duly serve` gets.""",
        params=[
            click.Argument(["folder"], metavar="DIR", type=click.Path(exists=True, path_type=Path)),
            CONFIG_OPTION,
            *map(setting_option, _CHECKED),
        ],
    )
)
