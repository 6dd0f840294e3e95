"""`duly doctor`: tells what of this machine and of the settings would trouble a server."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from duly.cli_settings import CONFIG_OPTION, setting_option
from duly.config import ServerConfig
from duly.doctor import examine, worst
from duly.finding import Finding, Level, ProviderFinding

_EXIT = {Level.OK: 0, Level.WARNING: 0, Level.PROBLEM: 1}
_DEVICES_CHARS_MAX = 44


def _doctor(config: Path | None, as_json: bool, strict: bool, **settings: Any) -> None:
    given = {name: value for name, value in settings.items() if value is not None}
    findings = examine(given, config, os.environ)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        for line in _lines(findings):
            click.echo(line)
    level = worst(findings)
    sys.exit(1 if strict and level is not Level.OK else _EXIT[level])


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    width = max(len(finding.subject) for finding in findings)
    providers = [finding for finding in findings if isinstance(finding, ProviderFinding)]
    for finding in findings:
        if finding in providers[:1]:
            yield from _table(providers, width)
        if not isinstance(finding, ProviderFinding):
            yield from _words(finding, f"{finding.subject:{width}}")


def _words(finding: Finding, subject: str) -> Iterator[str]:
    mark = "" if finding.level is Level.OK else f"{finding.level.upper()}: "
    yield f"{subject}  {mark}{finding.found}"
    if finding.advice:
        yield f"{'':{len(subject)}}  -> {finding.advice}"


def _table(providers: Sequence[ProviderFinding], width: int) -> Iterator[str]:
    """Gives a row for each provider, and after them what to do about those that do not run."""
    rows = [("provider", "installed", "devices", "lane", "runs")]
    for each in providers:
        name = each.provider.removesuffix("ExecutionProvider")
        rows.append((name, each.installed or "-", _short(each.devices) or "none", each.lane, _runs(each)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for nth, row in enumerate(rows):
        cells = "  ".join(f"{cell:{wide}}" for cell, wide in zip(row, widths, strict=True))
        yield f"{'providers' if nth == 0 else '':{width}}  {cells}".rstrip()
    for each in providers:
        if not each.runs:
            yield from _words(each, " " * width)


def _runs(row: ProviderFinding) -> str:
    return "yes" if row.runs else "no" if row.installed else "-"


def _short(devices: str) -> str:
    return devices if len(devices) <= _DEVICES_CHARS_MAX else f"{devices[: _DEVICES_CHARS_MAX - 1]}…"


doctor = click.Command(
    "doctor",
    callback=_doctor,
    help="""Tell what of this machine and of the settings matters: what is installed, which execution providers truly
    run on which devices, how workers can be confined, limits, clocks and GPUs, each with what to do about it.

    Give what `duly serve` gets. Nothing is changed, no model of yours is loaded, and no port is opened; a worker runs a
    graph of one node on each provider that is installed, and on each lane. The exit status is 1 where a server could
    not do its work; with --strict also where there is a warning.""",
    params=[
        CONFIG_OPTION,
        click.Option(["--json", "as_json"], is_flag=True, help="Print the findings as JSON."),
        click.Option(["--strict"], is_flag=True, help="A warning is a failure, too."),
        *map(setting_option, ServerConfig.model_fields),
    ],
)
