"""The Darknet converter: hand-computed outputs, the real network, and refusals by name."""

import os
import struct
from collections.abc import Sequence
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

from duly.demo import assets
from duly.demo.darknet import DarknetError, convert

# Line numbers matter to the tests of errors: [net] is line 1.
NET = "[net]\nwidth=2\nheight=2\nchannels=1\n"
REGION = "[region]\nnum=1\nclasses=1\ncoords=0\n"  # two channels: objectness and one class

# One 1x1 convolution of two filters, as linear as can be, that [region] above accepts.
LINEAR = "[convolutional]\nfilters=2\nactivation=linear\n"


def write_weights(path: Path, floats: Sequence[float], *, version: tuple[int, int] = (0, 2)) -> Path:
    """Write a weights file: header of ``version`` (images seen: 64 bits wide since 0.2, else 32), then ``floats``."""
    seen = struct.pack("<q" if version >= (0, 2) else "<i", 7)
    path.write_bytes(struct.pack("<iii", *version, 0) + seen + struct.pack(f"<{len(floats)}f", *floats))
    return path


def run_converted(
    folder: Path, cfg_text: str, floats: Sequence[float], images: Sequence[object], *, version: tuple[int, int] = (0, 2)
) -> npt.NDArray[np.float32]:
    """Convert, then return what ONNX Runtime makes of ``images``."""
    cfg = folder / "net.cfg"
    cfg.write_text(cfg_text)
    model = folder / "net.onnx"
    convert(cfg, write_weights(folder / "net.weights", floats, version=version), model)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (grid,) = session.run(["grid"], {"images": np.array(images, dtype=np.float32)})
    assert isinstance(grid, np.ndarray)
    return grid


def refusal(folder: Path, cfg_text: str, weights: bytes | Sequence[float] = ()) -> str:
    """Return the error of a conversion, having seen that it left no file behind."""
    cfg = folder / "net.cfg"
    cfg.write_text(cfg_text)
    if isinstance(weights, bytes):
        (folder / "net.weights").write_bytes(weights)
    else:
        write_weights(folder / "net.weights", weights)
    with pytest.raises(DarknetError) as caught:
        convert(cfg, folder / "net.weights", folder / "net.onnx")
    assert sorted(path.name for path in folder.iterdir()) == ["net.cfg", "net.weights"]
    return str(caught.value)


def test_linear_convolution_is_bias_plus_weight(tmp_path: Path) -> None:
    # Biases 10 and 20, then weights 1 and -2.
    grid = run_converted(tmp_path, NET + LINEAR + REGION, [10, 20, 1, -2], [[[[1, 2], [3, 4]]]])
    assert grid.tolist() == [[[[11, 12], [13, 14]], [[18, 16], [14, 12]]]]


def test_batch_norm_folds_and_leaky_keeps_a_tenth(tmp_path: Path) -> None:
    layer = "[convolutional]\nbatch_normalize=1\nfilters=2\nactivation=leaky\n"
    # Per filter: biases 1, 0; scales 4, -1; means 2, 0; variances 4, 1; weights 1, 1.
    grid = run_converted(tmp_path, NET + layer + REGION, [1, 0, 4, -1, 2, 0, 4, 1, 1, 1], [[[[0, 1], [2, 4]]]])
    # Filter 0: (x - 2) / 2 * 4 + 1 = 2x - 3; filter 1: -x; both with a tenth of what is below zero.
    expected = np.array([[[[-0.3, -0.1], [1, 5]], [[0, -0.1], [-0.2, -0.4]]]])
    np.testing.assert_allclose(grid, expected, rtol=0, atol=1e-5)


def test_maxpool_of_stride_one_hangs_over_at_the_bottom_and_the_right(tmp_path: Path) -> None:
    pool = "[maxpool]\nsize=2\nstride=1\n"
    # All negative: padding with zeros would show.
    grid = run_converted(tmp_path, NET + LINEAR + pool + REGION, [0, 0, 1, 2], [[[[-4, -3], [-2, -5]]]])
    assert grid.tolist() == [[[[-2, -3], [-2, -5]], [[-4, -6], [-4, -10]]]]


def test_maxpool_of_stride_two_halves(tmp_path: Path) -> None:
    net = "[net]\nwidth=4\nheight=2\nchannels=1\n"
    pool = "[maxpool]\nsize=2\nstride=2\n"
    grid = run_converted(tmp_path, net + LINEAR + pool + REGION, [0, 0, 1, 2], [[[[1, 5, 2, 3], [4, 0, 9, 8]]]])
    assert grid.tolist() == [[[[5, 9]], [[10, 18]]]]


def test_pad_keeps_the_size_of_a_three_by_three_convolution(tmp_path: Path) -> None:
    layer = "[convolutional]\nfilters=2\nsize=3\npad=1\nactivation=linear\n"
    left_neighbour = [0, 0, 0, 1, 0, 0, 0, 0, 0]  # Darknet correlates: the kernel is not flipped
    below = [0, 0, 0, 0, 0, 0, 0, 1, 0]
    grid = run_converted(tmp_path, NET + layer + REGION, [0, 0, *left_neighbour, *below], [[[[1, 2], [3, 4]]]])
    assert grid.tolist() == [[[[0, 1], [0, 3]], [[3, 4], [0, 0]]]]


def test_batch_size_is_free(tmp_path: Path) -> None:
    images = [[[[n, n], [n, n]]] for n in range(3)]
    grid = run_converted(tmp_path, NET + LINEAR + REGION, [0, 1, 1, 0], images)
    assert grid[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert grid[:, 1, 0, 0].tolist() == [1, 1, 1]


def test_header_before_version_0_2_is_four_bytes_shorter(tmp_path: Path) -> None:
    grid = run_converted(tmp_path, NET + LINEAR + REGION, [10, 20, 1, -2], [[[[1, 2], [3, 4]]]], version=(0, 1))
    assert grid[0, 0].tolist() == [[11, 12], [13, 14]]


def test_blanks_and_comments_mean_nothing(tmp_path: Path) -> None:
    cfg = "# a comment\n\n" + (NET + LINEAR + REGION).replace("=", " =\t") + "; another\n"
    grid = run_converted(tmp_path, cfg, [10, 20, 1, -2], [[[[1, 2], [3, 4]]]])
    assert grid[0, 0].tolist() == [[11, 12], [13, 14]]


def test_unknown_layer_is_named_with_its_line(tmp_path: Path) -> None:
    message = refusal(tmp_path, NET + "\n[shortcut]\nfrom=-3\n" + REGION)
    assert "line 6, [shortcut]: layer is not supported" in message


@pytest.mark.parametrize(
    ("layer", "problem"),
    [
        ("[convolutional]\nfilters=2\nactivation=mish\n", "line 7, [convolutional]: activation mish"),
        ("[convolutional]\nfilters=2\n", "line 5, [convolutional]: activation logistic"),
        ("[convolutional]\nactivation=leaky\ngroups=2\n", "line 7, [convolutional]: option groups=2"),
        ("[convolutional]\nactivation=leaky\nfilters=many\n", "line 7, [convolutional]: filters=many"),
        ("[convolutional]\nactivation=leaky\nstride=0\n", "line 7, [convolutional]: stride=0"),
        ("[convolutional]\nactivation=leaky\nsize=3\n", "line 5, [convolutional]: a window of 3"),
        ("[maxpool]\nsize=2\npadding=0\n", "line 7, [maxpool]: option padding=0"),
        (REGION + LINEAR, "line 5, [region]: must be the last section"),
        ("[convolutional]\nfilters=3\nactivation=linear\n", "line 8, [region]: anchors and classes need 2 channels"),
        (LINEAR + "filters\n", "line 8: neither a [section] nor a key=value"),
    ],
)
def test_what_would_change_the_result_is_refused(tmp_path: Path, layer: str, problem: str) -> None:
    assert problem in refusal(tmp_path, NET + layer + REGION)


def test_cfg_must_begin_with_net_and_end_with_region(tmp_path: Path) -> None:
    assert "line 1, [convolutional]: the first section must be [net]" in refusal(tmp_path, LINEAR + NET)
    assert "line 5, [convolutional]: the last section must be [region]" in refusal(tmp_path, NET + LINEAR)
    assert "no section" in refusal(tmp_path, "# nothing\n")


def test_missing_and_left_over_floats_are_counted(tmp_path: Path) -> None:
    cfg = NET + LINEAR + REGION
    assert "need 4 floats, the file has 1: 3 are missing" in refusal(tmp_path, cfg, [1])
    assert "need 4 floats, the file has 6: 2 are left over" in refusal(tmp_path, cfg, [1] * 6)
    assert "0 bytes hold no Darknet header" in refusal(tmp_path, cfg, b"")


def test_file_cut_within_a_float_says_so(tmp_path: Path) -> None:
    whole = write_weights(tmp_path / "net.weights", [1, 2, 3, 4]).read_bytes()
    message = refusal(tmp_path, NET + LINEAR + REGION, whole[:-1])
    assert "net.weights" in message
    assert "1 are missing and it ends within a float (3 bytes too many)" in message


@pytest.fixture(scope="module")
def yolo() -> dict[str, Path]:
    return assets.fetch(["yolov2-tiny.cfg", "yolov2-tiny.weights", "chelsea.png", "coco.names"], progress=False)


def test_truncated_real_weights_are_refused(tmp_path: Path, yolo: dict[str, Path]) -> None:
    cut = tmp_path / "cut.weights"
    cut.write_bytes(yolo["yolov2-tiny.weights"].read_bytes()[:-400])
    with pytest.raises(DarknetError, match=r"cut\.weights: .* need 11,237,145 floats.*: 100 are missing"):
        convert(yolo["yolov2-tiny.cfg"], cut, tmp_path / "yolo.onnx")
    assert not (tmp_path / "yolo.onnx").exists()


def test_real_network_sees_the_cat(tmp_path: Path, yolo: dict[str, Path]) -> None:
    cv2 = pytest.importorskip("cv2")
    model = tmp_path / "yolo.onnx"
    convert(yolo["yolov2-tiny.cfg"], yolo["yolov2-tiny.weights"], model)
    assert onnx.load(model).producer_name == "duly"
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert [(value.name, value.shape) for value in session.get_inputs()] == [("images", ["N", 3, 416, 416])]
    assert [(value.name, value.shape) for value in session.get_outputs()] == [("grid", ["N", 425, 13, 13])]

    picture = cv2.resize(cv2.imread(str(yolo["chelsea.png"])), (416, 416))[..., ::-1]
    images = (picture.astype(np.float32) / 255).transpose(2, 0, 1)[np.newaxis]
    grid = session.run(None, {"images": np.ascontiguousarray(images)})[0].reshape(5, 85, 13, 13)
    likelihood = np.exp(grid[:, 5:])
    scores = likelihood / likelihood.sum(1, keepdims=True) / (1 + np.exp(-grid[:, 4:5]))
    best = int(scores.max(axis=(0, 2, 3)).argmax())
    assert yolo["coco.names"].read_text().split("\n")[best] == "cat"
    # 0.647 by this decoding; OpenCV 4.14's own Darknet importer gives the same grid to 1.5e-4.
    assert scores.max() == pytest.approx(0.647, abs=0.01)
