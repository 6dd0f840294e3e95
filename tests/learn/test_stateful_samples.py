"""A model that keeps state, from a server that samples its streams to a version that was judged by those samples."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from duly.sampling.store import read
from duly_client import Client
from duly_learn.frames.runs import judging, split_runs
from duly_learn.frames.samples import Which, samples_in
from duly_learn.optimize.run import Asked, optimize
from duly_learn.optimize.step import Candidate, OptimizeSource
from duly_learn.running.model import running
from tests import graphs
from tests.e2e.serving import serving
from tests.worker.client import version_of

WIDTH, STREAMS, FRAMES, RUN = 256, 4, 200, 48
SETTINGS = '[[state]]\noutput = "kept_next"\ninput = "kept"\n[task]\nmeasure = "closeness"\n'


def fading(rounds: int, share: float = 0.5) -> onnx.ModelProto:
    """kept' = share * kept + x, and y = kept' turned by one place, in so many runs of work."""
    turn = np.roll(np.eye(WIDTH, dtype=np.float32), 1, axis=1)
    back = np.roll(np.eye(WIDTH, dtype=np.float32), -1, axis=1)
    nodes = [
        helper.make_node("Mul", ["kept", "share"], ["faded"]),
        helper.make_node("Add", ["faded", "x"], ["kept_next"]),
        helper.make_node("MatMul", ["kept_next", "turn"], ["y" if rounds == 1 else "t0"]),
    ]
    for nth in range(1, rounds):  # there and back again
        nodes.append(helper.make_node("MatMul", [f"t{nth - 1}", "back"], [f"b{nth}"]))
        nodes.append(helper.make_node("MatMul", [f"b{nth}", "turn"], ["y" if nth == rounds - 1 else f"t{nth}"]))
    inputs = [graphs.value(name, ["N", WIDTH]) for name in ("x", "kept")]
    outputs = [graphs.value(name, ["N", WIDTH]) for name in ("y", "kept_next")]
    return graphs.model(nodes, inputs, outputs, {"share": np.float32([share]), "turn": turn, "back": back})


@dataclass(frozen=True)
class Makes:
    """A step that makes this graph, whatever it is given."""

    name: str
    graph: onnx.ModelProto

    def make(self, source: OptimizeSource, folder: Path) -> Candidate:
        onnx.save(self.graph, str(folder / "model.onnx"))
        return Candidate("model.onnx", "another graph")


async def serve(models: Path, samples: Path) -> None:
    """Has streams sampled by a real server."""
    noise = np.random.default_rng(0)
    async with (
        serving(models, sample=samples, sample_frames=3 * RUN, sample_run_frames=RUN) as app,
        Client(app.address) as client,
    ):
        for _ in range(STREAMS):
            async with client.stream("m", budget_ms=60_000, backlog="ALL") as stream:
                for _ in range(FRAMES):
                    await stream.send(noise.normal(size=WIDTH).astype(np.float32))
                    assert (await anext(stream)).ok


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `models` and what a server has sampled of `m`."""
    root = tmp_path_factory.mktemp("sampled")
    graphs.save(root / "models", "m", fading(24), SETTINGS)
    (root / "samples").mkdir()
    asyncio.run(serve(root / "models", root / "samples"))
    return root


def test_runs_are_kept_whole_and_each_frame_knows_its_state(sampled: Path) -> None:
    ages = defaultdict(list)
    for sample in read(sampled / "samples"):
        assert sample.state is not None
        assert sample.state == (1, sample.frame_id - 1), "nothing was reset, and all frames ran"
        ages[sample.stream].append(sample.state.age)
    assert len(ages) == STREAMS
    for kept in ages.values():
        assert len(kept) <= 3 * RUN
        begins = [age for age in kept if age % RUN == 0]
        assert len(begins) == 3
        whole = [age for first in begins for age in range(first, min(first + RUN, FRAMES))]
        assert set(whole) <= set(kept), "what else there is was left of a run that has given way"


def test_run_again_they_are_answered_as_the_server_has_answered(sampled: Path) -> None:
    version = version_of(sampled / "models", "m")
    recorded = {each.captured_unix_ns or each.received_unix_ns: each.outputs["y"] for each in read(sampled / "samples")}
    judged, off_at_first = 0, 0
    with running(version) as model:
        found = list(samples_in(sampled / "samples", model.signature.inputs, Which("m", in_a_row=True)))
        frames = [frame for frame in found if not isinstance(frame, str)]
        for side in split_runs(frames, 0.5, 0):
            for frame, answer in zip(side, model.answers(side), strict=True):
                off = np.abs(answer["y"] - recorded[frame.when_ns]).max()
                assert frame.warms_up or off < 1e-4
                off_at_first += off > 0.1
            judged += judging(side)
    assert judged > 2 * RUN
    assert off_at_first, "a run that does not begin with its state begins with one that never was"


def test_what_forgets_sooner_is_refused_and_what_does_the_same_is_kept(sampled: Path) -> None:
    version = version_of(sampled / "models", "m")
    told: list[str] = []
    steps = [Makes("same", fading(1)), Makes("forgets", fading(1, 0.3))]
    found = optimize(Asked(version, [sampled / "samples"], steps, 0.01), told.append)
    same, forgets = found.candidates
    assert same.kept, same.refusals
    assert any("agreement" in reason for reason in forgets.refusals)
    assert [variant.name for variant in found.variants] == ["same"]
    assert found.held_out[0].stream
    assert judging(found.held_out) == same.agreement.count  # type: ignore[union-attr]
    if judging(found.held_out) < len(found.held_out):
        assert any("run and not judged" in line for line in told)
