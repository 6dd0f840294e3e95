"""What a stream begins with, where a file says it."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from duly.cli_models import models
from duly.worker.load_model import load
from tests import graphs
from tests.worker.client import Worker, version_of
from tests.worker.loading import body_of, reason_of

TOML = graphs.SUMMING + 'initial = "initial_state/first"\n'


def save(root: Path, axis: int = 0, toml: str = TOML, data: bytes = np.array([10, 20], "<f4").tobytes()) -> Path:
    graphs.save(root, "m", graphs.summing(axis), toml + (f"batch_axis = {axis}\n" if axis else ""))
    (root / "m" / "initial_state").mkdir(exist_ok=True)
    (root / "m" / "initial_state" / "first").write_bytes(data)
    return root


@pytest.mark.parametrize("axis", [0, 1])
def test_streams_begin_with_what_the_file_holds(tmp_path: Path, axis: int) -> None:
    with Worker(version_of(save(tmp_path, axis), "m")) as worker:
        x = [np.float32([1, 2])]
        assert [o.outputs["y"].tolist() for o in worker.run([x, x], [1, 2])] == [[11, 22], [11, 22]]
        assert [o.outputs["y"].tolist() for o in worker.run([x, x], [3, 1])] == [[11, 22], [12, 24]]
        assert [o.outputs["y"].tolist() for o in worker.run([x], [1], [True])] == [[11, 22]]
        worker.forget(2)
        assert [o.outputs["y"].tolist() for o in worker.run([x], [2])] == [[11, 22]]
        assert "m/initial_state/first" in worker.files  # it is part of what the version is


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes(4), "initial_state/first has 4 bytes; float32[2] has 8"),
        (bytes(12), "initial_state/first has 12 bytes; 8 are expected"),
    ],
)
def test_a_file_of_another_size_is_named(tmp_path: Path, data: bytes, reason: str) -> None:
    assert reason_of(save(tmp_path, data=data), "m") == f"m/model.toml: state[0].initial: {reason}"


def test_a_file_that_is_not_there_or_elsewhere_is_named(tmp_path: Path) -> None:
    toml = graphs.SUMMING + 'initial = "{}"\n'
    place = "m/model.toml: state[0].initial: "
    assert reason_of(save(tmp_path, toml=toml.format("nothing")), "m").startswith(f"{place}nothing ")
    reason = reason_of(save(tmp_path, toml=toml.format("../m/1/model.onnx")), "m")
    assert reason == f'{place}"../m/1/model.onnx" leaves the folder; name a file in it'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('datatype = "INT64"', "state[0].datatype: INT64 is stated, the graph's 'total' is FP32"),
        ("shape = [3]", "state[0].shape: [3] is stated, the graph's 'total' has [2] for a stream"),
        ("shape = [2, 1]", "state[0].shape: [2, 1] is stated, the graph's 'total' has [2] for a stream"),
    ],
)
def test_a_state_is_what_is_stated(tmp_path: Path, line: str, reason: str) -> None:
    root = graphs.save(tmp_path, "m", graphs.summing(), f"{graphs.SUMMING}{line}\n")
    assert reason_of(root, "m") == f"m/model.toml: {reason}"


def test_a_manifest_holds_for_the_file_and_for_config_pbtxt(tmp_path: Path) -> None:
    root = tmp_path / "models"
    pbtxt = (
        "max_batch_size: 2 sequence_batching { state { input_name: 'total' output_name: 'total_next' dims: 2\n"
        "initial_state { data_file: 'first' } } }"
    )
    save(root)
    (root / "m" / "model.toml").unlink()
    (root / "m" / "config.pbtxt").write_text(pbtxt)
    assert CliRunner().invoke(models, ["manifest", str(root), "m"]).exit_code == 0
    listed = (root / "m" / "1" / "sha256sums").read_text()
    assert {line.split("  ")[1] for line in listed.splitlines()} == {
        "model.onnx",
        "../config.pbtxt",
        "../initial_state/first",
    }
    trust = {"manifests": "require"}
    assert load(body_of(root, "m", trust=trust)).models
    (root / "m" / "initial_state" / "first").write_bytes(bytes(8))
    assert "../initial_state/first" in reason_of(root, "m", trust=trust)
    save(root)
    (root / "m" / "model.toml").unlink()
    (root / "m" / "config.pbtxt").write_text(pbtxt.replace("max_batch_size: 2", "max_batch_size: 3"))
    assert "../config.pbtxt" in reason_of(root, "m", trust=trust)
    (root / "m" / "config.pbtxt").unlink()
    assert "../config.pbtxt is listed in sha256sums and is not there" in reason_of(root, "m", trust=trust)
