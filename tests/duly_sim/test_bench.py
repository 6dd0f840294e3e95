"""The benchmark's own arithmetic, and that a server which fails to start is explained and gone."""

import sys
import tomllib
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from duly.models.spec import ModelConfig
from duly_load.targets.duly_and_floor import running
from duly_load.targets.peer import PeerError
from duly_sim.research.bench import command, servers
from duly_sim.research.bench.bare_run import open_session, run_times_ns
from duly_sim.research.bench.parts import Part
from duly_sim.research.bench.servers import LARGE_INPUT, MODELS, write_repository


def test_a_table_shows_the_spread_of_the_rounds() -> None:
    part = Part("latency", "title")
    for value in (3.0, 1.0, 2.5):
        part.add("latency", "ms", value)
    part.add("rate", "frames/s", 12_345.6)
    columns = [list(column.cells) for column in command.table(part).columns]
    assert columns == [
        ["latency", "rate"],
        ["1.000", "12,346"],
        ["2.500", "12,346"],
        ["3.000", "12,346"],
        ["ms", "frames/s"],
    ]


def test_unknown_parts_are_refused_with_those_that_exist() -> None:
    result = CliRunner().invoke(command.bench, ["--only", "latency,x"])
    assert result.exit_code == 2
    assert "x: should be among latency, throughput, messages, client, overload, idle, alternation" in result.output


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


def test_the_models_are_written_with_their_batch_sizes(tmp_path: Path) -> None:
    write_repository(tmp_path)
    for model in MODELS:
        written = tomllib.loads((tmp_path / model.name / "model.toml").read_text())
        config = ModelConfig.model_validate(written)
        assert config.batch_sizes == model.batch_sizes
        assert config.threads == 1


def test_frames_are_of_the_sizes_that_the_figures_name() -> None:
    assert [model.frame_bytes for model in MODELS] == [1_024, 150_000, 602_112]


def test_bare_run_times_at_least_one_run(tmp_path: Path) -> None:
    write_repository(tmp_path)
    times_ns = run_times_ns(open_session(LARGE_INPUT.file(tmp_path), threads=1), seconds=0.0)
    assert times_ns.shape == (1,)
    assert times_ns[0] > 0
