"""`duly doctor`: tells what of this machine and of the settings would trouble a server."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from duly.cli_settings import CONFIG_OPTION, setting_option
from duly.config import ServerConfig
from duly.doctor import Level, examine, worst

_EXIT = {Level.OK: 0, Level.WARNING: 0, Level.PROBLEM: 1}


def _doctor(config: Path | None, as_json: bool, strict: bool, **settings: Any) -> None:
    given = {name: value for name, value in settings.items() if value is not None}
    findings = examine(given, config, os.environ)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            mark = "" if finding.level is Level.OK else f"{finding.level.upper()}: "
            click.echo(f"{finding.subject:{width}}  {mark}{finding.found}")
            if finding.advice:
                click.echo(f"{'':{width}}  -> {finding.advice}")
    level = worst(findings)
    sys.exit(1 if strict and level is not Level.OK else _EXIT[level])


doctor = click.Command(
    "doctor",
    callback=_doctor,
    help="""Tell what of this machine and of the settings matters: what is installed, how workers can be confined,
    limits, clocks and accelerators, each with what to do about it.

    Give what `duly serve` gets. Nothing is changed, no model is loaded, and no port is opened. The exit status is 1
    where a server could not do its work; with --strict also where there is a warning.""",
    params=[
        CONFIG_OPTION,
        click.Option(["--json", "as_json"], is_flag=True, help="Print the findings as JSON."),
        click.Option(["--strict"], is_flag=True, help="A warning is a failure, too."),
        *map(setting_option, ServerConfig.model_fields),
    ],
)
