"""`duly-sim replay`: does the scheduler still do what a server recorded with `duly serve --record`?"""

import json
import sys
from pathlib import Path

import click

from duly.runtime.recording import RecordingError
from duly_sim.simulator.replay import Difference
from duly_sim.simulator.replay import replay as replay_recording


@click.command()
@click.argument("log", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def replay(log: Path) -> None:
    """Run the recording LOG again on a fresh scheduler and compare its actions.

    Exit status 0: all are the same. 1: they differ; the first difference is printed. 2: LOG can't be read.
    """
    try:
        replayed = replay_recording(log)
    except (RecordingError, OSError) as error:
        click.echo(f"duly-sim: {error}", err=True)
        sys.exit(2)
    summary = (
        f"{replayed.events} events over {replayed.span_ns / 1e9:.3f} s, {replayed.frames} frames answered, "
        f"{replayed.actions} actions"
    )
    if replayed.skipped:
        summary += f", {replayed.skipped} events passed over, whose scheduler's state was not written down"
    if replayed.difference is None:
        click.echo(f"{summary}: the same as recorded")
        return
    click.echo(f"{summary}, then a difference")
    click.echo(_told(log, replayed.difference))
    sys.exit(1)


def _told(log: Path, difference: Difference) -> str:
    recorded = "nothing more" if difference.recorded is None else json.dumps(difference.recorded)
    replayed = "nothing more" if difference.replayed is None else json.dumps(difference.replayed)
    return (
        f"{log}:{difference.line}: {difference.event} at {difference.now_ns} ns\n"
        f"  recorded  {recorded}\n  replayed  {replayed}"
    )
