"""How a worker is started: what it can import."""

import os
from pathlib import Path

import pytest

import duly
from duly.runtime.worker_command import worker_command, worker_environment

SOURCES = str(Path(duly.__path__[0]).parent)


@pytest.mark.parametrize(
    ("given", "entries"),
    [
        (None, []),
        ("", []),
        (":", []),
        (".", []),
        ("{here}:/opt/lib", ["/opt/lib"]),
        (":/opt/lib", ["/opt/lib"]),
        ("/opt/lib:", ["/opt/lib"]),
        ("{here}/.:./deps", ["{here}/./deps"]),
        ("deps:/opt/lib", ["{here}/deps", "/opt/lib"]),
    ],
)
def test_the_working_folder_is_not_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, entries: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"HOME": "/home/robot"} | ({} if given is None else {"PYTHONPATH": given.format(here=tmp_path)})
    made = worker_environment(environ)
    assert made.pop("PYTHONPATH").split(os.pathsep) == [entry.format(here=tmp_path) for entry in entries] + [SOURCES]
    assert made.items() >= {"HOME": "/home/robot", "OPENBLAS_NUM_THREADS": "1"}.items()
    assert "-P" in worker_command(3)


def test_dulys_own_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is the working folder, as in a checkout."""
    monkeypatch.chdir(SOURCES)
    assert worker_environment({"PYTHONPATH": "."})["PYTHONPATH"] == SOURCES
    assert worker_environment({"PYTHONPATH": f"{SOURCES}:/x"})["PYTHONPATH"].split(os.pathsep) == ["/x", SOURCES]


def test_an_installation_is_found_without_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duly, "__path__", ["/opt/venv/lib/python3.11/site-packages/duly"])
    assert worker_environment({})["PYTHONPATH"] == ""


def test_a_working_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert worker_environment({"PYTHONPATH": "deps:/opt/lib"})["PYTHONPATH"] == f"/opt/lib{os.pathsep}{SOURCES}"
