"""Files that are called model.onnx and are something else, or not whole: each is told with what to do."""

import gzip
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from duly.worker.errors import LoadError
from duly.worker.load_model import load
from tests import graphs
from tests.worker.loading import body_of, reason_of


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), "x")  # with a date that stays
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"))
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


WHOLE = graphs.doubling().SerializeToString()
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 132735\n"


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "is empty (0 bytes); copy or export it again"),
        (LFS, "is a pointer of Git LFS, not the file itself; fetch that: git lfs pull"),
        (
            b"\n<!DOCTYPE html>\n<html lang=en>",
            "is a web page (HTML); download the file itself, such as by its raw link",
        ),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is XML, not a model; download"),
        (
            b"<?xml version='1.0'?>\n<net name='x' version='11'>",
            "is OpenVINO's; give the ONNX file that it was converted",
        ),
        (b'{"error": "Repository not found"}', "is JSON, not a model; download or export it again"),
        (bytes(5000), "begins with 4,096 bytes of zero: a copy or download that did not end; copy it again"),
        (zipped("archive/data.pkl", "archive/data/0"), "is PyTorch's; export it: torch.onnx.export("),
        (
            zipped("config.json", "model.weights.h5"),
            'is Keras\'s; export it: model.export("model.onnx", format="onnx")',
        ),
        (zipped("net/best.onnx"), "is an archive (zip) that holds net/best.onnx; unpack it"),
        (zipped("net/best.onnx")[:60], "is an archive (zip), and not a whole one; copy it again and unpack it"),
        (pickle.dumps({"a": 1}), "is a Python pickle; export it with skl2onnx"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "is Keras's; export it"),
        (b"\x1c\0\0\0TFL3" + bytes(50), "is TensorFlow Lite's; convert it: python -m tf2onnx.convert --tflite"),
        (
            b"\x08\x01\x12\x09\x0a\x07\x22\x05serve",
            "is TensorFlow's; convert it: python -m tf2onnx.convert --saved-model",
        ),
        (b"ftrt" + bytes(50), "is an engine of TensorRT, made for one kind of GPU; give the ONNX file"),
        (b'\x10\0\0\0\0\0\0\0{"w":{"dtype":1}}' + bytes(9), "is weights without a graph"),
        (b"GGUF\3\0\0\0", "is weights without a graph"),
        (b"\x18\0\0\0ORTM\0\0\0\0", "is of ONNX Runtime's own format, which is not served; give the ONNX file"),
        (gzip.compress(WHOLE, mtime=0), "is compressed (gzip); unpack it"),
        (tarred(), "is an archive (tar); unpack it"),
        (array(), "is an array of NumPy; export the model"),
        (WHOLE[:-3], "is not a whole ONNX file"),
        (WHOLE[: len(WHOLE) // 2], "is not a whole ONNX file"),
    ],
)
def test_a_file_that_is_something_else_is_told_with_what_would_do(tmp_path: Path, contents: bytes, words: str) -> None:
    graphs.save(tmp_path, "m", graphs.doubling())
    (tmp_path / "m/1/model.onnx").write_bytes(contents)
    assert reason_of(tmp_path, "m").startswith(f"m/1/model.onnx: {words}")


def test_more_than_a_protobuf_holds(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.doubling())
    os.truncate(tmp_path / "m/1/model.onnx", 2_500_000_000)  # sparse
    assert reason_of(tmp_path, "m") == (
        "m/1/model.onnx: is 2.5 GB in one file, and ONNX files end at 2 GiB (2.1 GB); export it with external data: "
        "onnx.save(model, path, save_as_external_data=True)"
    )


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A repository with model m, whose weights lie in weights.bin beside it."""
    proto = graphs.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [graphs.value("x", ["N", 40])],
        [graphs.value("y", ["N", 40])],
        {"w": np.eye(40, dtype=np.float32)},
    )
    folder = tmp_path / "m/1"
    folder.mkdir(parents=True)
    onnx.save(proto, folder / "model.onnx", save_as_external_data=True, location="weights.bin")
    (tmp_path / "m/model.toml").write_text("warmup_runs = 3\n")
    load(body_of(tmp_path, "m"))
    return tmp_path


def moved_up(folder: Path) -> None:
    (folder / "weights.bin").rename(folder.parent / "weights.bin")


def renamed(folder: Path) -> None:
    (folder / "weights.bin").rename(folder / "model.onnx.data")


def gone(folder: Path) -> None:
    (folder / "weights.bin").unlink()


def linked_out(folder: Path) -> None:
    store = folder.parents[2] / f"{folder.parents[1].name}-store"
    store.mkdir()
    (folder / "weights.bin").rename(store / "blob")
    (folder / "weights.bin").symlink_to(store / "blob")


def pointed_to(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(LFS)


def emptied(folder: Path) -> None:
    os.truncate(folder / "weights.bin", 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            moved_up,
            "weights.bin is missing; m/weights.bin is there: move it to where the graph names it, weights.bin bes",
        ),
        (renamed, "weights.bin is missing; model.onnx.data lies there: was it renamed? Call it weights.bin"),
        (gone, "weights.bin is missing; put it into the same folder"),
        (linked_out, "weights.bin is a link or path out of the folder; copy the file itself into the folder (cp -L)"),
        (pointed_to, "weights.bin is a pointer of Git LFS, not the file itself; fetch that: git lfs pull"),
        (
            emptied,
            "weights.bin is cut off (is it still being written?): it does not hold all of w; copy or export both",
        ),
    ],
)
def test_external_data_that_cannot_be_read(external: Path, change: Callable[[Path], None], words: str) -> None:
    change(external / "m/1")
    assert reason_of(external, "m").startswith(f"m/1/model.onnx: its external data file {words}")


@pytest.mark.parametrize(
    ("op", "domain", "words"),
    [
        ("BPETokenizer", "ai.onnx.contrib", "operator ai.onnx.contrib:BPETokenizer is one of onnxruntime-extensions"),
        ("EfficientNMS_TRT", "trt.plugins", "operator trt.plugins:EfficientNMS_TRT is a plugin of TensorRT"),
        ("ATen", "org.pytorch.aten", "operator org.pytorch.aten:ATen is one of PyTorch that has no ONNX form"),
        ("Warp", "acme", "operator acme:Warp is not part of ONNX Runtime, and libraries of custom operators are not"),
    ],
)
def test_operators_of_others_are_named_with_whose_they_are(tmp_path: Path, op: str, domain: str, words: str) -> None:
    proto = graphs.doubling()
    proto.graph.node[0].op_type, proto.graph.node[0].domain = op, domain
    del proto.graph.node[0].input[1]
    proto.opset_import.append(helper.make_opsetid(domain, 1))
    graphs.save(tmp_path, "m", proto)
    assert reason_of(tmp_path, "m").startswith(f"m/1/model.onnx: {words}")


def test_complex_numbers_and_graphs_that_are_not_valid(tmp_path: Path) -> None:
    graphs.save(tmp_path, "complex", graphs.copying(["N", 2], onnx.TensorProto.COMPLEX64))
    assert "complex/1/model.onnx: has a tensor of complex64, which ONNX Runtime does not run" in reason_of(
        tmp_path, "complex"
    )
    proto = graphs.doubling()
    proto.graph.node[0].input[0] = "nowhere"
    graphs.save(tmp_path, "cut", proto)
    assert reason_of(tmp_path, "cut") == (
        "cut/1/model.onnx: is not a valid graph: Node input 'nowhere' is not a graph input, initializer, or output of "
        "a previous node; export it again, see onnx.checker.check_model"
    )


def test_an_opset_beyond_the_runtime_tells_up_to_which_it_goes(tmp_path: Path) -> None:
    proto = graphs.doubling()
    proto.opset_import[0].version = 77
    graphs.save(tmp_path, "m", proto)
    with pytest.raises(
        LoadError, match=r"needs opset 77 of ai\.onnx, .* up to (\d+); .* \(opset_version=\1\), or install"
    ):
        load(body_of(tmp_path, "m"))
