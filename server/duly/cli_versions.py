"""`duly models load`, `unload`, `activate`, `rollback`, `trials`, `try`, `veto` and `learning`: which versions a
running server serves, which it tries, and how it comes by new ones.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from duly.cli_connection import Connection, connection_options

if TYPE_CHECKING:
    from duly.v1 import model_pb2
    from duly_client import Client

_Answer = TypeVar("_Answer")

_NAME = click.argument("name")
_FORCE = click.option("--force", is_flag=True, help="Even if what open streams were promised no longer holds with it.")


def _ask(connection: Connection, call: "Callable[[Client], Awaitable[_Answer]]") -> "_Answer":
    """Makes a call and returns its answer."""
    client = connection.client()

    async def run() -> _Answer:
        async with client:
            return await call(client)

    return asyncio.run(run())


def _on(connection: Connection, call: "Callable[[Client], Awaitable[model_pb2.Model]]") -> None:
    """Makes a call, and prints the model as it is then."""
    from duly.v1 import model_pb2

    model = _ask(connection, call)
    for version in model.versions:
        key = f"{model.name}/{version.version}" if version.version else model.name
        state = model_pb2.ModelState.Name(version.state).removeprefix("MODEL_STATE_")
        active = "  active" if version.version and version.version == model.active_version else ""
        said = version.error or version.progress
        click.echo(f"{key}  {state}{active}{f'  {said}' if said else ''}")
    if not model.versions:
        click.echo(f"{model.name}  not loaded")


@click.command()
@_NAME
@click.argument("version", default="")
@connection_options
def load(name: str, version: str, **connection: Any) -> None:
    """Load a version of NAME, or the newest, beside those that serve. It becomes active only where none is."""
    _on(Connection(**connection), lambda client: client.load_model(name, version))


@click.command()
@_NAME
@click.argument("version", default="")
@connection_options
def unload(name: str, version: str, **connection: Any) -> None:
    """Stop serving a version of NAME, or all of them; frames that wait for it are answered FAILED."""

    async def call(client: "Client") -> "model_pb2.Model":
        from duly.v1 import model_pb2

        await client.unload_model(name, version)
        return next((model for model in await client.models() if model.name == name), model_pb2.Model(name=name))

    _on(Connection(**connection), call)


@click.command()
@_NAME
@click.argument("version")
@_FORCE
@connection_options
def activate(name: str, version: str, force: bool, **connection: Any) -> None:
    """Serve streams of NAME that state no version with this loaded one, from their next frame on."""
    _on(Connection(**connection), lambda client: client.activate_version(name, version, force=force))


@click.command()
@_NAME
@_FORCE
@connection_options
def rollback(name: str, force: bool, **connection: Any) -> None:
    """Go back to the version of NAME that was active before. It is loaded still, so this takes no time."""

    async def call(client: "Client") -> "model_pb2.Model":
        model = await client.model(name)
        if not model.previous_version:
            raise click.ClickException(
                f"no version of {name} was active before {model.active_version or 'now'} and is loaded still; "
                f"load one: duly models load {name} VERSION"
            )
        return await client.activate_version(name, model.previous_version, force=force)

    _on(Connection(**connection), call)


@click.command()
@click.argument("name", default="")
@connection_options
def trials(name: str, **connection: Any) -> None:
    """Print the trials of new versions of NAME, or of all models: where each stands, and why."""

    async def call(client: "Client") -> "list[model_pb2.Trial]":
        return await client.trials(name)

    found = _ask(Connection(**connection), call)
    for trial in found:
        _print(trial)
    if not found:
        click.echo("no trials")


@click.command(name="try")
@_NAME
@click.argument("version")
@connection_options
def try_version(name: str, version: str, **connection: Any) -> None:
    """Try a version of NAME on live frames, and make it active if it passes, by the rules in [trial] of model.toml."""
    _print(_ask(Connection(**connection), lambda client: client.start_trial(name, version)))


@click.command()
@_NAME
@click.argument("version")
@click.option("--reason", default="", help="Why; it stands in the audit log.")
@connection_options
def veto(name: str, version: str, reason: str, **connection: Any) -> None:
    """End the trial of a version of NAME, if one is on, and have the server never try it by itself."""
    trial = _ask(Connection(**connection), lambda client: client.veto_version(name, version, reason))
    if trial is not None:
        _print(trial)
    else:
        click.echo(f"{name}/{version}  VETOED  it was not on trial, and is not tried by itself")


@click.command()
@click.argument("name", default="")
@connection_options
def learning(name: str, **connection: Any) -> None:
    """Print how NAME, or each model that does, learns from labelled frames: what drifts, and what came of new versions.

    They are learnt under `duly serve --learn DIR`.
    """

    async def call(client: "Client") -> "list[model_pb2.Learning]":
        return await client.learning(name)

    found = _ask(Connection(**connection), call)
    for learned in found:
        _print_learning(learned)
    if not found:
        click.echo(f"{name or 'no model'} {'does not learn' if name else 'learns'}")


def _print_learning(learned: "model_pb2.Learning") -> None:
    click.echo(f"{learned.name}/{learned.version}  {learned.phase or 'not looked at yet'}")
    unusable = f", {learned.labels_unusable} name no class" if learned.labels_unusable else ""
    click.echo(
        f"  seen: {learned.frames} frames, {learned.labels} labels ({learned.labels_of_regime} since errors changed"
        f"{unusable})"
    )
    if learned.drifts:
        click.echo(f"  drift: {', '.join(f'{each.name} {each.count}x' for each in learned.drifts)}")
    for drift in learned.last_drifts:
        seen = datetime.fromtimestamp(drift.seen_unix_nano / 1e9, UTC).isoformat(" ", "seconds")
        click.echo(f"    {seen}  {drift.signal}, stream {drift.stream}: {drift.text}")
    if learned.attempts:
        click.echo(f"  attempts: {', '.join(f'{each.count} {each.name}' for each in learned.attempts)}")
        click.echo(f"  the last one: {learned.attempt}, {learned.attempt_text}")
    if learned.problem:
        click.echo(f"  problem: {learned.problem}")


def _print(trial: "model_pb2.Trial") -> None:
    from duly.v1 import model_pb2

    stage = model_pb2.TrialStage.Name(trial.stage).removeprefix("TRIAL_STAGE_")
    click.echo(f"{trial.name}/{trial.version}  {stage}  {trial.reason}")
    if trial.frames_compared or trial.frames_not_run or trial.frames_not_drawn:
        within = f"{trial.agreement_low:.4f} to {trial.agreement_high:.4f}"
        passed_over = f"{trial.frames_not_run} without spare time, {trial.frames_not_drawn} too many"
        click.echo(
            f"  shadow: {trial.frames_compared} frames compared with {trial.name}/{trial.against_version}, agreement "
            f"{trial.agreement:.4f} ({within}); {passed_over}"
        )
    if trial.canary_frames or trial.stage == model_pb2.TRIAL_STAGE_CANARY:
        click.echo(
            f"  canary: {trial.canary_on_time} of {trial.canary_frames} frames on time with it, without "
            f"{trial.rest_on_time} of {trial.rest_frames}, {trial.canary_pairs} pairs"
        )
    if trial.labels or trial.rest_labels:
        click.echo(
            f"  labels: {trial.accuracy:.1%} of {trial.labels} right with it, without {trial.rest_accuracy:.1%} of "
            f"{trial.rest_labels}"
        )
    if trial.errors:
        click.echo(f"  errors: {trial.errors}")


COMMANDS = (load, unload, activate, rollback, trials, try_version, veto, learning)
