"""Streams of a fusion group: real clients over gRPC and the local transport, and a real model with two inputs."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import numpy as np
import pytest
import pytest_asyncio

from duly.access.tokens import new_token, policy_lines
from duly.app import App
from duly.v1 import inference_pb2 as pb
from duly.v1 import server_pb2, server_pb2_grpc
from duly_client import Client, FusedFrame, Fusion, InvalidRequest, Outcome, Status, Stream
from duly_sim.simulator.replay import replay
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import EXPIRED, INVALID, Wire, frame, reason, tensor

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG_MS = 20_000.0
MS = 1_000_000


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for a UNIX socket."""
    with TemporaryDirectory(prefix="duly-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def models(folder: Path) -> Path:
    root = folder / "models"
    all_kept = 'default_backlog = "ALL"\n'
    graphs.save(root, "stereo", graphs.stereo(), toml=all_kept)
    graphs.save(root, "large", graphs.stereo(width=20_000), toml=all_kept)
    graphs.save(root, "track", graphs.stereo_summing(), toml=all_kept + graphs.SUMMING)
    graphs.save(root, "double", graphs.scaling())
    return root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(models: Path, folder: Path) -> AsyncIterator[App]:
    async with serving(models, local=str(folder / "local.sock"), record=folder / "duly.log") as app:
        yield app


@pytest.fixture(params=["grpc", "local"])
def client(server: App, request: pytest.FixtureRequest) -> Client:
    """A client that is not entered yet."""
    return over_grpc(server) if request.param == "grpc" else Client(f"local:{server.local_path}")


def over_grpc(app: App, **more: str) -> Client:
    return Client(app.address, transport="grpc", **more)  # type: ignore[arg-type]


def fused(client: Client, input_: str, model: str = "stereo", **more: object) -> Stream:
    terms = {"group": "rig", "tolerance_ms": 0.0, "wait": "EXACT"} | more
    budget_ms = float(terms.pop("budget_ms", LONG_MS))  # type: ignore[arg-type]
    return client.stream(model, budget_ms=budget_ms, fusion=Fusion(input=input_, **terms))  # type: ignore[arg-type]


async def rest(stream: Stream) -> list[Outcome]:
    await stream.finish()
    return [outcome async for outcome in stream]


async def test_frames_of_two_streams_run_as_one_and_both_have_the_outcome(client: Client) -> None:
    async with client, fused(client, "left") as left, fused(client, "right") as right:
        assert left.opened.fusion_inputs_missing == ("right",)
        assert right.opened.fusion_inputs_missing == ()
        assert [spec.name for spec in right.opened.inputs] == ["right"]
        now_ns = time.time_ns()
        await right.send(np.float32([9] * 4), capture_time_ns=now_ns - MS)
        await left.send(np.float32([1, 2, 3, 4]), capture_time_ns=now_ns)
        unfit = await anext(right)
        await right.send(np.float32([5, 6, 7, 8]), capture_time_ns=now_ns)
        both, same = await anext(left), await anext(right)
    assert (both.status, both.outputs["y"].tolist()) == (Status.ON_TIME, [51.0, 62.0, 73.0, 84.0])
    assert both.fused == (FusedFrame("right", 2, 0),)
    assert (same.frame_id, same.status, same.outputs["y"].tolist()) == (2, Status.ON_TIME, [51.0, 62.0, 73.0, 84.0])
    assert same.fused == (FusedFrame("left", 1, 0),)
    assert (unfit.frame_id, unfit.status, unfit.fused) == (1, Status.EXPIRED, ())
    assert unfit.reason.startswith("no frame of input 'left' fits it: frame 1 was captured 1 ms after it")


async def test_a_frame_whose_partner_does_not_come_is_answered_at_its_latest_start(client: Client) -> None:
    async with (
        client,
        fused(client, "left", budget_ms=400.0) as left,
        fused(client, "right"),
    ):
        await left.send(np.float32([1] * 4))
        outcome = await anext(left)
    assert outcome.status is Status.EXPIRED
    assert "for a frame of input 'right'; less than the" in outcome.reason


async def test_a_group_that_is_not_whole_tells_each_frame_so(client: Client) -> None:
    async with client, fused(client, "left") as left:
        await left.send(np.float32([1] * 4))
        (outcome,) = await rest(left)
    assert (outcome.status, outcome.reason) == (
        Status.EXPIRED,
        "no stream gives input 'right' of fusion group 'rig'",
    )


async def test_the_others_are_answered_when_a_member_leaves_and_another_may_come(client: Client) -> None:
    async with client, fused(client, "left") as left:
        async with fused(client, "right") as right:
            captured_ns = time.time_ns()
            await left.send(np.float32([1] * 4), capture_time_ns=captured_ns)
            await right.send(np.float32([1] * 4), capture_time_ns=captured_ns)
            assert (await anext(left)).status is Status.ON_TIME
            await left.send(np.float32([1] * 4), capture_time_ns=captured_ns + 1)
            await asyncio.sleep(0)
        lost = await anext(left)
        assert lost.status is Status.EXPIRED
        assert "input 'right'" in lost.reason
        async with fused(client, "right") as right:
            captured_ns = time.time_ns()
            await left.send(np.float32([2] * 4), capture_time_ns=captured_ns)
            await right.send(np.float32([3] * 4), capture_time_ns=captured_ns)
            assert (await anext(left)).outputs["y"].tolist() == [32.0] * 4


async def test_state_is_kept_for_the_group(server: App) -> None:
    async with (
        over_grpc(server) as client,
        fused(client, "left", "track", tolerance_ms=2000.0, wait="WITHIN_DEADLINE") as left,
        fused(client, "right", "track", tolerance_ms=2000.0, wait="WITHIN_DEADLINE") as right,
    ):
        totals = []
        for n in (1, 2, 3):
            await left.send(np.float32([n, 0]))
            await right.send(np.float32([0, n]))
            totals.append((await anext(left)).outputs["y"].tolist())
            assert (await anext(right)).ok
    assert totals == [[1.0, 10.0], [3.0, 30.0], [6.0, 60.0]]


async def test_a_frame_that_does_not_fit_is_a_partner_for_none(server: App) -> None:
    captured_ns = time.time_ns()
    left = pb.Fusion(group="bad", input="left", wait=pb.FUSION_WAIT_EXACT)
    right = pb.Fusion(group="bad", input="right", wait=pb.FUSION_WAIT_EXACT)
    async with (
        grpc.aio.insecure_channel(server.address) as channel,
        Wire(channel, model="stereo", default_budget_nano=20 * 10**9, fusion=left) as one,
        Wire(channel, model="stereo", default_budget_nano=20 * 10**9, fusion=right) as two,
    ):
        at = {"capture_time_unix_nano": captured_ns}
        await one.send(frame(1, tensors=[tensor([1] * 4, "left")], **at))
        invalid = await two.ask(frame(1, tensors=[tensor([1] * 3, "right")], **at))
        assert (invalid.status, invalid.reason) == (INVALID, "input 'right': shape [3], the model takes [4]")
        lost = await one.outcome(1)
        assert lost.status == EXPIRED
        assert lost.reason.startswith("no frame of input 'right' fits it: one that was refused was captured 0 ms after")
        without = await one.ask(frame(2, tensors=[tensor([1] * 4, "left")]))
        assert without.status == INVALID
        assert without.reason == (
            "its capture time should be stated: the fusion group joins frames that have the same (EXACT)"
        )
        whole = [tensor([1] * 4, "left"), tensor([1] * 4, "right")]
        other = await one.ask(frame(3, tensors=whole, **at))
        assert (other.status, other.reason) == (INVALID, "there is no input 'right'; the model takes 'left'")


async def test_what_is_withdrawn_and_what_waits_for_it(client: Client) -> None:
    async with client, fused(client, "left") as left, fused(client, "right"):
        await left.send(np.float32([1] * 4))
        left.cancel([1])
        withdrawn = await anext(left)
    assert (withdrawn.status, withdrawn.reason) == (Status.CANCELLED, "withdrawn by the client")


async def test_every_frame_of_a_rig_has_one_outcome_while_members_come_and_go(client: Client) -> None:
    """Two streams at their own rates; the right one leaves and comes back."""
    answered: list[tuple[str, int, Status]] = []
    sent: list[tuple[str, int]] = []

    async def run(client: Client, name: str, frames: int, gap_s: float, times: int) -> None:
        for nth in range(times):
            async with fused(
                client, name, group="busy", tolerance_ms=8.0, wait="WITHIN_DEADLINE", budget_ms=200.0
            ) as stream:
                base = nth * frames

                async def read(stream: Stream = stream, base: int = base) -> None:
                    async for outcome in stream:
                        answered.append((name, base + outcome.frame_id, outcome.status))

                reading = asyncio.create_task(read())
                for _ in range(frames):
                    sent.append((name, base + await stream.send(np.float32([1] * 4))))
                    await asyncio.sleep(gap_s)
                await stream.finish()
                await reading

    async with client:
        await asyncio.gather(run(client, "left", 60, 0.005, 1), run(client, "right", 15, 0.007, 3))
    assert sorted((name, frame_id) for name, frame_id, _ in answered) == sorted(sent)
    statuses = {status for _, _, status in answered}
    assert statuses <= {Status.ON_TIME, Status.LATE, Status.EXPIRED, Status.SUPERSEDED, Status.CANCELLED}


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    """Those of two principals in `tmp_path / "policy.toml"`."""
    tokens = {name: new_token() for name in ("north", "south")}
    principals = [
        f'[[principal]]\nname = "{name}"\nmay = ["infer"]\n{policy_lines(token)}\n' for name, token in tokens.items()
    ]
    (tmp_path / "policy.toml").write_text("".join(principals))
    return tokens


async def test_another_principal_has_a_group_of_its_own(models: Path, tmp_path: Path, tokens: dict[str, str]) -> None:
    async with (
        serving(models, policy=tmp_path / "policy.toml") as app,
        over_grpc(app, token=tokens["north"]) as north,
        over_grpc(app, token=tokens["south"]) as south,
        fused(north, "left") as left,
        fused(south, "left") as other,
        fused(south, "right") as right,
    ):
        assert left.opened.fusion_inputs_missing == other.opened.fusion_inputs_missing == ("right",)
        captured_ns = time.time_ns()
        for stream in (left, other, right):
            await stream.send(np.float32([1] * 4), capture_time_ns=captured_ns)
        assert (await anext(other)).ok
        assert (await anext(left)).status is Status.EXPIRED


async def test_members_over_both_transports_run_together(
    models: Path, folder: Path, tmp_path: Path, tokens: dict[str, str]
) -> None:
    """They are of one principal by their token. Large frames over the local one are read by the worker itself."""
    async with (
        serving(models, policy=tmp_path / "policy.toml", local=str(folder / "both.sock")) as app,
        over_grpc(app, token=tokens["north"]) as far,
        Client(f"local:{app.local_path}", token=tokens["north"]) as near,
        fused(far, "left", "large") as left,
        fused(near, "right", "large") as right,
    ):
        captured_ns = time.time_ns()
        for n in range(1, 6):
            await left.send(np.full(20_000, n, np.float32), capture_time_ns=captured_ns + n)
            await right.send(np.full(20_000, n, np.float32), capture_time_ns=captured_ns + n)
        outcomes = [*await asyncio.gather(rest(left), rest(right))]
    for of_one in outcomes:
        assert {outcome.frame_id: outcome.status for outcome in of_one} == dict.fromkeys(range(1, 6), Status.ON_TIME)
        assert all((outcome.outputs["y"] == 11 * outcome.frame_id).all() for outcome in of_one)
        assert all([partner.frame_id for partner in outcome.fused] == [outcome.frame_id] for outcome in of_one)


async def test_a_group_passes_admission_once_and_is_recorded(models: Path, tmp_path: Path) -> None:
    log = tmp_path / "duly.log"
    async with serving(models, record=log, flight_folder=tmp_path) as app, over_grpc(app) as client:
        demands = app.driver.scheduler.demands
        async with fused(client, "left") as left, fused(client, "right") as right:
            assert len(demands(app.driver.clock())) == 1
            captured_ns = time.time_ns()
            for n in range(20):
                await left.send(np.float32([1] * 4), capture_time_ns=captured_ns + n)
                await right.send(np.float32([1] * 4), capture_time_ns=captured_ns + n + n % 2)
            done = [await anext(left), await anext(right)]
            async with grpc.aio.insecure_channel(app.address) as channel:
                stub = server_pb2_grpc.ServerServiceStub(channel)
                dumped = await stub.DumpRecording(server_pb2.DumpRecordingRequest())
            done += [*await rest(left), *await rest(right)]
        assert len(done) == 40
        assert sum(outcome.ok for outcome in done) >= 20, "every other one had a partner"
        assert not demands(app.driver.clock())
    for path in (log, tmp_path / dumped.file_name):
        replayed = replay(path)
        assert replayed.difference is None
        assert replayed.frames > 0
    assert replay(log).frames == 40


@pytest.mark.parametrize(
    ("model", "fusion", "field", "text"),
    [
        ("stereo", {"group": ""}, "fusion.group", "should be stated: the name that all streams of the group give"),
        ("stereo", {"group": "r" * 129}, "fusion.group", "is longer than 128 bytes"),
        ("stereo", {"group": "a\nb"}, "fusion.group", "has characters that cannot be printed"),
        ("stereo", {"input": "top"}, "fusion.input", ": there is no input 'top'; the model takes 'left', 'right'"),
        ("stereo", {"input": ""}, "fusion.input", ": there is no input ''; the model takes 'left', 'right'"),
        (
            "double",
            {"input": "x"},
            "fusion",
            ": model 'double' takes one input, 'x', which has no partner; leave it out",
        ),
        ("stereo", {"tolerance_nano": 5}, "fusion.tolerance_nano", "should be 0 with EXACT, got 5"),
        (
            "stereo",
            {"wait": pb.FUSION_WAIT_NEWEST},
            "fusion.tolerance_nano",
            "should be 1 to 10000000000, got 0; for equal capture times ask for EXACT",
        ),
        (
            "stereo",
            {"wait": pb.FUSION_WAIT_NEWEST, "tolerance_nano": 10_000_000_001},
            "fusion.tolerance_nano",
            "should be 1 to 10000000000, got 10000000001; for equal capture times ask for EXACT",
        ),
        (
            "stereo",
            {"wait": pb.FUSION_WAIT_NEWEST, "tolerance_nano": -1},
            "fusion.tolerance_nano",
            "should be 1 to 10000000000, got -1; for equal capture times ask for EXACT",
        ),
        ("stereo", {"wait": 9}, "fusion.wait", ": there is no value 9"),
        # What the group's first stream has settled.
        (
            "large",
            {"group": "rig", "input": "right"},
            "model",
            "should be 'stereo', for which fusion group 'rig' is open",
        ),
        (
            "stereo",
            {"group": "rig", "input": "right", "wait": pb.FUSION_WAIT_NEWEST, "tolerance_nano": 5},
            "fusion.wait",
            "should be EXACT, as for the other streams of the group, got NEWEST",
        ),
        (
            "stereo",
            {"group": "rig"},
            "fusion.input",
            ": another stream of group 'rig' gives 'left'; no stream gives 'right'",
        ),
    ],
)
async def test_a_member_that_does_not_fit_is_refused_with_what_would_be_right(
    server: App, model: str, fusion: dict[str, object], field: str, text: str
) -> None:
    asked = {"group": "another", "input": "left", "wait": pb.FUSION_WAIT_EXACT} | fusion
    async with (
        over_grpc(server) as client,
        fused(client, "left"),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        wire = Wire(channel, model=model, opened=False, fusion=pb.Fusion(**asked))  # type: ignore[arg-type]
        await wire.write(pb.StreamRequest(open=wire._open))
        error = await wire.error()
    assert reason(error) == "INVALID_OPEN"
    assert error.details() == (f"{field}{text}" if text.startswith(":") else f"{field} {text}")


async def test_the_clients_argument_is_checked(server: App) -> None:
    async with over_grpc(server) as client:
        with pytest.raises(ValueError, match=r"fusion.tolerance_ms=-1"):
            fused(client, "left", tolerance_ms=-1.0, wait="NEWEST")
        with pytest.raises(ValueError, match=r"fusion\.wait"):
            fused(client, "left", wait="SOMETIMES")
        with pytest.raises(InvalidRequest, match=r"fusion\.input"):
            async with fused(client, "top"):
                pass
