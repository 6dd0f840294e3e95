"""Models that can't be loaded: each reason is one sentence that names file, place and what would be right."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from duly.worker import channel
from duly.worker.errors import LoadError
from duly.worker.load_model import HOLLOW_NOTE, load
from tests import graphs
from tests.worker.client import LoadFailed, Worker, version_of
from tests.worker.loading import body_of, reason_of

pytestmark = pytest.mark.holds_on(
    "cpu", why="graphs fail in words of their providers; many in a process end it with OpenVINO"
)


def test_worker_tells_the_server_why_and_ends(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.doubling(), "[constants]\nrate = 1\n")
    with pytest.raises(LoadFailed) as failed:
        Worker(version_of(tmp_path, "m"))
    assert str(failed.value) == "m/model.toml: constants.rate: the graph has no input 'rate'; it has: x"


# ---- the file ----


@pytest.mark.parametrize("contents", [b"hello world" * 100, b"\x08\x08"])
def test_damaged_file(tmp_path: Path, contents: bytes) -> None:
    graphs.save(tmp_path, "m", graphs.doubling())
    (tmp_path / "m/1/model.onnx").write_bytes(contents)
    size = f"{len(contents):,} bytes; is it still being written?"
    assert reason_of(tmp_path, "m") == f"m/1/model.onnx: is not a whole ONNX file ({size}); copy or export it again"


def test_file_that_is_gone_since_the_scan(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.doubling())
    body = body_of(tmp_path, "m")
    (tmp_path / "m/1/model.onnx").unlink()
    with pytest.raises(LoadError, match=r"^m/1/model\.onnx: there is no such file$"):
        load(body)


def test_external_data(tmp_path: Path) -> None:
    proto = graphs.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [graphs.value("x", ["N", 300])],
        [graphs.value("y", ["N", 300])],
        {"w": np.eye(300, dtype=np.float32)},
    )
    folder = tmp_path / "m/1"
    folder.mkdir(parents=True)
    onnx.save(proto, folder / "model.onnx", save_as_external_data=True, location="weights.bin")
    load(body_of(tmp_path, "m"))
    os.truncate(folder / "weights.bin", 1000)
    assert reason_of(tmp_path, "m") == (
        "m/1/model.onnx: its external data file weights.bin is cut off (is it still being written?): it does not hold "
        "all of w; copy or export both files again"
    )
    (folder / "weights.bin").unlink()
    assert reason_of(tmp_path, "m") == (
        "m/1/model.onnx: its external data file weights.bin is missing; put it into the same folder"
    )


def one_node(op_type: str, kind: int = TensorProto.FLOAT, *, opset: int = 17, domain: str = "", ir: int = 8) -> Any:
    domains = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    node = helper.make_node(op_type, ["x"], ["y"], domain=domain)
    graph = helper.make_graph([node], "graph", [graphs.value("x", ["N", 4], kind)], [graphs.value("y", ["N", 4], kind)])
    return helper.make_model(graph, opset_imports=domains, ir_version=ir)


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (
            one_node("Relu", opset=99),
            r"needs opset 99 of ai\.onnx, the installed .* knows up to \d+; export it with a lower",
        ),
        (
            one_node("Relu", ir=99),
            r"has IR version 99, the installed ONNX Runtime knows up to \d+; export it with a lower",
        ),
        (one_node("Frob"), r"operator Frob does not exist in opset 17; export it with the operators of ONNX"),
        (
            one_node("Frob", domain="acme"),
            r"operator acme:Frob is not part of ONNX Runtime, and libraries of custom operators are not loaded; export",
        ),
        (
            one_node("Hardmax", TensorProto.DOUBLE),
            r"operator Hardmax of opset 13 has no implementation for its element",
        ),
        (
            one_node("Relu", TensorProto.STRING),
            r"is not a valid graph: Type 'tensor\(string\)' of input parameter \(x\) of operator \(Relu\) .* invalid;",
        ),
        (
            graphs.model(
                [helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale="xx_XX")],
                [graphs.value("x", ["N"], TensorProto.STRING)],
                [graphs.value("y", ["N"], TensorProto.STRING)],
            ),
            r"needs the locale xx_XX for upper and lower case, which this machine does not have; install it",
        ),
    ],
)
def test_graph_that_the_runtime_refuses(tmp_path: Path, proto: onnx.ModelProto, reason: str) -> None:
    graphs.save(tmp_path, "m", proto)
    assert re.match(rf"m/1/model\.onnx: {reason}", found := reason_of(tmp_path, "m")), found


def test_graph_that_takes_no_batch_though_it_says_so(tmp_path: Path) -> None:
    # y = x reshaped to [1, 4], which the graph hides: the 1 comes out of the data.
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["nothing"]),
        helper.make_node("ReduceSum", ["nothing"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["whole", "dims"], ["shape"]),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    constants = {"zero": np.float32(0), "dims": np.int64([1, 4])}
    proto = graphs.model(nodes, [graphs.value("x", ["N", 4])], [graphs.value("y", ["N", 4])], constants)
    graphs.save(tmp_path, "m", proto)
    assert re.fullmatch(
        r"m/1/model\.onnx: warm-up with a batch of 2: Reshape node '': .*requested shape:\{1,4\}; "
        r"if the graph takes no such batch, set batch_sizes",
        found := reason_of(tmp_path, "m"),
    ), found
    graphs.save(tmp_path, "m", proto, "batch_sizes = [1]\n")
    assert load(body_of(tmp_path, "m")).ready["signature"]["batch_sizes"] == [1]


def test_output_whose_first_dimension_is_not_the_batch(tmp_path: Path) -> None:
    node = helper.make_node("NonZero", ["x"], ["y"])
    proto = graphs.model([node], [graphs.value("x", ["N", 4])], [graphs.value("y", [None, "K"], TensorProto.INT64)])
    graphs.save(tmp_path, "m", proto)
    assert reason_of(tmp_path, "m") == (
        "m/model.toml: output: the graph's 'y' has 2 rows, not one for each frame of a batch of any of [1, 2, 4, 8]; "
        "say batched = false under its [[output]] for frames to run one at a time and get all of it: "
        'output = [{ name = "y", batched = false }]'
    )
    node = helper.make_node("Compress", ["x", "which"], ["y"], axis=0)
    inputs = [graphs.value("x", ["N", 4]), graphs.value("which", ["N"], TensorProto.BOOL)]
    proto = graphs.model([node], inputs, [graphs.value("y", ["K", 4])])
    graphs.save(tmp_path, "m", proto, '[[output]]\nname = "y"\nbatched = true\n')
    assert reason_of(tmp_path, "m") == (
        "m/1/model.onnx: warm-up with a batch of 1: Compress node '': output 'y' has shape {0,4}; {1,4} was expected: "
        "one row for each frame of the batch"
    )


# ---- model.toml against the graph ----

PICTURE = graphs.doubling(["N", 3, 8, 8])
SOUND = graphs.doubling(["N", 12])
GRID = graphs.doubling(["N", 14, 2, 2])
FIXED = graphs.doubling([4, 3])


def step(text: str, proto: onnx.ModelProto = PICTURE) -> tuple[onnx.ModelProto, str]:
    return proto, f'[[input]]\nname = "x"\n{text}\n'


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (
            (SOUND, '[[input]]\nname = "a"\n'),
            "input[0].name: the graph has no input 'a'; it has: x; where clients call one of them so, say which: "
            'tensor = "x"',
        ),
        ((SOUND, '[[input]]\nname = "a"\ntensor = "b"\n'), "input[0].tensor: the graph has no input 'b'; it has: x"),
        (
            (SOUND, '[[output]]\nname = "z"\n'),
            "output[0].name: the graph has no output 'z'; it has: y; where clients call one of them so, say which: "
            'tensor = "y"',
        ),
        ((SOUND, '[[state]]\noutput = "z"\ninput = "x"\n'), "state[0].output: the graph has no output 'z'; it has: y"),
        ((SOUND, '[[state]]\noutput = "y"\ninput = "z"\n'), "state[0].input: the graph has no input 'z'; it has: x"),
        (
            (SOUND, '[[state]]\noutput = "y"\ninput = "x"\nbatch_axis = 1\n'),
            "state[0].input: 'x' has shape ['N', 12]; only axis 1, the batch, may be open: export it with the others "
            "fixed, or set batch_axis; a state that grows clients keep themselves, without [[state]]",
        ),
        (
            (SOUND, '[[state]]\noutput = "y"\ninput = "x"\n'),
            "input: clients have nothing to send; the graph's inputs are: x",
        ),
        ((SOUND, "[constants]\nx = 1\n"), "input: clients have nothing to send; the graph's inputs are: x"),
        (
            (SOUND, '[[input]]\nname = "x"\n[constants]\nx = 1\n'),
            "constants.x: graph input 'x' is fed by input[0] already",
        ),
        (
            (graphs.summing(), '[[input]]\nname = "x"\n'),
            "input: nothing feeds graph input 'total'; add an input, a state or a constant for it: [[input]] with "
            'name = "total"',
        ),
        (
            (FIXED, "batch_sizes = [1, 2]\n"),
            "batch_sizes: the graph takes batches of 4 alone, so that [4] it must be",
        ),
        (
            (graphs.doubling([]), ""),
            "graph input 'x': 'x' has no dimensions as far as the graph tells; where it is one number for all frames, "
            "say so at the top of model.toml: constants = { x = 0.5 }, with its value in place of 0.5; else export it "
            "with a batch dimension",
        ),
        (
            step("shape = [13]", SOUND),
            "input[0]: what is sent becomes [13] a frame, but the graph's 'x' takes [12]; write shape = [12], or leave "
            "it out",
        ),
        (
            step('datatype = "INT64"', SOUND),
            "input[0]: INT64 can't become FP32, which the graph's 'x' takes; set datatype = \"FP32\", or leave it out",
        ),
        (step("bytes_max = 47", SOUND), "input[0].bytes_max: 47 is less than the 48 bytes of FP32[12]"),
        (
            step('preprocess = [{ op = "window", samples = 8, context = 3 }]', SOUND),
            "input[0]: what is sent becomes [11] a frame, but the graph's 'x' takes [12]; change shape or preprocess",
        ),
        (
            step('shape = [9]\npreprocess = [{ op = "window", samples = 8, context = 4 }]', SOUND),
            "input[0].shape: [9] is not the window's [8]; leave it out",
        ),
        (
            step('datatype = "INT16"\nencodings = ["PCM_S16LE"]', SOUND),
            "input[0]: sound is FP32 with one dimension, the samples, not INT16[12]",
        ),
        (
            step('preprocess = [{ op = "normalise", mean = [1.0, 2.0] }]', SOUND),
            "input[0].preprocess: normalise.mean has 2 values; it must have 1, or one for each of the 12 channels",
        ),
        (
            step('preprocess = [{ op = "layout" }, { op = "resize", width = 8, height = 8 }]'),
            "input[0].preprocess[1]: resize can't follow layout; the order is gray, resize, window, normalise, "
            "layout, "
            "each at most once",
        ),
        (
            step('encodings = ["JPEG"]\npreprocess = [{ op = "resize", width = 9, height = 8 }, { op = "layout" }]'),
            "input[0]: what is sent becomes [3, 8, 9] a frame, but the graph's 'x' takes [3, 8, 8]; change shape or "
            "preprocess",
        ),
        (step('encodings = ["JPEG"]', SOUND), "input[0]: a picture has 3 dimensions, the graph takes [12] a frame"),
        (
            step('encodings = ["JPEG", "PCM_S16LE"]'),
            "input[0]: an input is a picture or sound, not both; see its encodings and preprocess",
        ),
        (
            step('encodings = ["JPEG"]\nshape = [8, 8]\npreprocess = [{ op = "layout" }]'),
            "input[0].shape: [8, 8] is no picture; it must be [height, width, channels]",
        ),
        (
            step('encodings = ["JPEG"]\ndatatype = "FP32"\npreprocess = [{ op = "layout" }]'),
            "input[0].datatype: a JPEG is UINT8, not FP32; what the graph takes may be another type, such as FP32: the "
            "values are cast",
        ),
        (
            step('datatype = "INT32"\npreprocess = [{ op = "resize", width = 8, height = 8 }, { op = "layout" }]'),
            "input[0].datatype: a picture is UINT8 or UINT16 or FP32, not INT32",
        ),
        (
            step('datatype = "UINT16"\nencodings = ["PNG", "JPEG"]\npreprocess = [{ op = "layout" }]'),
            "input[0].datatype: a JPEG is UINT8, not UINT16; what the graph takes may be another type, such as FP32: "
            "the values are cast",
        ),
        (
            step(
                'datatype = "UINT16"\n'
                'preprocess = [{ op = "resize", width = 8, height = 8, mode = "letterbox" }, { op = "layout" }]'
            ),
            "input[0].preprocess: resize.pad: letterbox of UINT16 has no usual pad; state one",
        ),
        (
            step('preprocess = [{ op = "resize", width = 8, height = 8, mode = "letterbox", pad = 256 }]'),
            "input[0].preprocess: resize.pad: 256 is no UINT8; it must be 0 to 255",
        ),
        (
            step('preprocess = [{ op = "layout", colours = "BGR" }]', graphs.doubling(["N", 4, 8, 8])),
            "input[0]: layout.colours: BGR needs 3 channels, not 4",
        ),
        (
            (GRID, '[postprocess]\nop = "yolo_v2"\ntensor = "z"\nanchors = [[1.0, 1.0]]\n'),
            "postprocess.tensor: the graph has no output 'z'; it has: y",
        ),
        (
            (GRID, '[postprocess]\nop = "yolo_v2"\ntensor = "y"\nanchors = [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]\n'),
            "postprocess.anchors: 3 anchors do not fit the grid's 14 channels, which must be anchors * (5 + classes)",
        ),
        (
            (SOUND, '[postprocess]\nop = "yolo_v2"\ntensor = "y"\nanchors = [[1.0, 1.0]]\n'),
            "postprocess.tensor: 'y' is FP32['N', 12]; a grid must be of floating point and [batch, channels, H, W] "
            "with its channels fixed",
        ),
        (
            (
                GRID,
                '[[output]]\nname = "boxes"\ntensor = "y"\n[postprocess]\nop = "yolo_v2"\ntensor = "y"\n'
                "anchors = [[1.0, 1.0], [2.0, 2.0]]\n",
            ),
            "output: 'boxes' is there twice, once from postprocess; give the other a name of its own",
        ),
        (
            (SOUND, '[[output]]\nname = "a"\ntensor = "y"\n[[output]]\nname = "b"\ntensor = "y"\n'),
            "output[1]: 'y' is sent already",
        ),
    ],
)
def test_what_does_not_fit_the_graph(tmp_path: Path, case: tuple[onnx.ModelProto, str], reason: str) -> None:
    graphs.save(tmp_path, "m", *case)
    assert reason_of(tmp_path, "m") == f"m/model.toml: {reason}"


def test_constant_must_be_of_the_graphs_type(tmp_path: Path) -> None:
    proto = graphs.model(
        [helper.make_node("Add", ["x", "c"], ["y"])],
        [graphs.value("x", ["N", 2], TensorProto.UINT8), graphs.value("c", [], TensorProto.UINT8)],
        [graphs.value("y", ["N", 2], TensorProto.UINT8)],
    )
    for constant in ("256", "-1", "1.5"):
        graphs.save(tmp_path, "m", proto, f"[constants]\nc = {constant}\n")
        assert reason_of(tmp_path, "m") == (
            f"m/model.toml: constants.c: {constant} is no UINT8, which the graph's input is"
        )


def test_state_is_not_for_clients(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.summing(), graphs.SUMMING + '[[output]]\nname = "total_next"\n')
    assert reason_of(tmp_path, "m") == ("m/model.toml: output[0]: 'total_next' is a state, which stays on the server")


STATE = '[[state]]\noutput = "s2"\ninput = "s"\n'


def with_state(
    x: graphs.Dims, state: graphs.Dims, out: graphs.Dims | None = None, kind: int = graphs.FP32
) -> onnx.ModelProto:
    """y = 2 x, and a state that goes through the graph and comes out as `out` and `kind`."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Cast", ["s"], ["t"], to=kind)]
    twice = ["t", "t"] if out else ["t"]
    nodes.append(helper.make_node("Concat", twice, ["s2"], axis=1) if state else helper.make_node("Neg", ["t"], ["s2"]))
    outputs = [graphs.value("y", x), graphs.value("s2", out or state, kind)]
    return graphs.model(nodes, [graphs.value("x", x), graphs.value("s", state)], outputs)


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (with_state(["batch", 4], [2, "batch", 3]), "state[0]: the first dimension of 's', [2, batch, 3], is not the"),
        (with_state(["N", 4], [2, 1, 3]), "is not the batch; say batch_axis = 1 under its [[state]], or batched = fal"),
        (with_state([1, 4], [3, 1, 5]), "say batch_axis = 1 under its [[state]]"),
        (with_state([1, 4], [5, 3]), "{'x': 1, 's': 5}; export it with one size for all, or say batched = false at"),
        (
            with_state(["N", 4], []),
            "0 is no axis of 's', shape []; where the graph has no batch dimension, say batched",
        ),
        (
            with_state(["N", 4], ["N", 3], kind=graphs.FP16),
            "a state comes out as it goes in: export both with one type",
        ),
        (with_state(["N", 4], ["N", 3], ["N", 6]), "output 's2' has an extent of 6 in dimension 1, 3 was expected the"),
    ],
)
def test_states_of_odd_shapes_are_told_with_the_line_that_helps(
    tmp_path: Path, proto: onnx.ModelProto, reason: str
) -> None:
    graphs.save(tmp_path, "m", proto, STATE)
    assert reason in reason_of(tmp_path, "m")


@pytest.mark.parametrize(
    ("proto", "toml"),
    [
        (with_state(["batch", 4], [2, "batch", 3]), STATE + "batch_axis = 1\n"),
        (with_state(["N", 4], [2, 1, 3]), STATE + "batch_axis = 1\n"),
        (with_state([1, 4], [5, 3]), "batched = false\n" + STATE),
        (with_state(["N", 4], []), "batched = false\n" + STATE),
    ],
)
def test_states_of_odd_shapes_are_served_with_these_lines(tmp_path: Path, proto: onnx.ModelProto, toml: str) -> None:
    graphs.save(tmp_path, "m", proto, toml)
    assert load(body_of(tmp_path, "m")).ready["signature"]["stateful"]


def test_batch_must_fit_a_message_of_the_channel(tmp_path: Path) -> None:
    count = 20
    nodes = [helper.make_node("Relu", ["x"], [f"y{index}"]) for index in range(count)]
    outputs = [graphs.value(f"y{index}", ["N", 1]) for index in range(count)]
    proto = graphs.model(nodes, [graphs.value("x", ["N", 1])], outputs)
    graphs.save(tmp_path, "m", proto, "batch_sizes = [1, 256]\n")
    assert reason_of(tmp_path, "m") == (
        "m/model.toml: batch_sizes: a batch of 256 with 20 tensors a frame is more than one message to the worker "
        "holds; set batch_sizes to at most [204]"
    )
    graphs.save(tmp_path, "m", proto, "batch_sizes = [1, 204]\n")
    load(body_of(tmp_path, "m"))


def test_profile_of_many_sizes_fits_a_message_too(tmp_path: Path) -> None:
    sizes = list(range(1, 101))
    graphs.save(tmp_path, "m", graphs.doubling(), f"batch_sizes = {sizes}\n")
    body = body_of(tmp_path, "m")
    ready = load(body | {"config": body["config"] | {"warmup_runs": 101}}).ready
    (variant,) = ready["variants"]
    assert [int(size) for size in variant["samples_ns"]] == sizes
    assert all(len(times) == 100 for times in variant["samples_ns"].values())
    assert len(channel.encode_text(channel.READY, ready)) < channel.MESSAGE_BYTES_MAX


def test_room_must_be_there_for_a_picture(tmp_path: Path) -> None:
    toml = '[[input]]\nname = "x"\nencodings = ["JPEG"]\nbytes_max = 100\n'
    resize = 'preprocess = [{ op = "resize", width = 8, height = 8 }, { op = "layout" }]\n'
    graphs.save(tmp_path, "m", PICTURE, toml + resize)
    assert reason_of(tmp_path, "m") == (
        "m/1/model.onnx: input 'x': bytes_max 100 leaves room for no frame; raise it, or the server's limits"
    )


@pytest.mark.parametrize(
    ("toml", "told"), [('labels = "names.txt"\n', True), ("", False), ("output_finite = true\n", True)]
)
def test_a_graph_that_never_gives_finite_numbers_is_told_when_it_is_loaded(
    tmp_path: Path, toml: str, told: bool
) -> None:
    masks = {"mask": np.float32([0, 0, 0, -np.inf])}
    node = helper.make_node("Add", ["x", "mask"], ["y"])
    x, y = graphs.value("x", ["N", 4]), graphs.value("y", ["N", 4])
    graphs.save(tmp_path, "m", graphs.model([node], [x], [y], masks), toml)
    (tmp_path / "m" / "names.txt").write_text("a\nb\nc\nd\n")
    notes = load(body_of(tmp_path, "m", checks=True)).ready["notes"]
    assert [f"m/1/model.onnx: {HOLLOW_NOTE}"] * told == notes
