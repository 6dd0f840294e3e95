"""A version that does not give what its check samples state is not served, and is told what differs where."""

from pathlib import Path

import numpy as np
import pytest

from duly.worker.errors import LoadError
from duly.worker.load_model import load
from tests import graphs
from tests.worker.loading import body_of

X = np.float32([1, 2, 3, 4])


def sample(folder: Path, arrays: dict[str, np.ndarray], file: str = "one.npz") -> None:
    folder.mkdir(exist_ok=True)
    np.savez(folder / file, **arrays)


def checked(root: Path, name: str = "m") -> str:
    """Why the first worker of the version would not load it; empty: it would."""
    try:
        load(body_of(root, name) | {"checks": True})
    except LoadError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"input.x": X, "output.y": X * 2}, ""),
        ({"input.x": X, "output.y": X * 2.001}, ""),
        (
            {"input.x": X, "output.y": X * np.float32([2, 2, 2.1, 2])},
            "m/1/checks/one.npz: output 'y' disagrees in 1 of 4 numbers: [2] is 6, the sample states 6.3 within 0.0001 "
            "and 0.001 of it (checks.absolute, checks.relative)",
        ),
        ({"input.x": X, "output.y": X[:3] * 2}, "output 'y' has shape [4], the sample states [3]"),
        ({"input.x": X, "output.y": np.full(4, np.nan)}, "[0] is 2, the sample states nan"),
        ({"output.y": X}, "m/1/checks/one.npz: lacks the array input.x; it needs input.x and has output.y"),
        ({"input.x": X}, "states no output; add an array such as output.y"),
        ({"input.x": X, "input.z": X, "output.y": X}, "has an array 'input.z'; arrays are called input.x, output.y"),
        ({"input.x": X.astype(np.float64), "output.y": X}, "input.x is float64, the model takes float32"),
        ({"input.x": X[:3], "output.y": X}, "one.npz: "),
        ({"input.x": np.array([{}, 1], object), "output.y": X}, "is no .npz file of plain numbers"),
    ],
)
def test_what_a_sample_states_is_compared(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    graphs.save(tmp_path, "m", graphs.scaling(), "batch_sizes = [1]\n")
    sample(tmp_path / "m/1/checks", arrays)
    found = checked(tmp_path)
    assert words in found
    assert bool(found) == bool(words)


def test_samples_of_a_stateful_model_begin_anew_and_leave_no_state(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.summing(), graphs.SUMMING)
    for file in ("a.npz", "b.npz"):
        arrays = {"input.x": np.float32([1, 2]), "output.y": np.float32([1, 2])}
        sample(tmp_path / "m/1/checks", arrays, file)
    assert checked(tmp_path) == ""


def test_samples_of_the_model_are_asked_of_every_version(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.scaling(factor=3.0), "[checks]\nsamples_min = 1\n")
    assert "checks.samples_min is 1, and m/1 has 0" in checked(tmp_path)
    sample(tmp_path / "m/checks", {"input.x": X, "output.y": X * 2})
    assert "m/checks/one.npz: output 'y' disagrees" in checked(tmp_path)
    graphs.save(tmp_path, "m", graphs.scaling(factor=3.0), "[checks]\nrelative = 0.6\n")
    assert checked(tmp_path) == ""


def test_a_less_accurate_variant_may_differ_and_must_run(tmp_path: Path) -> None:
    toml = '[[variant]]\nname = "a"\nfile = "a.onnx"\n[[variant]]\nname = "b"\nfile = "b.onnx"\n'
    graphs.save(tmp_path, "m", graphs.scaling(), toml, file="a.onnx")
    graphs.save(tmp_path, "m", graphs.scaling(factor=2.5), file="b.onnx")
    sample(tmp_path / "m/1/checks", {"input.x": X, "output.y": X * 2})
    assert checked(tmp_path) == ""


def test_a_replaced_worker_is_not_held_up_by_samples(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.scaling())
    sample(tmp_path / "m/1/checks", {"input.x": X, "output.y": X})
    load(body_of(tmp_path, "m"))


@pytest.mark.parametrize("junk", [b"", b"PK\x03\x04 and no archive", b"\x93NUMPY"])
def test_what_is_no_sample_says_so(tmp_path: Path, junk: bytes) -> None:
    graphs.save(tmp_path, "m", graphs.scaling(), "batch_sizes = [1]\n")
    (tmp_path / "m/1/checks").mkdir()
    (tmp_path / "m/1/checks/a.npz").write_bytes(junk)
    assert checked(tmp_path).startswith("m/1/checks/a.npz: is no .npz file of plain numbers")


@pytest.mark.holds_on("cpu", why="texts stay on the CPU")
def test_a_sample_states_text(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.joining_texts(("N", 2)))
    arrays = {"input.x": np.array(["a", "é"]), "output.y": np.array(["aa", "éé"])}
    sample(tmp_path / "m/1/checks", arrays)
    assert checked(tmp_path) == ""
    sample(tmp_path / "m/1/checks", arrays | {"output.y": np.array(["aa", "ée"])})
    assert "output 'y' disagrees in 1 of 2 texts: [1] is 'éé', the sample states 'ée'" in checked(tmp_path)
    sample(tmp_path / "m/1/checks", arrays | {"input.x": np.zeros(2)})
    assert "input.x is float64, the model takes str" in checked(tmp_path)


@pytest.mark.holds_on("cpu", "openvino", why="WebGPU's provider has no BF16")
@pytest.mark.parametrize("kind", [np.uint16, "V2"])
def test_a_sample_states_bf16(tmp_path: Path, kind: object) -> None:
    graphs.save(tmp_path, "m", graphs.doubling_halves())
    one, two = np.full(4, 0x3F80, np.uint16), np.full(4, 0x4000, np.uint16)
    sample(tmp_path / "m/1/checks", {"input.x": one.view(kind), "output.y": two.view(kind)})
    assert checked(tmp_path) == ""
    sample(tmp_path / "m/1/checks", {"input.x": one.view(kind), "output.y": one.view(kind)})
    assert "[0] is 2, the sample states 1" in checked(tmp_path)
