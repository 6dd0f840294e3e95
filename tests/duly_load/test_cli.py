"""What `duly-load`'s commands say of mistakes, their own failures and what they were asked for."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from duly_load.cli import capacity, run, soak
from duly_load.cli.main import cli
from duly_load.compare.run import Targets
from duly_load.scenario.scenario import Scenario
from duly_load.targets.all_peers import PEERS
from duly_load.targets.peer import PeerError, Server

SMALL = """
name = "small"
duration_s = 1.1
warm_s = 0.1

[[stream]]
name = "sensor"
model = "m"
budget_ms = 200
payloads = { shape = [4] }
arrivals = { kind = "periodic", rate_hz = 40 }

[[serve.model]]
name = "m"
dense = { width = 4 }
"""
FAULT = '\n[[serve.fault]]\nlane = "cpu:0"\nkind = "die"\nat_s = 0.2\n'
NULL, FLOOR = ["--target", "null:"], ["--target", "floor"]
COMMANDS = {"run": NULL, "compare": [*FLOOR, *NULL], "capacity": NULL, "soak": [*NULL, "--minutes", "0.001"]}


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        pytest.fail("a target was opened")

    monkeypatch.setattr(Targets, "__enter__", fail)
    for command in (capacity, run, soak):
        monkeypatch.setattr(command, "opened", fail)


def call(command: str, *args: str | Path) -> Result:
    return CliRunner().invoke(cli, [command, *map(str, args)])


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("command", "args", "said"),
    [
        *((command, [*args, "--out", "/proc/x"], "--out: /proc/x can't be wr") for command, args in COMMANDS.items()),
        *((command, [*args, "--lag-share", "2"], "--lag-share") for command, args in COMMANDS.items()),
        *(
            (command, [*FLOOR, "--target", "nginx"], "'nginx': should be duly, duly-kserve, floor")
            for command in COMMANDS
        ),
        *((command, [*FLOOR, "--target", "duly://here"], "'duly://here': should be HOST:PORT") for command in COMMANDS),
        *((command, [], "--target") for command in COMMANDS),
        ("compare", FLOOR, "--target: should be there 2 to 16 times, is there 1 times"),
        ("compare", [*FLOOR, *FLOOR], "should name each once, 'floor' is there more than once"),
        ("compare", [*FLOOR, "--target", "triton?retry=3"], "retry=3"),
        ("compare", [*FLOOR, *NULL, "--load", "0"], "--load"),
        ("compare", [*FLOOR, *NULL, "--capacity", "nan"], "--capacity"),
        ("compare", [*FLOOR, *NULL, "--capacity", "1e9"], "at 2.5e+07 times its load"),
        ("compare", [*FLOOR, *NULL, "--seconds", "0.05"], "--seconds: should be more than warm_s"),
        ("run", [*NULL, "--seconds", "0.05"], "--seconds: should be more than warm_s"),
        ("capacity", [*NULL, "--terms", "streams,offline"], "'offline' is none"),
        ("capacity", [*NULL, "--ratio", "1"], "0.999"),
        ("soak", [*NULL, "--hours", "1", "--minutes", "1"], "give one of the two"),
        ("soak", [*NULL, "--hours", "nan"], "nan"),
        ("soak", [*NULL, "--metrics", "nowhere"], "HOST:PORT"),
    ],
)
def test_what_was_typed_wrong(small: Path, command: str, args: list[str], said: str) -> None:
    result = call(command, small, *args)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


@pytest.mark.parametrize(
    ("args", "said"), [(["--slow-readers", "1"], "speak duly's"), (["--vanish-per-minute", "1"], "nothing to vanish")]
)
def test_who_can_not_misbehave_against_a_target(small: Path, args: list[str], said: str) -> None:
    result = call("soak", small, *NULL, *args)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("command", "text", "said"),
    [
        *((command, SMALL.replace("budget_ms", "budget_s"), "stream[0].budget_s: unknown key") for command in COMMANDS),
        *((command, "", "name") for command in COMMANDS),
        ("compare", SMALL + FAULT, "fault: should not be there"),
        ("capacity", SMALL + "\n[[load_step]]\nat_s = 0.3\nfactor = 2\n", "steady"),
    ],
)
def test_what_was_written_wrong(small: Path, command: str, text: str, said: str) -> None:
    small.write_text(text, encoding="utf-8")
    result = call(command, small, *COMMANDS[command])
    assert result.exit_code == 2, result.output
    assert said in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_payloads_that_are_not_what_a_target_takes(small: Path, command: str) -> None:
    small.write_text(SMALL.replace("shape = [4]", "shape = [5]"), encoding="utf-8")
    args = [*FLOOR, *NULL] if command == "compare" else FLOOR
    result = call(command, small, *args)
    assert result.exit_code == 2, result.output
    assert "payloads.shape is [5], while the model takes x FP32[4]" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_target_that_is_down(small: Path, tmp_path: Path, command: str) -> None:
    nobody = ["--target", f"unix:{tmp_path}/nobody.sock"]
    result = call(command, small, *(nobody if command != "compare" else [*nobody, *NULL]))
    assert result.exit_code == 1, result.output
    assert "nobody.sock" in result.output
    assert "Traceback" not in result.output


FULL = OSError(28, "No space left on device", "report.html")
PLOTLESS = ModuleNotFoundError("it needs plotly")


@pytest.mark.parametrize(
    ("command", "place", "files", "error", "said"),
    [
        ("run", "cli.run.write_runs", "results.json streams.csv", FULL, "report.html can't be written: No space left"),
        (
            "compare",
            "cli.compare.write_comparison",
            "results.json comparison.csv",
            PLOTLESS,
            "a page can't be drawn: it",
        ),
        ("capacity", "capacity.page.page", "capacity.json capacity.csv", FULL, "report.html can't be written: No"),
        ("soak", "soak.page.write", "soak.jsonl soak.csv", PLOTLESS, "a page can't be drawn: it needs plotly"),
    ],
)
def test_a_page_that_can_not_be_drawn_loses_no_figures(
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    place: str,
    files: str,
    error: Exception,
    said: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(f"duly_load.{place}", fail)
    monkeypatch.setattr("duly_load.capacity.terms.FACTORS", (1.0, 1.0, 1.0))
    short = {"compare": ["--rounds", "1", "--repeats", "0"], "capacity": ["--seconds", "1"]}.get(command, [])
    result = call(command, small, *COMMANDS[command], *short, "--out", tmp_path)
    assert result.exit_code == 1, result.output
    assert f"Error: --out: {said}" in result.stderr
    assert all((tmp_path / file).stat().st_size for file in files.split())


def test_a_run_writes_what_it_says(small: Path, tmp_path: Path) -> None:
    result = call("run", small, *NULL, "--out", tmp_path)
    told = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert result.exit_code == int(not told["valid"]), result.output
    assert result.stdout.splitlines()[-1] == "written: " + ", ".join(str(tmp_path / file) for file in run.FILES)
    assert all((tmp_path / file).stat().st_size for file in run.FILES)


@pytest.mark.usefixtures("nothing_starts")
def test_a_peer_that_is_not_installed_is_named_with_what_installs_it(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DULY_CACHE_DIR", str(tmp_path / "cache"))
    result = call("compare", small, "--target", "floor", "--target", "triton-timeouts", "--target", "mlserver")
    assert result.exit_code == 2
    assert "duly-load peers install triton" in result.stderr
    assert "duly-load peers install mlserver" in result.stderr


class Toy:
    """A peer that can be installed and does not start."""

    name = "toy"
    about = ""
    here = False

    def missing(self) -> str:
        return "" if self.here else "toy is not installed: duly-load peers install toy"

    def install(self, say: Callable[[str], None]) -> None:
        say("toy: installed")
        self.here = True

    def start(self, scenario: Scenario, folder: Path) -> AbstractContextManager[Server]:
        raise PeerError("toy does not start")


def test_a_peer_is_installed_first_where_that_is_wanted(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy()
    monkeypatch.setitem(PEERS, "toy", toy)
    result = call("compare", small, "--target", "floor", "--target", "toy", "--target", "nginx", "--install")
    assert (result.exit_code, toy.here) == (2, False)
    result = call("compare", small, "--target", "floor", "--target", "toy", "--install")
    assert (result.exit_code, toy.here) == (1, True)
    assert result.stderr.startswith("toy: installed\n")
    assert "Error: toy does not start" in result.stderr


def test_files_in_the_working_folder_are_not_run(small: Path, tmp_path: Path) -> None:
    """Senders are started by multiprocessing, whose `python -c` would look there first; the floor by its module."""
    work = tmp_path / "work"
    work.mkdir()
    for name in ("signal", "selectors", "numpy", "duly", "duly_load"):
        (work / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the user was run')")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "duly_load.cli.main", "run", str(small), *FLOOR, "--out", str(tmp_path / "out")],
        cwd=work,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert "of the user was run" not in done.stdout + done.stderr
    assert (tmp_path / "out" / "results.json").exists(), done.stderr
