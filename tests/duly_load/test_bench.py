"""The benchmark's own arithmetic, and that a server which fails to start is explained and gone."""

import sys
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from duly_load.bench import servers as bench_servers
from duly_load.bench.parts import QUICK, Part, offered
from duly_load.bench.servers import memory_of
from duly_load.cli import bench
from duly_load.targets.duly_and_floor import running
from duly_load.targets.peer import PeerError


def test_a_table_shows_the_spread_of_the_rounds() -> None:
    part = Part("a", "title")
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


@pytest.mark.parametrize("frames_per_s", [20.0, 44.9, 45.1, 110.0, 1234.5])
def test_overload_offers_exactly_the_rate_from_streams_near_30_hz(frames_per_s: float) -> None:
    load = offered(QUICK, frames_per_s)
    assert load.streams * load.rate_hz == pytest.approx(frames_per_s)
    assert 20.0 <= load.rate_hz <= 45.0


def test_unknown_parts_are_refused_with_those_that_exist() -> None:
    result = CliRunner().invoke(bench.bench, ["--only", "a,x"])
    assert result.exit_code == 2
    assert "x: should be among a, b, c, d" in result.output


def test_a_server_that_ends_early_is_reported_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no models here')"]
    with pytest.raises(PeerError, match=r"(?s)broken did not get ready: .*ended with status 1.*no models here"):
        running("broken", command, tmp_path).__enter__()


def test_a_server_and_its_memory_are_seen_while_it_runs_and_it_is_gone_afterwards(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    with bench_servers.null_echo(tmp_path) as server:
        memory = memory_of(server)
        (started,) = set(psutil.Process().children(recursive=True)) - before
        assert memory.rss_bytes > 0
        assert memory.pss_bytes is None or 0 < memory.pss_bytes <= memory.rss_bytes
    assert not started.is_running()
    assert not Path(server.address.endpoint.removeprefix("unix:")).exists()
