"""Tables of ranges: those that ONNX Runtime's own calibrator finds, written so that its providers read them, and told
to them by their own options.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import helper

from duly.accelerators import CUDA, MIGRAPHX, TENSORRT, of_provider
from duly.cli_models import models
from duly.models.repository import ModelVersion
from duly.models.spec import Provider
from duly.worker.calibration import Table, read_table, with_table
from duly.worker.engines import Engines, NoLink
from duly.worker.errors import LoadError
from duly.worker.load_model import load
from duly.worker.version_files import VersionFiles
from duly_learn.optimize.calibrate import best_reach, write_table
from duly_learn.optimize.ranges import Histogram
from tests import graphs
from tests.worker.client import load_body, version_of

FRAMES = 40
SHAPE = (3, 12, 12)


def network() -> onnx.ModelProto:
    """Convolution, rectifier and a matrix product, with a tensor that is never negative and one that is always zero."""
    rng = np.random.default_rng(3)
    weights = {
        "w": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "dense": rng.standard_normal((8, 5)).astype(np.float32),
        "none": np.zeros((5,), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "dense"], ["m"], "matmul"),
        helper.make_node("Mul", ["m", "none"], ["zero"], "mul"),
        helper.make_node("Sub", ["m", "zero"], ["y"], "sub"),
    ]
    return graphs.model(nodes, [graphs.value("x", ("N", *SHAPE))], [graphs.value("y", ("N", 5))], weights)


def frames() -> np.ndarray:
    return (3 * np.random.default_rng(8).standard_normal((FRAMES, *SHAPE))).astype(np.float32)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    np.save(tmp_path / "frames.npy", frames())
    return graphs.save(tmp_path / "models", "net", network())


def calibrated(repository: Path, *more: str) -> Result:
    place = str(repository.parent / "frames.npy")
    return CliRunner().invoke(models, ["calibrate", str(repository), "net", "--frames", place, *more])


def table_of(version: ModelVersion) -> Table:
    file = version.config.variants[1].int8_calibration
    return read_table((version.folder / file).read_bytes(), f"{version.key}/{file}")


class Feeds:
    """What ONNX Runtime's calibrator reads frames from."""

    def __init__(self) -> None:
        self.left: Iterator[np.ndarray] = iter(frames())

    def get_next(self) -> dict[str, np.ndarray] | None:
        frame = next(self.left, None)
        return None if frame is None else {"x": frame[None]}


def ranges_of_onnxruntime(graph: Path) -> dict[str, float]:
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    calibrator = create_calibrator(
        graph, augmented_model_path=str(graph.parent / "augmented.onnx"), calibrate_method=CalibrationMethod.MinMax,
        extra_options={"symmetric": True},
    )  # fmt: skip
    calibrator.set_execution_providers(["CPUExecutionProvider"])
    calibrator.collect_data(Feeds())
    return {name: float(np.max(data.range_value[1])) for name, data in calibrator.compute_data().items()}


def test_the_widest_ranges_are_those_of_onnxruntimes_own_calibrator(repository: Path, tmp_path: Path) -> None:
    done = calibrated(repository, "--ranges", "widest", "--frames-max", "1000")
    assert done.exit_code == 0, done.output
    assert "net/2 is written" in done.output
    table = table_of(version_of(repository, "net"))
    assert not table.native
    assert table.ranges.keys() == {"x", "c", "r", "p", "f", "m", "y"}  # of zeros there is no range
    onnx.save(network(), tmp_path / "network.onnx")
    expected = ranges_of_onnxruntime(tmp_path / "network.onnx")
    assert table.ranges == pytest.approx({name: expected[name] for name in table.ranges}, rel=1e-6)


def test_the_new_version_has_the_graph_as_it_is_and_with_ranges(repository: Path) -> None:
    assert calibrated(repository).exit_code == 0
    version = version_of(repository, "net")
    plain, ranged = version.config.variants
    assert (plain.name, ranged.name) == ("default", "default-int8")
    assert plain.file == ranged.file
    assert (plain.int8_calibration, ranged.int8_calibration) == ("", "default-int8.calibration")
    assert [provider.name for provider in version.config.providers] == [TENSORRT, CUDA]
    made = json.loads((version.folder / "optimize.json").read_text())
    assert (made["made_of"], made["frames"], made["ranges"]) == ("net/1", FRAMES, "least-error")


def test_ranges_of_the_least_error_are_within_the_widest(repository: Path) -> None:
    assert calibrated(repository).exit_code == 0
    narrow = table_of(version_of(repository, "net")).ranges
    assert calibrated(repository, "--ranges", "widest", "--out", "9").exit_code == 1  # the newest has ranges already
    place = str(repository.parent / "frames.npy")
    arguments = ["calibrate", str(repository), "net/1", "--frames", place, "--ranges", "widest", "--out", "9"]
    assert CliRunner().invoke(models, arguments).exit_code == 0
    wide = table_of(version_of(repository, "net")).ranges
    assert narrow.keys() == wide.keys()
    assert all(narrow[name] <= wide[name] for name in wide)


def test_an_outlier_is_cut_off() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=1_000_000), [-30.0]]).astype(np.float32)
    seen = Histogram()
    seen.add(values)
    reach = best_reach(seen)
    assert 3 < reach < 15

    def error(reach: float) -> float:
        step = reach / 127
        return float(np.mean((np.clip(np.round(values / step), -127, 127) * step - values) ** 2))

    assert error(reach) < error(30.0)


def test_a_graph_without_layers_for_8_bits_is_refused(tmp_path: Path) -> None:
    graphs.save(tmp_path / "models", "net", graphs.doubling())
    np.save(tmp_path / "frames.npy", np.zeros((4, 4), np.float32))
    done = calibrated(tmp_path / "models")
    assert done.exit_code == 1
    assert "neither convolutions nor matrix products" in str(done.exception)
    assert not (tmp_path / "models/net/2").exists()


# ---- what providers are told ----


class Sessions:
    def __init__(self) -> None:
        self.asked: list[Sequence[Provider]] = []

    def __call__(self, asked: Sequence[Provider]) -> int:
        self.asked.append(asked)
        return 1


def given_to(version: ModelVersion, provider: str) -> dict[str, Any]:
    """The options with which the session of the variant with ranges is opened."""
    files, sessions = VersionFiles(version.key, version.folder, lambda digests: None), Sessions()
    file = files.graph(version.config.variants[1].file)
    engines = Engines(NoLink(), "cuda:0", "1.31.1")
    engines.open((Provider(name=provider),), file, table_of(version), version.config, sessions)
    return dict(sessions.asked[0][0].options)


@pytest.mark.parametrize(("provider", "prefix"), [(TENSORRT, "trt"), (MIGRAPHX, "migraphx")])
def test_the_provider_gets_the_table_as_its_options_want_it(repository: Path, provider: str, prefix: str) -> None:
    assert calibrated(repository).exit_code == 0
    version = version_of(repository, "net")
    options = given_to(version, provider)
    assert options[f"{prefix}_int8_enable"] == "True"
    assert options[f"{prefix}_int8_use_native_calibration_table"] == "False"
    path = Path(options[f"{prefix}_int8_calibration_table_name"])
    assert path.is_absolute()
    assert path.read_bytes() == (version.folder / "default-int8.calibration").read_bytes()
    with pytest.raises(OSError, match="not permitted"):
        path.write_bytes(b"")  # nobody changes it between the check and the use


def test_a_processor_takes_no_table(repository: Path) -> None:
    assert calibrated(repository).exit_code == 0
    settings = repository / "net/2/model.toml"
    settings.write_text('providers = [{ name = "CPUExecutionProvider" }]\n' + without_providers(settings.read_text()))
    with pytest.raises(LoadError, match=r"int8_calibration is for TensorrtExecutionProvider, MIGraphX.*int8-static"):
        load(load_body(version_of(repository, "net")))


def without_providers(toml: str) -> str:
    head, _, rest = toml.partition("[[providers]]")
    return head + "[[variant]]" + rest.partition("[[variant]]")[2] if rest else toml


def test_a_table_of_another_graph_is_refused(repository: Path) -> None:
    assert calibrated(repository).exit_code == 0
    table = table_of(version_of(repository, "net"))
    rows = [of_provider(TENSORRT)]
    with pytest.raises(LoadError, match=r"net/2/default-int8.calibration: has ranges of c, f, m, p, r and 1 more"):
        with_table((Provider(name=TENSORRT),), rows, table, {"x"})


# ---- tables that are none ----


def written(tmp_path: Path, reaches: dict[str, float]) -> bytes:
    return write_table(reaches, tmp_path).read_bytes()


def test_what_onnxruntime_writes_is_read(tmp_path: Path) -> None:
    reaches = {"a": 1.5, "layer/ä:0": 0.25, "z" * 300: 1e-3}
    assert read_table(written(tmp_path, reaches), "t").ranges == pytest.approx(reaches)
    assert read_table(written(tmp_path, {}), "t").ranges == {}


def test_a_damaged_table_is_never_more_than_refused(tmp_path: Path) -> None:
    """ONNX Runtime's providers follow every offset of it without a look."""
    data = written(tmp_path, {"a": 1.5, "b": 2.5, "c": 3.5})
    rng = np.random.default_rng(1)
    refused = 0
    harmed = [data[:end] for end in range(len(data))]
    for _ in range(3000):
        changed = bytearray(data)
        for at in rng.integers(0, len(data), size=rng.integers(1, 4)):
            changed[at] = rng.integers(0, 256)
        harmed.append(bytes(changed))
    for each in harmed:
        try:
            read_table(each, "net/2/t")
        except LoadError:
            refused += 1
    assert refused > len(data) // 2


def test_a_range_that_is_no_distance_is_refused(tmp_path: Path) -> None:
    for reach in (float("nan"), float("inf")):
        with pytest.raises(LoadError, match=r"the range of 'a' is (nan|inf), which is no distance"):
            read_table(written(tmp_path, {"a": reach}), "t")


def test_tensorrts_own_tables_are_read() -> None:
    table = read_table(b"TRT-101300-EntropyCalibration2\nx: 3c010a14\nconv/out:0: 3f800000\n", "t")
    assert table.native
    assert table.ranges == {"x": pytest.approx(1.0, rel=1e-3), "conv/out:0": 127.0}
    for bad in (b"TRT-1\nx 3c010a14\n", b"TRT-1\nx: 3c01\n", b"TRT-1\nx: 7f800000\n"):
        with pytest.raises(LoadError):
            read_table(bad, "t")
