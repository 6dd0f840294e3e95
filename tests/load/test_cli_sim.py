"""`duly-load sim`: the table, the files, and what is said about mistakes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from duly_load.cli import cli

SMALL = """
name = "small"
duration_s = 2
warm_s = 0.5

[[lane]]
name = "gpu"

[[model]]
name = "m"
batch_max = 4
variants = [{ linear = { first_ms = 4, next_ms = 1 } }]

[[stream]]
name = "camera"
count = 3
model = "m"
budget_ms = 30
arrivals = { kind = "poisson", rate_hz = 40 }
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.toml"
    file.write_text(SMALL, encoding="utf-8")
    return file


def sim(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["sim", *map(str, args)])


def test_a_row_for_each_policy(small: Path) -> None:
    result = sim(small, "--policy", "fifo", "--policy", "edf", "--seed", "3")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "small, seed 3" in lines[0]
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in lines if line.startswith("│")}
    assert list(rows) == ["fifo", "edf"]
    assert 0 < float(rows["edf"][0]) <= 100
    assert rows["edf"][8].split()[0].startswith("camera-")


def test_duly_is_the_policy_unless_one_is_named(small: Path) -> None:
    result = sim(small)
    assert result.exit_code == 0, result.output
    assert "│ duly " in result.stdout


def test_files_of_equal_seeds_are_equal(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="the report draws with plotly")
    for folder in ("one", "two"):
        result = sim(small, "--policy", "fifo", "--out", tmp_path / folder)
        assert result.exit_code == 0, result.output
        assert str(tmp_path / folder / "report.html") in result.stdout.replace("\n", "")
    told = (tmp_path / "one" / "results.json").read_text(encoding="utf-8")
    assert told == (tmp_path / "two" / "results.json").read_text(encoding="utf-8")
    results = json.loads(told)
    assert (results["scenario"], results["seed"], list(results["policies"])) == ("small", 0, ["fifo"])
    fifo = results["policies"]["fifo"]
    assert sum(fifo["counts"].values()) == fifo["frames"] > 100
    assert list(fifo["by_stream"]) == ["camera-0", "camera-1", "camera-2"]
    assert "small, seed 0" in (tmp_path / "one" / "report.html").read_text(encoding="utf-8")


def test_a_scenario_that_is_wrong(small: Path) -> None:
    small.write_text(SMALL.replace("budget_ms = 30", "budget_ms = 0"), encoding="utf-8")
    result = sim(small)
    assert result.exit_code == 2
    assert result.stderr == f"Error: {small}: stream[0].budget_ms: should be greater than 0, got 0\n"


def test_a_scenario_that_is_not_there(tmp_path: Path) -> None:
    result = sim(tmp_path / "none.toml")
    assert result.exit_code == 2
    assert result.stderr == f"Error: {tmp_path / 'none.toml'}: can't be read: No such file or directory\n"


def test_a_policy_that_nobody_has(small: Path) -> None:
    result = sim(small, "--policy", "edff")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: --policy: no policy is named 'edff'; should be one of duly, ")


def test_a_folder_that_cannot_be_made(small: Path) -> None:
    result = sim(small, "--policy", "fifo", "--out", small / "report")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: --out: {small / 'report'} can't be written: Not a directory")


def test_commands_are_listed() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    assert "sim" in result.stdout
    assert CliRunner().invoke(cli, ["simulate"]).exit_code == 2
