"""A model repository as Triton has it is served as it is."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
import pytest_asyncio
from click.testing import CliRunner

from duly.app import App
from duly.cli_models import models
from duly.models.kserve_model import rows_max
from duly.models.repository import Repository
from duly.rpc.kserve.descriptions import configuration
from duly.v1 import inference_pb2 as pb
from duly_client import Client, LoadFailed
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import Wire, array, frame

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCALE = """
name: "scale"
platform: "onnxruntime_onnx"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]
version_policy: { latest { num_versions: 2 } }
dynamic_batching { }
"""
SUM = """
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
sequence_batching {
  state [ {
    input_name: "total" output_name: "total_next" data_type: TYPE_FP32 dims: [ 2 ]
    initial_state: { name: "first" data_type: TYPE_FP32 dims: [ 2 ] data_file: "first" }
  } ]
}
"""
STANDING = """
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 1 }
sequence_batching { control_input [
  { name: "start" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } },
  { name: "ready" control { kind: CONTROL_SEQUENCE_READY fp32_false_true: [ 0, 1 ] } },
  { name: "end" control { kind: CONTROL_SEQUENCE_END fp32_false_true: [ 0, 1 ] } },
  { name: "id" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_INT32 } }
] }
"""
SPECIFIC = "max_batch_size: 2\nversion_policy { specific { versions: [ 1, 3 ] } }\n"
SHAPED = """
max_batch_size: 0
input { name: "x" data_type: TYPE_FP32 dims: [ 2, 2 ] reshape { shape: [ 1, 4 ] } }
output { name: "y" data_type: TYPE_FP32 dims: 4 reshape { shape: [ 1, 4 ] } }
"""
WRONG = """
max_batch_size: 4
input {
  name: "x"
  data_type: TYPE_FP32
  dims: [ 5 ]
}
"""


def put(root: Path, name: str, pbtxt: str, *versions: onnx.ModelProto) -> None:
    for number, proto in enumerate(versions, start=1):
        folder = root / name / str(number)
        folder.mkdir(parents=True)
        onnx.save(proto, folder / "model.onnx")
    (root / name / "config.pbtxt").write_text(pbtxt)


def write(root: Path) -> Path:
    put(root, "scale", SCALE, *(graphs.scaling(factor=factor) for factor in (2, 3, 5)))
    put(root, "sum", SUM, graphs.summing())
    (root / "sum" / "initial_state").mkdir()
    (root / "sum" / "initial_state" / "first").write_bytes(np.array([100, 200], "<f4").tobytes())
    put(root, "standing", STANDING, graphs.standing())
    put(root, "specific", SPECIFIC, *(graphs.scaling(factor=factor) for factor in (2, 3, 5, 7)))
    put(root, "shaped", SHAPED, graphs.copying([1, 4]))
    put(root, "auto", "", graphs.scaling())
    put(root, "wrong", WRONG, graphs.doubling())
    put(root, "joined", "\nensemble_scheduling { step { model_name: 'sum' } }", graphs.doubling())
    put(root, "both", "no text format at all", graphs.doubling())
    (root / "both" / "model.toml").write_text("batch_sizes = [1]\n")
    return root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    async with serving(write(tmp_path_factory.mktemp("triton") / "models")) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="module")
async def channel(server: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


async def test_versions_are_loaded_as_the_policy_says(server: App) -> None:
    async with Client(server.address) as client:
        served = {model.name: model for model in await client.models()}
    loaded = {name: [version.version for version in model.versions] for name, model in served.items()}
    assert loaded["scale"] == ["3", "2"]
    assert loaded["specific"] == ["3", "1"]
    assert loaded["auto"] == loaded["sum"] == ["1"]
    assert [served[name].active_version for name in ("scale", "specific", "sum")] == ["3", "3", "1"]


async def test_each_version_answers_for_itself(channel: grpc.aio.Channel) -> None:
    for version, factor in (("", 5), ("3", 5), ("2", 3)):
        async with Wire(channel, model="scale", version=version) as wire:
            assert array(await wire.ask(frame(1, [1, 2, 3, 4]))).tolist() == [factor * x for x in (1, 2, 3, 4)]


async def test_implicit_state_goes_on_from_what_the_file_holds(channel: grpc.aio.Channel) -> None:
    async with Wire(channel, model="sum") as one, Wire(channel, model="sum") as other:
        for frame_id, wire, expected in ((1, one, [101, 202]), (1, other, [101, 202]), (2, one, [102, 204])):
            assert array(await wire.ask(frame(frame_id, [1, 2]))).tolist() == expected


async def test_control_inputs_are_filled_by_the_server(channel: grpc.aio.Channel) -> None:
    async with Wire(channel, model="standing") as one, Wire(channel, model="standing") as other:
        told = [array(await wire.ask(frame(frame_id, [7]))).tolist() for frame_id in (1, 2) for wire in (one, other)]
        ids = [float(wire.terms.stream_id) for wire in (one, other)]
    assert ids[0] != ids[1]
    assert told == [[7, start, 1, 0, number] for start in (1, 0) for number in ids]


async def test_a_single_frame_is_the_last_of_its_stream(server: App) -> None:
    async with Client(server.address) as client:
        for _ in range(2):
            outcome = await client.infer("standing", np.float32([7]), budget_ms=5000)
            assert outcome.outputs["y"].tolist()[:4] == [7, 1, 1, 1]


async def test_a_changed_setting_is_named_with_its_line(server: App) -> None:
    file = server._config.models / "auto" / "config.pbtxt"
    async with Client(server.address) as client:
        file.write_text('\nparameters { key: "intra_op_thread_count" value { string_value: "2" } }\n')
        with pytest.raises(LoadFailed, match=r"auto/config\.pbtxt: line 2: threads was 0, is 2"):
            await client.load_model("auto", "1")
        file.write_text("")
        assert (await client.load_model("auto", "1")).active_version == "1"


async def test_shapes_are_those_of_the_configuration(channel: grpc.aio.Channel) -> None:
    async with Wire(channel, model="shaped") as wire:
        assert array(await wire.ask(frame(1, [[1, 2], [3, 4]]))).tolist() == [1, 2, 3, 4]


async def test_what_is_wrong_is_told_with_its_line(server: App) -> None:
    async with Client(server.address) as client:
        errors = {model.name: version.error for model in await client.models() for version in model.versions}
    assert errors["wrong"].startswith("wrong/config.pbtxt: line 3: input[0]: what is sent becomes [5] a frame, but")
    joined = server._config.models
    (problem,) = [each for each in Repository(joined).scan()[1] if each.name == "joined"]
    assert problem.reason.startswith(
        "joined/config.pbtxt: line 2: ensemble_scheduling: pipelines of models are not served"
    )


async def test_model_toml_wins_and_that_is_said(server: App) -> None:
    versions, problems = Repository(server._config.models).scan()
    assert next(version for version in versions if version.name == "both").config.batch_sizes == (1,)
    assert [(each.reason, each.harmless) for each in problems if each.name == "both"] == [
        ("both/config.pbtxt: is not read beside model.toml, which says all of the model's settings", True)
    ]


async def test_what_clients_of_kserve_are_told(server: App) -> None:
    said = {}
    for name in ("scale", "sum", "shaped", "auto"):
        loaded = server.catalogue.find(name)
        assert loaded.signature is not None
        rows = rows_max(loaded.version.config, loaded.signature, 256)
        said[name] = configuration(loaded, loaded.signature, [loaded], ["cpu:0"], 1_000_000, rows)
    assert [said[name].max_batch_size for name in said] == [4, 8, 0, 8]
    assert [said[name].HasField("dynamic_batching") for name in said] == [True, False, False, True]
    assert [said[name].HasField("sequence_batching") for name in said] == [False, True, False, False]
    assert [(each.name, list(each.dims)) for each in said["shaped"].input] == [("x", [2, 2])]
    assert [(each.name, list(each.dims)) for each in said["shaped"].output] == [("y", [4])]
    assert [list(each.dims) for each in said["sum"].input] == [[2]], "states are no inputs"


async def test_converted_models_are_the_same(server: App, tmp_path: Path) -> None:
    root = write(tmp_path / "models")
    result = await asyncio.to_thread(CliRunner().invoke, models, ["convert", str(root), "--write"])
    assert result.exit_code == 1, "not all could be converted"
    assert "duly: joined/config.pbtxt: line 2: ensemble_scheduling" in result.stderr
    assert "duly: both/config.pbtxt: line 1: no: ':' and a value are expected" in result.stderr
    before, after = ({v.key: v.config for v in Repository(each).scan()[0]} for each in (server._config.models, root))
    assert before == after
    assert set(result.stdout.split()) == {f"{key.partition('/')[0]}/model.toml" for key in before if key != "both/1"}
    for version in Repository(root).scan()[0]:
        assert not version.lines, "model.toml is read now"
    again = await asyncio.to_thread(CliRunner().invoke, models, ["convert", str(root / "sum"), "--write"])
    assert (again.exit_code, again.stdout) == (1, "")
    assert "duly: sum/model.toml is there already" in again.stderr
    shown = await asyncio.to_thread(CliRunner().invoke, models, ["convert", str(root / "sum")])
    assert (shown.exit_code, shown.stdout) == (0, (root / "sum" / "model.toml").read_text())


async def test_a_folder_without_such_models_is_no_crash(tmp_path: Path) -> None:
    result = await asyncio.to_thread(CliRunner().invoke, models, ["convert", str(tmp_path)])
    assert (result.exit_code, "there is no config.pbtxt in" in result.stderr) == (1, True)


async def test_frames_share_batches_up_to_the_largest(channel: grpc.aio.Channel) -> None:
    async with Wire(channel, model="scale") as wire:
        await wire.send(*(frame(frame_id) for frame_id in range(1, 33)))
        await wire.outcome(32)
        assert {outcome.status for outcome in wire.outcomes.values()} == {pb.OUTCOME_STATUS_ON_TIME}
        assert max(outcome.batch_size for outcome in wire.outcomes.values()) <= 4


async def test_the_names_of_classes_are_of_the_output_that_has_the_file(tmp_path: Path) -> None:
    graphs.save(tmp_path, "pair", graphs.two_outputs())
    (tmp_path / "pair" / "model.toml").unlink(missing_ok=True)
    names = [output.name for output in graphs.two_outputs().graph.output]
    outputs = [f'output {{ name: "{name}" data_type: TYPE_FP32 dims: [ 4 ]' for name in names]
    (tmp_path / "pair" / "config.pbtxt").write_text(
        f'max_batch_size: 8\n{outputs[0]} }}\n{outputs[1]} label_filename: "names" }}\n'
    )
    (tmp_path / "pair" / "names").write_text("north\neast\nsouth\nwest\n")
    async with serving(tmp_path) as app, Client(app.address) as client:
        (model,) = await client.models()
        assert [list(spec.labels) for spec in model.versions[0].outputs] == [[], ["north", "east", "south", "west"]]
