"""One real server, and what servers of this kind have fallen to elsewhere: each is refused, and it serves on."""

import ast
import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError

import duly
from duly.models.repository import Repository
from duly.models.spec import ModelConfig
from duly.v1 import model_pb2, model_pb2_grpc, tensor_pb2
from duly.worker import version_files
from duly.worker.errors import LoadError
from duly.worker.external_data import take_in
from duly.worker.libraries import shown, with_checked_libraries
from duly.worker.version_files import VersionFiles
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import INVALID, ON_TIME, Wire, frame, tensor

HOSTILE_NAMES = (
    "../double",
    "double/../../etc/passwd",
    "/etc/passwd",
    "double\0",
    "double;reboot",
    "$(reboot)",
    "`reboot`",
    "%2e%2e%2fdouble",
    "..",
    "",
    "\uff44ouble",
    "double\n",
    "a" * 70_000,
    "{0.__class__}",
    "%s%n",
)


def shaped(*shape: int, data: bytes = bytes(16), datatype: int = tensor_pb2.DATA_TYPE_FP32) -> dict[str, Any]:
    return {"tensors": [tensor_pb2.Tensor(name="x", datatype=datatype, shape=shape, data=data)]}


ODD_FRAMES: dict[str, dict[str, Any]] = {
    "dimensions whose product wraps to 4": shaped(1 << 32, 1 << 32, 4),
    "dimensions whose bytes wrap to 16": shaped((1 << 62) + 4),
    "the largest dimension": shaped((1 << 63) - 1),
    "a dimension below zero": shaped(-4),
    "two dimensions below zero": shaped(-2, -2),
    "no dimension": shaped(data=bytes(4)),
    "a dimension of zero": shaped(0, data=b""),
    "thousands of dimensions": shaped(*[1] * 5000, 4),
    "fewer bytes than the shape says": shaped(4, data=bytes(15)),
    "more bytes than the shape says": shaped(4, data=bytes(17)),
    "a type that is none": shaped(4, datatype=2_000_000_000),
    "no input": {"tensors": []},
    "an input twice": {"tensors": [tensor([1, 2, 3, 4])] * 2},
    "another input": {"tensors": [tensor([1, 2, 3, 4], name="y")]},
}


async def test_odd_frames_and_hostile_names_beside_an_honest_stream(repository: Path) -> None:
    async with (
        serving(repository) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="double") as honest,
        Wire(channel, model="double") as odd,
    ):
        for number, (what, fields) in enumerate(ODD_FRAMES.items(), start=1):
            outcome = await odd.ask(frame(number, **fields))
            assert outcome.status == INVALID, what
            assert outcome.reason, what
            assert str(repository) not in outcome.reason
            assert len(outcome.reason) < 1000, what
        assert (await odd.ask(frame(1000))).status == ON_TIME
        models = model_pb2_grpc.ModelServiceStub(channel)
        for name in HOSTILE_NAMES:
            for call in (
                lambda name=name: models.GetModel(model_pb2.GetModelRequest(name=name)),
                lambda name=name: models.LoadModel(model_pb2.LoadModelRequest(name=name, version="1")),
                lambda name=name: models.LoadModel(model_pb2.LoadModelRequest(name="double", version=name or "..")),
                lambda name=name: models.UnloadModel(model_pb2.UnloadModelRequest(name=name, version="1")),
                lambda name=name: _opened(channel, name),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call()
                assert refused.value.code() in (
                    grpc.StatusCode.NOT_FOUND,
                    grpc.StatusCode.INVALID_ARGUMENT,
                    grpc.StatusCode.FAILED_PRECONDITION,
                    grpc.StatusCode.PERMISSION_DENIED,
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                ), (name[:40], refused.value)
                text = refused.value.details() or ""
                assert str(repository.parent) not in text
                assert "Traceback" not in text
                assert ".py" not in text
        for number, terms in enumerate(
            ({"expected_period_nano": 0}, {"expected_period_nano": -1}, {"expected_period_nano": (1 << 63) - 1})
        ):
            with contextlib.suppress(grpc.aio.AioRpcError):  # or it is refused
                async with Wire(channel, model="double", **terms) as wire:
                    assert (await wire.ask(frame(number + 1))).status == ON_TIME
        assert (await honest.ask(frame(1))).status == ON_TIME


async def _opened(channel: grpc.aio.Channel, name: str) -> None:
    async with Wire(channel, model=name, version="1"):
        pass


def test_settings_that_are_nested_or_empty_or_endless_stop_their_own_model_alone(tmp_path: Path) -> None:
    graphs.save(tmp_path, "honest", graphs.doubling())
    for name, toml in {
        "deep": "a = " + "[" * 100_000,
        "tables": "\n".join(f"[{'.'.join('a' * depth)}]" for depth in range(1, 300)),
        "zero": "batch_sizes = [0]\n",
        "huge": f"batch_sizes = [{2**70}]\n",
        "text": "\x00" * 1000,
    }.items():
        graphs.save(tmp_path, name, graphs.doubling(), "x")
        (tmp_path / name / "model.toml").write_text(toml)
    versions, problems = Repository(tmp_path).scan()
    assert [version.name for version in versions] == ["honest"]
    assert {problem.name for problem in problems} == {"deep", "tables", "zero", "huge", "text"}
    assert all(str(tmp_path) not in problem.reason for problem in problems)


def test_a_graph_that_is_nested_without_end_is_an_error() -> None:
    attribute = b""
    for _ in range(5_000):  # attribute.g.node.attribute of itself
        node = _field(5, attribute)
        attribute = _field(6, _field(1, node))
    graph = _field(7, _field(1, _field(5, attribute)))
    with pytest.raises(DecodeError):
        take_in(graph + _field(99, b"\n\x08location"), lambda location: memoryview(b""))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def test_a_library_that_is_swapped_after_its_check_is_not_the_one_that_is_loaded(tmp_path: Path) -> None:
    library = tmp_path / "lib.so"
    library.write_bytes(b"\x7fELF honest")
    allowed = (hashlib.sha256(library.read_bytes()).hexdigest(),)
    config = ModelConfig.model_validate({"providers": [{"name": "Acme", "library": "lib.so"}]})
    checked = with_checked_libraries(
        config, "m", tmp_path, allowed, VersionFiles("m/1", tmp_path, lambda digests: None)
    )
    library.write_bytes(b"\x7fELF evil!!")
    copy = checked.providers[0].library
    assert copy is not None
    assert copy.read_bytes() == b"\x7fELF honest"
    assert shown(copy) == "lib.so"
    with pytest.raises(PermissionError), copy.open("r+b") as file:
        file.write(b"evil")


def test_hard_links_count_where_anybody_may_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").write_bytes(bytes(16))
    os.link(tmp_path / "elsewhere", tmp_path / "weights.bin")
    (tmp_path / "model.onnx").touch()
    files = VersionFiles("m/1", tmp_path, lambda digests: None)
    assert files._read_external(tmp_path / "model.onnx", "weights.bin").nbytes == 16
    (tmp_path / "setting").write_text("0\n")
    monkeypatch.setattr(version_files, "PROTECTED_HARDLINKS", tmp_path / "setting")
    files = VersionFiles("m/1", tmp_path, lambda digests: None)
    with pytest.raises(LoadError, match="has further names"):
        files._read_external(tmp_path / "model.onnx", "weights.bin")


def test_no_code_is_made_of_data_and_no_shell_is_used() -> None:
    own_copy = "scheduler_state.py"  # it takes apart what the same process has just pickled
    (package,) = duly.__path__
    wrong = []
    for path in Path(package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id="eval" | "exec" | "compile" | "__import__")):
                    wrong.append(f"{path.name}:{node.lineno}")
                case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr="system" | "popen")):
                    wrong.append(f"{path.name}:{node.lineno}")
                case ast.keyword(arg="shell" | "allow_pickle", value=ast.Constant(value=True)):
                    wrong.append(f"{path.name}:{node.lineno}")
                case ast.Import(names=names) if {"pickle", "marshal", "shelve", "yaml"} & {
                    n.name for n in names
                } and path.name != own_copy:
                    wrong.append(f"{path.name}:{node.lineno}")
    assert not wrong
