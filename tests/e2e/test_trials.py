"""New versions are tried on live frames of a real server, and come and go without a hand: what clients get is the
active version's answer, or, in the canary, the candidate's; never that of a shadow.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import grpc
import onnx
import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, generate_latest

from duly.app import App
from duly.cli_models import models
from duly.metric_families import Families
from duly.runtime.catalogue import LoadedVersion
from duly.runtime.repository_watch import RepositoryWatch
from duly.runtime.running_trial import TrialReport
from duly.trials.trial import Stage
from duly.v1 import inference_pb2 as pb
from duly.v1 import model_pb2, model_pb2_grpc
from duly_client import ActivationRefused, Client, Feedback, TrialRefused
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import ON_TIME, Wire, array, frame

pytestmark = pytest.mark.asyncio

RULES = {
    "shadow_share": 1.0,
    "canary_share": 0.5,
    "canary_block_s": 0.2,
    "frames_min": 20,
    "agreement_min": 0.8,
    "on_time_worse_max": 0.3,
    "comparisons_per_s_max": 1000.0,
}
STREAMS = 6
PERIOD_S = 0.015
"""The sensors of these tests send no more often."""
ROUNDS_MAX = 2000


def toml(**rules: object) -> str:
    said = "\n".join(f"{name} = {json.dumps(value)}" for name, value in (RULES | rules).items())
    return f"batch_sizes = [1]\n[trial]\n{said}\n"


def publish(root: Path, version: int, proto: onnx.ModelProto) -> None:
    graphs.save(root.parent / "made", "m", proto, version=version)
    (root.parent / "made" / "m" / str(version)).rename(root / "m" / str(version))


class Site:
    """A server with model m, of which version 1 serves, and sensors that send to it."""

    def __init__(self, app: App, root: Path, audit: Path) -> None:
        self.app, self.root, self.audit = app, root, audit
        self.watch = RepositoryWatch(app.host, app.catalogue, activate=True, settle_s=0, trials=app.trials)
        self.wires: list[Wire] = []
        self.sent = 0

    @property
    def active(self) -> str:
        active = self.app.catalogue.active("m")
        assert active is not None
        return active.version.version

    def candidate(self) -> LoadedVersion:
        loaded = self.app.catalogue.get("m", "2")
        assert loaded is not None
        return loaded

    def trial(self, version: str = "2") -> TrialReport:
        report = self.app.trials.report("m", version)
        assert report is not None
        return report

    async def comes(self, proto: onnx.ModelProto, version: int = 2) -> TrialReport:
        """A version comes into the repository, and the watch finds it."""
        await self.watch.look()
        publish(self.root, version, proto)
        await self.watch.look()
        for _ in range(ROUNDS_MAX):  # another version may still be being unloaded
            if self.app.trials.report("m", str(version)) is not None:
                return self.trial(str(version))
            await self.round()
            await self.watch.look()
        raise AssertionError(f"version {version} is not tried, there are {self.app.catalogue.versions('m')}")

    async def round(self) -> None:
        """Each sensor sends a frame and gets its outcome."""
        self.sent += 1
        for wire in self.wires:
            await wire.send(frame(self.sent, [[self.sent]]))
        for wire in self.wires:
            await wire.outcome(self.sent)
        await asyncio.sleep(self.period_s())

    def period_s(self) -> float:
        """How often sensors send: with room for a run in spare time between, however slow the machine is just now."""
        scheduler = self.app.driver.scheduler
        keys = [loaded.key for loaded in self.app.catalogue.versions("m")]
        return max(PERIOD_S, *[3e-9 * scheduler.planned_one_ns(key, 0) for key in keys])

    async def until(self, stage: Stage, version: str = "2") -> TrialReport:
        """Sensors send until the trial has come to that stage, or is over."""
        for _ in range(ROUNDS_MAX):
            self.app.trials.look()
            report = self.trial(version)
            if report.stage is stage:
                return report
            assert not report.stage.over, report
            await self.round()
        raise AssertionError(self.trial(version))

    async def gone(self, version: str = "2") -> None:
        """Sensors send until the version is unloaded."""
        for _ in range(ROUNDS_MAX):
            if self.app.catalogue.get("m", version) is None:
                return
            await self.round()
        raise AssertionError(f"{version} is loaded still")

    def outcomes(self) -> list[pb.Outcome]:
        """All outcomes, each of which is on time and has the answer of the version that it names."""
        found = [outcome for wire in self.wires for outcome in wire.outcomes.values()]
        assert len(found) == self.sent * len(self.wires)
        for outcome in found:
            assert outcome.status == ON_TIME, outcome
        return found

    def versions(self) -> set[str]:
        return {outcome.version for outcome in self.outcomes()}

    def audited(self) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in self.audit.read_text().splitlines()]
        return [line for line in lines if line["event"] == "trial"]


@asynccontextmanager
async def site(
    folder: Path,
    settings: str = "",
    streams: int = STREAMS,
    first: onnx.ModelProto | None = None,
    config: Mapping[str, object] = MappingProxyType({}),
    **terms: object,
) -> AsyncIterator[Site]:
    """`config`: settings of the server; `terms`: of the streams."""
    root, audit, state = folder / "models", folder / "audit.log", folder / "state"
    state.mkdir(exist_ok=True)
    if not root.exists():
        graphs.save(root, "m", first or graphs.scaling_one(1.0), settings or toml())
    async with serving(root, watch="off", audit_log=audit, state_folder=state, **config) as app:
        made = Site(app, root, audit)
        async with grpc.aio.insecure_channel(app.address) as channel:
            for nth in range(streams):
                wire = Wire(channel, **({"model": "m", "stream_name": f"camera {nth}"} | terms))
                made.wires.append(await wire.__aenter__())
            yield made
            for wire in made.wires:
                wire.cancel()


async def test_a_good_version_is_promoted_without_a_hand(tmp_path: Path) -> None:
    async with site(tmp_path) as served:
        begun = await served.comes(graphs.scaling_one(1.001))
        assert (begun.stage, begun.against, served.active) == (Stage.SHADOW, "1", "1")
        shadow = await served.until(Stage.CANARY)
        assert shadow.figures.frames_compared >= RULES["frames_min"]
        assert shadow.figures.agreement > 0.99
        assert served.versions() == {"1"}, "nobody was sent anything of it"
        passed = await served.until(Stage.ACTIVE)
        assert served.active == "2"
        assert passed.figures.canary_frames >= RULES["frames_min"]
        before = len(served.outcomes())
        assert served.versions() == {"1", "2"}
        await served.round()
        assert {outcome.version for wire in served.wires for outcome in [wire.outcomes[served.sent]]} == {"2"}
        assert len(served.outcomes()) == before + STREAMS
        for wire in served.wires:
            assert {advice.kind for advice in wire.advice} == {pb.StreamAdvice.KIND_VERSION_CHANGED}
        told = sorted(len(wire.advice) for wire in served.wires)
        assert told[0] == 1, "who was not drawn goes over once"
        assert told[-1] > passed.figures.canary_pairs, "the others went in turns"
        values = {
            (outcome.version, round(float(array(outcome)[0]) / outcome.frame_id, 4)) for outcome in served.outcomes()
        }
        assert values == {("1", 1.0), ("2", 1.001)}
        await served.app.close()
        assert [line["stage"] for line in served.audited()] == ["SHADOW", "CANARY", "ACTIVE"]
        assert str(served.audited()[1]["reason"]).startswith("agreement 0.99")


async def test_a_worse_version_is_rolled_back_and_nobody_has_seen_it(tmp_path: Path) -> None:
    async with site(tmp_path) as served:
        await served.comes(graphs.scaling_one(3.0))
        report = await served.until(Stage.ROLLED_BACK)
        assert report.reason.startswith("agreement 0.0000"), report.reason
        await served.gone()
        assert served.versions() == {"1"}
        assert not any(wire.advice for wire in served.wires)
        await served.watch.look()
        (served.root / "m" / "touched").touch()
        await served.watch.look()
        assert served.app.catalogue.get("m", "2") is None, "it is not tried again"
        async with Client(served.app.address) as client:
            (trial,) = await client.trials("m")
            assert trial.stage == model_pb2.TRIAL_STAGE_ROLLED_BACK
            assert (await client.trials("other")) == []
        await served.comes(graphs.scaling_one(1.0), 3)
        await served.until(Stage.ACTIVE, "3")
        assert served.active == "3"


async def test_a_slow_version_is_rolled_back_in_the_canary(tmp_path: Path) -> None:
    rules = toml(shadow_s_max=0.05, at_limit="GO_ON")
    terms = {"stream_class": pb.STREAM_CLASS_BEST_EFFORT, "default_budget_nano": 10**10}
    async with site(tmp_path, rules, **terms) as served:
        await served.comes(graphs.slow(rounds=60))
        await served.until(Stage.CANARY)
        (slow_ns, *_) = served.app.driver.scheduler.planned_ns("m/2", "cpu:0")
        for _ in range(ROUNDS_MAX):
            if served.trial().stage.over:
                break
            served.sent += 1
            for wire in served.wires:  # from now on frames have less time than the candidate takes
                await wire.send(frame(served.sent, [[served.sent]], budget_nano=slow_ns // 2))
            for wire in served.wires:
                await wire.outcome(served.sent)
            await asyncio.sleep(PERIOD_S)
        report = served.trial()
        assert report.stage is Stage.ROLLED_BACK
        assert "worse than asked for" in report.reason or "others suffer" in report.reason, report.reason
        assert report.figures.canary_on_time < report.figures.canary_frames
        assert served.active == "1"
        await served.gone()


@pytest.mark.parametrize(
    ("factor", "end"), [(-1.0, Stage.ROLLED_BACK), pytest.param(2.0, Stage.ACTIVE, marks=pytest.mark.thorough)]
)
async def test_labels_decide_whether_a_version_that_answers_otherwise_passes(
    tmp_path: Path, factor: float, end: Stage
) -> None:
    """All frames are of class 1, as version 1 says from 0.5 on."""
    samples = tmp_path / "samples"
    samples.mkdir()
    rules = toml(agreement_min=0.0, labels_min=20, accuracy_worse_max=0.3, on_time_worse_max=0.2)
    config = {"sample": samples, "sample_frames": 4096}
    async with site(tmp_path, rules, config=config) as served, Client(served.app.address) as client:
        await served.comes(graphs.scaling_one(factor))
        await served.until(Stage.CANARY)
        for _ in range(ROUNDS_MAX):
            served.app.trials.look()
            if served.trial().stage.over:
                break
            await served.round()
            labels = [Feedback(wire.terms.stream_key, served.sent, 1) for wire in served.wires]
            await client.feedback(labels)
        report = served.trial()
        assert report.stage is end, report
        assert "by labels " in report.reason
        figures = report.figures
        assert min(figures.labels.count, figures.rest_labels.count) >= 20
        assert (figures.labels.share, figures.rest_labels.share) == (float(end is Stage.ACTIVE), 1.0)
        shown = (await client.trials("m"))[0]
        assert (shown.labels, shown.accuracy) == (figures.labels.count, figures.labels.share)


async def test_a_candidate_that_gives_no_numbers_is_rolled_back_at_once(tmp_path: Path) -> None:
    async with site(tmp_path) as served:
        await served.comes(graphs.scaling_one(float("nan")))
        report = await served.until(Stage.ROLLED_BACK)
        assert "output 'y' has a NaN or an infinity where that of the active version has none" in report.reason
        assert report.figures.frames_compared == 0
        assert served.versions() == {"1"}


@pytest.mark.parametrize("stage", [Stage.SHADOW, Stage.CANARY])
async def test_a_candidate_whose_worker_is_killed_is_rolled_back_at_once(tmp_path: Path, stage: Stage) -> None:
    async with site(tmp_path) as served:
        await served.comes(graphs.scaling_one(1.001))
        await served.until(stage)
        (worker,) = served.candidate().workers.values()
        os.kill(worker.pid, signal.SIGKILL)
        for _ in range(ROUNDS_MAX):
            if (report := served.trial()).stage.over:
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError(f"nobody has seen that the worker is lost: {report}")
        assert report.stage is Stage.ROLLED_BACK
        assert report.reason.startswith("its worker is lost"), report.reason
        assert served.active == "1"
        await served.gone()
        last = served.sent
        await served.round()
        assert {wire.outcomes[served.sent].version for wire in served.wires} == {"1"}
        assert last < served.sent
        assert all(len(wire.outcomes) == served.sent for wire in served.wires), "each frame has one outcome"


@pytest.mark.parametrize("stage", [Stage.SHADOW, Stage.CANARY])
async def test_a_person_may_veto_at_any_time(tmp_path: Path, stage: Stage) -> None:
    async with site(tmp_path) as served:
        await served.comes(graphs.scaling_one(1.001))
        await served.until(stage)
        async with Client(served.app.address) as client:
            with pytest.raises(ActivationRefused, match="m/2 is on trial"):
                await client.activate_version("m", 1)
            trial = await client.veto_version("m", 2, "not today")
            assert trial is not None
            assert trial.stage == model_pb2.TRIAL_STAGE_VETOED
            assert trial.reason.endswith(": not today")
            with pytest.raises(TrialRefused, match="m/1 is active"):
                await client.veto_version("m", 1)
        await served.gone()
        await served.round()
        served.outcomes()
        assert {wire.outcomes[served.sent].version for wire in served.wires} == {"1"}


@pytest.mark.parametrize("nearly", ["04", "\N{ARABIC-INDIC DIGIT THREE}", "9" * 20])
async def test_a_veto_of_what_is_the_number_of_no_version_is_refused(tmp_path: Path, nearly: str) -> None:
    async with site(tmp_path, streams=0) as served, grpc.aio.insecure_channel(served.app.address) as channel:
        asked = model_pb2_grpc.ModelServiceStub(channel).VetoVersion(
            model_pb2.VetoVersionRequest(name="m", version=nearly)
        )
        with pytest.raises(grpc.aio.AioRpcError, match="should be the number of a version"):
            await asked


async def test_what_was_vetoed_before_it_came_is_not_tried(tmp_path: Path) -> None:
    async with site(tmp_path, streams=0) as served:
        async with Client(served.app.address) as client:
            assert await client.veto_version("m", 2) is None
        await served.watch.look()
        publish(served.root, 2, graphs.scaling_one(1.0))
        await served.watch.look()
        assert served.app.catalogue.get("m", "2") is None
        assert served.app.trials.report("m", "2") is None


async def test_force_ends_a_trial(tmp_path: Path) -> None:
    async with site(tmp_path) as served:
        await served.comes(graphs.scaling_one(1.001))
        async with Client(served.app.address) as client:
            await client.activate_version("m", 2, force=True)
        report = await served.until(Stage.ACTIVE)
        assert "by another hand" in report.reason
        await served.comes(graphs.scaling_one(1.002), 3)
        await served.app.host.activate("m", "1", force=True)
        report = await served.until(Stage.ROLLED_BACK, "3")
        assert report.reason == "1 became active by another hand"
        assert served.active == "1"


async def test_one_trial_at_a_time_and_a_newer_version_waits(tmp_path: Path) -> None:
    async with site(tmp_path) as served:
        await served.comes(graphs.scaling_one(1.001))
        publish(served.root, 3, graphs.scaling_one(1.002))
        await served.watch.look()
        assert served.app.catalogue.get("m", "3") is None
        await served.until(Stage.ACTIVE)
        await served.watch.look()
        assert served.trial("3").stage is Stage.SHADOW
        assert served.trial("3").against == "2"


async def test_what_takes_other_frames_cannot_be_tried(tmp_path: Path) -> None:
    async with site(tmp_path) as served:
        report = await served.comes(graphs.scaling(width=4))
        assert report.stage is Stage.ROLLED_BACK
        assert report.reason.startswith("its inputs are x FP32[4], those of the active version x FP32[1, 1]")
        await served.round()
        assert served.versions() == {"1"}


async def test_a_model_that_keeps_state_goes_to_the_canary_at_once(tmp_path: Path) -> None:
    settings = toml().replace("[trial]", 'version_change = "CARRY"\n[trial]') + graphs.SUMMING
    async with site(tmp_path, settings, first=graphs.summing()) as served:
        begun = await served.comes(graphs.summing())
        assert begun.stage is Stage.CANARY
        for frame_id in range(1, ROUNDS_MAX):
            served.app.trials.look()
            if served.trial().stage.over:
                break
            for wire in served.wires:
                outcome = await wire.ask(frame(frame_id, [1, 1]))
                assert array(outcome).tolist() == [frame_id, frame_id], "the state goes over with the stream"
        assert served.trial().stage is Stage.ACTIVE
        assert served.trial().figures.frames_compared == 0


async def test_a_drain_decides_nothing(tmp_path: Path) -> None:
    async with site(tmp_path) as served:
        await served.comes(graphs.scaling_one(1.001))
        await served.until(Stage.CANARY)
        await served.round()
        await served.app.drain()
        assert served.trial().stage is Stage.CANARY
        served.app.trials.look()
        assert served.trial().stage is Stage.CANARY
        served.outcomes()


async def test_a_server_that_starts_again_goes_on_with_what_was_active(tmp_path: Path) -> None:
    async with site(tmp_path) as served:
        await served.comes(graphs.scaling_one(3.0))
        await served.until(Stage.ROLLED_BACK)
        await served.gone()
        await served.comes(graphs.scaling_one(1.001), 3)
        await served.until(Stage.CANARY, "3")
    async with site(tmp_path) as served:
        assert served.active == "1"
        assert [loaded.version.version for loaded in served.app.catalogue.versions("m")] == ["1"]
        await served.watch.look()
        await served.watch.look()
        assert served.trial("3").stage is Stage.SHADOW, "its trial begins anew"
        assert served.app.trials.report("m", "2") is None
        await served.until(Stage.ACTIVE, "3")
    async with site(tmp_path) as served:
        assert served.active == "3"


async def test_commands_show_and_steer_trials(tmp_path: Path) -> None:
    async with site(tmp_path) as served:

        async def command(*words: str) -> tuple[int, list[str]]:
            arguments = [*words, "--server", served.app.address]
            result = await asyncio.to_thread(CliRunner().invoke, models, arguments)
            # The server logs to the same place.
            return result.exit_code, [line for line in result.output.splitlines() if not line[:4].isdecimal()]

        assert await command("trials") == (0, ["no trials"])
        publish(served.root, 2, graphs.scaling_one(1.001))
        begun = ["m/2  SHADOW  its answers are compared with those of the active version"]
        assert await command("try", "m", "2") == (0, begun)
        await served.until(Stage.CANARY)
        await served.round()
        code, (first, shadow, canary) = await command("trials", "m")
        assert code == 0
        assert first.startswith("m/2  CANARY  agreement 0.99")
        assert shadow.startswith("  shadow: 2")
        assert canary.startswith("  canary: ")
        registry = CollectorRegistry()
        registry.register(Families(served.app.metrics))
        served.app.metrics.set_gauges(served.app._gauges)
        assert b'duly_trial_stage{model="m/2",stage="CANARY"} 1.0' in generate_latest(registry)
        code, output = await command("veto", "m", "2", "--reason", "not today")
        assert (code, output[0]) == (0, "m/2  VETOED  vetoed by 127.0.0.1: not today")
        assert b'duly_trials_total{model="m",stage="VETOED"} 1.0' in generate_latest(registry)
        vetoed = "m/9  VETOED  it was not on trial, and is not tried by itself"
        assert await command("veto", "m", "9") == (0, [vetoed])
        assert (await command("try", "m", "1"))[0] == 1


async def test_watchers_hear_of_each_stage(tmp_path: Path) -> None:
    async with site(tmp_path) as served, grpc.aio.insecure_channel(served.app.address) as channel:
        heard: list[int] = []

        async def watch() -> None:
            stub = model_pb2_grpc.ModelServiceStub(channel)
            async for change in stub.WatchModels(model_pb2.WatchModelsRequest()):
                for version in change.model.versions:
                    if version.version == "2" and version.trial.stage not in (0, *heard):
                        heard.append(version.trial.stage)

        watching = asyncio.create_task(watch())
        await served.comes(graphs.scaling_one(1.001))
        await served.until(Stage.ACTIVE)
        for _ in range(ROUNDS_MAX):
            if Stage.ACTIVE in heard:
                break
            await served.round()
        watching.cancel()
        assert heard == [Stage.SHADOW, Stage.CANARY, Stage.ACTIVE]
