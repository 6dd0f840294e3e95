"""The benchmark's own arithmetic, and that a server which fails to start is explained and gone."""

import sys
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from duly_load.bench import servers
from duly_load.bench.parts import Part
from duly_load.cli import bench
from duly_load.targets.duly_and_floor import running
from duly_load.targets.peer import PeerError


def test_a_table_shows_the_spread_of_the_rounds() -> None:
    part = Part("latency", "title")
    for value in (3.0, 1.0, 2.5):
        part.add("latency", "ms", value)
    part.add("rate", "frames/s", 12_345.6)
    columns = [list(column.cells) for column in bench.table(part).columns]
    assert columns == [
        ["latency", "rate"],
        ["1.000", "12,346"],
        ["2.500", "12,346"],
        ["3.000", "12,346"],
        ["ms", "frames/s"],
    ]


def test_unknown_parts_are_refused_with_those_that_exist() -> None:
    result = CliRunner().invoke(bench.bench, ["--only", "latency,x"])
    assert result.exit_code == 2
    assert "x: should be among latency, throughput, alternation" in result.output


def test_a_server_that_ends_early_is_reported_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no models here')"]
    with pytest.raises(PeerError, match=r"(?s)broken did not get ready: .*ended with status 1.*no models here"):
        running("broken", command, tmp_path).__enter__()


def test_a_server_runs_until_it_is_left(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    with servers.null_echo(tmp_path) as server:
        (started,) = set(psutil.Process().children(recursive=True)) - before
        assert started.is_running()
    assert not started.is_running()
    assert not Path(server.address.endpoint.removeprefix("unix:")).exists()
