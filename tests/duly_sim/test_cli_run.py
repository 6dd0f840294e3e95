"""`duly-sim run`: the table, the files, and what is said about mistakes."""

import json
import re
import sys
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from duly_sim.cli.main import cli

SMALL = """
name = "small"
duration_s = 2
warm_s = 0.5

[[simulate.lane]]
name = "gpu"

[[simulate.model]]
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


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def sim(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["run", *map(str, args)])


def rows(printed: str, policy: str) -> list[list[str]]:
    """What the tables say of one policy, a row from each."""
    return [line.split()[1:] for line in printed.splitlines() if line.split()[:1] == [policy]]


def test_rows_for_each_policy(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="the report draws with plotly")
    small.write_text(SMALL.replace("rate_hz = 40", "rate_hz = 90"), encoding="utf-8")  # more than fifo can serve
    result = sim(small, "--policy", "fifo", "--policy", "edf", "--seed", "3", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].strip() == "small, seed 3"
    policies = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["policies"]
    for policy in ("fifo", "edf"):
        told, (outcomes, service) = policies[policy], rows(result.stdout, policy)
        worst = told["by_stream"][told["worst_stream"]]
        assert outcomes[:2] == [f"{100 * of['on_time_ratio']:.2f}" for of in (told, worst)]
        assert outcomes[2:4] == [f"{told['goodput_per_s']:,.1f}", f"{told['counts']['LATE']:,}"]
        assert service[:2] == [f"{told['latency_ms'][of]:.2f}" for of in ("p50", "p99")]
        assert service[2] == f"{told['age_ms']['p99']:.2f}"
        assert service[-1] == told["worst_stream"]
    assert rows(result.stdout, "fifo")[0][3] != "0"


def test_duly_is_the_policy_unless_one_is_named(small: Path) -> None:
    result = sim(small)
    assert result.exit_code == 0, result.output
    assert len(rows(result.stdout, "duly")) == 2


def test_tables_fit_80_columns_and_cut_nothing(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    heavy = SMALL.replace("rate_hz = 40", "rate_hz = 2_000").replace('"camera"', '"camera-front"')
    small.write_text(heavy, encoding="utf-8")
    result = sim(small, "--policy", "fifo", "--policy", "edf_window")
    assert result.exit_code == 0, result.output
    assert max(len(line.rstrip()) for line in result.stdout.splitlines()) <= 80
    assert "…" not in result.stdout
    monkeypatch.setenv("COLUMNS", "40")
    assert [len(row) for row in rows(sim(small, "--policy", "fifo").stdout, "fifo")] == [8, 7]


def test_progress_is_for_terminals_alone(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert sim(small, "--policy", "fifo").stderr == ""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    cli.main(["run", str(small), "--policy", "fifo", "--policy", "edf"], standalone_mode=False)
    drawn = terminal.getvalue()
    assert "edf, policy 2 of 2" in drawn
    assert "100%" in drawn
    assert " of 2.0 s" in drawn


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


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["wrong.toml"], "wrong.toml: stream[0].budget_ms: should be greater than 0, got 0\n"),
        (["none.toml"], "none.toml: can't be read: No such file or directory; scenarios lie in "),
        (["on_camera"], "on_camera: can't be read: No such file or directory; did you mean "),
        (["small.toml", "--policy", "edff"], "--policy: no policy is named 'edff'; should be one of duly, "),
        (
            ["small.toml", "--policy", "edf", "--shadow", "1"],
            "--shadow: only duly knows spare time; leave --policy out\n",
        ),
        (["small.toml", "--out", "small.toml/x"], "--out: small.toml/x can't be written: Not a directory"),
    ],
)
def test_what_is_wrong_is_told(small: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], said: str) -> None:
    monkeypatch.chdir(small.parent)
    Path("wrong.toml").write_text(SMALL.replace("budget_ms = 30", "budget_ms = 0"), encoding="utf-8")
    result = sim(*args)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {said}")


def test_a_shadow_is_counted_and_changes_no_outcome(small: Path) -> None:
    without, beside = sim(small), sim(small, "--shadow", "1")
    assert (without.exit_code, beside.exit_code) == (0, 0)
    assert re.search(r"^shadow: \d[\d,]* copies ran in spare time, [\d,]+ found none$", beside.stdout, re.MULTILINE)
    rows = [next(line for line in each.stdout.splitlines() if " duly " in line) for each in (without, beside)]
    assert rows[0] == rows[1]


def test_commands_are_listed() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    assert all(name in result.stdout for name in ("run", "replay", "grid", "sim-vs-live"))
    assert CliRunner().invoke(cli, ["simulate"]).exit_code == 2
