"""`duly-sim sim-vs-live`: a live server whose lanes sleep, the simulator, and what can't be compared."""

import contextlib
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from duly.v1 import inference_pb2, inference_pb2_grpc
from duly_load.generator.stalls import Stalls
from duly_load.results.record import Record
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.scenario import Scenario, load_scenario, parse_scenario
from duly_sim.cli.main import cli
from duly_sim.research.sim_vs_live import batch_times, both_worlds, command, servers
from duly_sim.simulator.world import World, build

SCENARIOS = Path(__file__).parents[2] / "load_tests" / "scenarios" / "sim_vs_live"

CALM = """
name = "calm"
duration_s = 1.5

[simulate]
noise = { cv = 0.02 }

[[simulate.lane]]
name = "cpu:0"

[[simulate.model]]
name = "m"
batch_max = 4
variants = [{ linear = { first_ms = 5, next_ms = 1 } }]

[[stream]]
name = "camera"
count = 3
model = "m"
budget_ms = 20000
backlog = "ALL"
arrivals = { kind = "periodic", rate_hz = 8 }
"""


@pytest.fixture
def calm(tmp_path: Path) -> Path:
    file = tmp_path / "calm.toml"
    file.write_text(CALM, encoding="utf-8")
    return file


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["sim-vs-live", *map(str, args)])


# ---- live ----


def test_frames_that_have_time_are_on_time_in_both_worlds(calm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty seconds for five milliseconds of work, at a tenth of what the lane can do: no machine is that slow."""
    monkeypatch.setattr(command, "STALLED_MAX", 1.0)
    result = run(calm, "--seconds", "1")
    assert result.exit_code == 0, result.output
    assert "calm, seed 0, sleeping lanes" in result.stdout
    lines = [line.split("│") for line in result.stdout.splitlines() if line.startswith("│")]
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in lines}
    assert rows["frames"] == rows["ON_TIME"] == ["24", "24", "+0", "24", "+0"]
    assert {"LATE", "EXPIRED", "FAILED"}.isdisjoint(rows), "every frame was answered once, on time"
    assert float(rows["latency p50 ms"][0]) > 5, "a batch takes as long as the scenario says"
    assert "the generator sent late by" in result.stdout
    assert "+0.00 points, within 2" in result.stdout


def test_a_run_on_a_machine_that_stands_still_is_invalid(calm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "STALLED_MAX", -1.0)
    result = run(calm, "--seconds", "0.5")
    assert result.exit_code == 1
    assert "Error: the run is invalid: a machine that stands still" in result.stderr
    assert "points, within" not in result.stdout


def test_a_server_that_is_not_there_is_told(calm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.asynccontextmanager
    async def nobody(world: World, folder: Path) -> AsyncIterator[str]:
        yield f"unix:{folder}/nobody.sock"

    monkeypatch.setattr(servers, "sleeping", nobody)
    result = run(calm)
    assert result.exit_code == 1
    assert "no answer from unix:" in result.stderr


class Rude(inference_pb2_grpc.InferenceServiceServicer):
    """Opens streams and answers nothing else."""

    async def Stream(self, request_iterator: Any, context: Any) -> None:
        await context.read()
        await context.write(inference_pb2.StreamResponse(opened=inference_pb2.StreamOpened(version="1")))
        await context.read()
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "opening is all that I do")


def test_a_server_that_breaks_streams_off_is_told(calm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.asynccontextmanager
    async def rude(world: World, folder: Path) -> AsyncIterator[str]:
        server = grpc.aio.server()
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(Rude(), server)
        server.add_insecure_port(f"unix:{folder}/rude.sock")
        await server.start()
        try:
            yield f"unix:{folder}/rude.sock"
        finally:
            await server.stop(None)

    monkeypatch.setattr(servers, "sleeping", rude)
    result = run(calm)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: "), result.stderr
    assert "opening is all that I do" in result.stderr


def test_a_model_that_the_server_does_not_take_is_told(calm: Path) -> None:
    calm.write_text(CALM.replace("batch_max = 4", "batch_max = 1000"), encoding="utf-8")
    result = run(calm)
    assert result.exit_code == 1
    assert "batch_sizes" in result.stderr


# ---- scenarios that can't be compared ----


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"cpu:0"', '"gpu"', "lane: should be named cpu:0 as the server names them, are gpu"),
        ('name = "m"', 'name = "../m"', "model[0].name: should be letters, digits, _ and - in a live run"),
        (
            "cv = 0.02 }",
            "cv = 0.02 }\nfault = [{lane='cpu:0',kind='die',at_s=0.5,back_s=1}]",
            "fault: should",
        ),
        ("cv = 0.02", "step_factor = 2", "noise.step_factor: should be 1 in a live run, got 2"),
        ("[{ linear", "[{ name = 'a', table = 't4_resnet50' }, { linear", "model[0].variants: should be one"),
        ("batch_max", "any_size = false\nbatch_max", "model[0].any_size: should be true"),
        ("batch_max", "lanes = ['cpu:0']\nbatch_max", "model[0].lanes: should not be there"),
        ('backlog = "ALL"', "from_s = 1", "stream[0]: should not have churn, from_s or to_s"),
        ('backlog = "ALL"', "network = { delay_ms = 1 }", "stream[0].network: should not be there"),
    ],
)
def test_what_both_worlds_can_not_do_alike_is_refused(calm: Path, old: str, new: str, told: str) -> None:
    text = CALM.replace(old, new)
    if old == 'name = "m"':
        text = text.replace('model = "m"', 'model = "../m"')
    calm.write_text(text, encoding="utf-8")
    result = run(calm)
    assert result.exit_code == 2, result.output
    assert told in result.stderr


def test_streams_of_several_principals_or_credits_are_refused() -> None:
    stream = '[[stream]]\nname = "b"\nmodel = "m"\nbudget_ms = 9\narrivals = { kind = "poisson", rate_hz = 1 }\n'
    scenario = parsed(CALM + stream + 'principal = "them"\ncredit = 3\n')
    with pytest.raises(ScenarioError, match=r"stream\.principal: (.*\n)stream\.credit: "):
        both_worlds.check(scenario, real=False)


def test_models_that_truly_run_have_one_lane() -> None:
    scenario = parsed(CALM.replace('"cpu:0"', '"cpu"\ncount = 2'))
    both_worlds.check(scenario, real=False)
    with pytest.raises(ScenarioError, match="should be one where models truly run"):
        both_worlds.check(scenario, real=True)


@pytest.mark.parametrize(("seconds", "told"), [("0.5", "more than warm_s, which is 1"), ("9", "at most duration_s")])
def test_seconds_that_the_scenario_does_not_have(calm: Path, seconds: str, told: str) -> None:
    calm.write_text(CALM.replace("duration_s = 1.5", "duration_s = 1.5\nwarm_s = 1"), encoding="utf-8")
    result = run(calm, "--seconds", seconds)
    assert result.exit_code == 2
    assert told in result.stderr


def test_a_wrong_scenario_is_told(tmp_path: Path) -> None:
    result = run(tmp_path / "nothing.toml")
    assert result.exit_code == 2
    assert "can't be read" in result.stderr


@pytest.mark.parametrize("name", ["below", "at", "above"])
def test_the_scenarios_can_be_compared(name: str) -> None:
    both_worlds.check(load_scenario(SCENARIOS / f"{name}.toml"), real=True)


# ---- what is measured and told to the simulator ----


def test_lanes_are_told_what_batches_took() -> None:
    """Fifty batches of two took 8 ms, one of four 12 ms: twice and thrice what was planned."""
    world = build(parsed(CALM.replace("rate_hz = 8", "rate_hz = 40")), 0)
    count = len(world.frames)
    sizes = np.where(np.arange(count) < 100, 2, 0)
    sizes[100:104] = 4
    occupied_ns = np.where(sizes == 2, 8_000_000, 12_000_000)
    live = seen(count, sizes, occupied_ns)
    planned = {"m": {1: 2_000_000, 2: 4_000_000, 3: 4_000_000, 4: 4_000_000}}
    told = batch_times.batch_times(world, live, planned)
    assert told.scenario.to_simulate().model[0].variants[0].times_ms == pytest.approx({1: 4.0, 2: 8.0, 3: 8.0, 4: 8.0})
    assert told.scenario.to_simulate().noise.cv > 0
    # At 20 ms a batch of two ran, as long as usual; at 510 ms that of four, half longer than was to be expected.
    assert told.service.duration_ns(20_000_000, "cpu:0", "m", "default", 1) == 4_000_000
    assert told.service.duration_ns(510_000_000, "cpu:0", "m", "default", 2) == 12_000_000


def test_a_batch_is_over_when_the_next_one_begins() -> None:
    """The server tells when it sent the answers, which is later."""
    world = build(parsed(CALM), 0)
    count = len(world.frames)
    occupied_ns = np.full(count, 11_000_000)  # they begin every 10 ms
    told = batch_times.batch_times(
        world, seen(count, np.ones(count, np.int32), occupied_ns), {"m": dict.fromkeys(range(1, 5), 1)}
    )
    assert told.service.duration_ns(0, "cpu:0", "m", "default", 1) == 10_000_000


def test_a_model_that_never_ran_is_told() -> None:
    world = build(parsed(CALM), 0)
    nothing = np.zeros(len(world.frames), np.int32)
    with pytest.raises(batch_times.NothingRanError, match="model m: no frame of it ran"):
        batch_times.batch_times(world, seen(len(nothing), nothing, nothing), {"m": dict.fromkeys(range(1, 5), 1)})


def test_no_frame_arrives_within_stalls() -> None:
    stalls = Stalls(np.array([100, 300]), np.array([200, 350]))
    times_ns = np.array([0, 99, 100, 199, 200, 299, 320, 350, 900])
    assert both_worlds.after_stalls(times_ns, stalls).tolist() == [0, 99, 200, 200, 200, 299, 350, 350, 900]
    assert stalls.share(0, 200) == 0.5
    assert both_worlds.after_stalls(times_ns, both_worlds.NO_STALLS).tolist() == times_ns.tolist()


def parsed(text: str) -> Scenario:
    return parse_scenario(tomllib.loads(text), "test", Path())


def seen(count: int, sizes: NDArray[Any], occupied_ns: NDArray[Any]) -> Record:
    """Frames of a batch one after the other, and a batch every 10 ms."""
    before = np.cumsum(1 / np.maximum(sizes, 1)) - 1 / np.maximum(sizes, 1)
    dispatched_ns = np.floor(before + 1e-6).astype(np.int64) * 10_000_000
    record = Record.empty(count)
    record.batch_size[:], record.dispatched_ns[:], record.occupied_ns[:] = sizes, dispatched_ns, occupied_ns
    return record
