"""The files of a version are read once: what happens to them later changes nothing, and what they held is told."""

import fcntl
import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from duly.models.digests import FileDigest
from duly.models.spec import ModelConfig
from duly.worker.errors import LoadError
from duly.worker.load_model import load
from duly.worker.open_session import MachineShare
from duly.worker.ort_session import OrtSession
from duly.worker.version_files import VersionFiles
from tests import graphs
from tests.lane import lane
from tests.worker.client import Worker, version_of
from tests.worker.loading import body_of, reason_of

WIDTH = 64  # ONNX Runtime maps tensors of more than 127 bytes


def weights(value: float, width: int = WIDTH) -> np.ndarray:
    return np.full(width, value, np.float32)


def put(root: Path, proto: onnx.ModelProto, files: dict[str, bytes], toml: str = "batch_sizes = [1]\n") -> Path:
    graphs.save(root, "m", proto, toml)
    for name, data in files.items():
        (root / "m/1" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "m/1" / name).write_bytes(data)
    return root / "m/1"


def session(folder: Path) -> tuple[OrtSession, dict[str, FileDigest]]:
    told: dict[str, FileDigest] = {}
    file = VersionFiles("m/1", folder, told.update).graph("model.onnx")
    return OrtSession(file, "m/1/model.onnx", ModelConfig(), lane(), folder.parent, MachineShare(1)), told


def added(made: OrtSession, width: int = WIDTH) -> float:
    (value,) = np.unique(made.run({"x": np.zeros((1, width), np.float32)}, ["y"])["y"])
    return float(value)


@pytest.mark.holds_on("cpu", "webgpu", why="OpenVINO's provider reads no sub-graphs with weights of their own")
@pytest.mark.parametrize("kind", ["main", "branch", "body", "attribute", "function", "sparse"])
def test_weights_stay_what_they_were_wherever_the_graph_has_them(tmp_path: Path, kind: str) -> None:
    proto = graphs.with_tensor(kind, graphs.external("w", weights(3), "w.bin"), ("N", WIDTH))
    folder = put(tmp_path, proto, {"w.bin": weights(3).tobytes()})
    made, told = session(folder)
    with (folder / "w.bin").open("r+b") as file:
        file.write(weights(9).tobytes())
    assert added(made) == 3
    assert {name: digest.size_bytes for name, digest in told.items()} == {
        "m/1/model.onnx": (folder / "model.onnx").stat().st_size,
        "m/1/w.bin": 4 * WIDTH,
    }
    assert told["m/1/w.bin"].sha256 == hashlib.sha256(weights(3).tobytes()).hexdigest()
    assert added(session(folder)[0]) == 9, "that is what the file says now"


@pytest.mark.parametrize("length", [True, False])
def test_a_part_of_a_file_and_several_files_in_folders(tmp_path: Path, length: bool) -> None:
    proto = graphs.with_tensor(
        "main", graphs.external("w", weights(3), "parts/w.bin", offset=20, length=length), ("N", WIDTH)
    )
    proto.graph.node[0].output[0] = "z"
    proto.graph.node.append(onnx.helper.make_node("Add", ["z", "v"], ["y"]))
    proto.graph.initializer.append(graphs.external("v", weights(40), "./v.bin"))
    files = {"parts/w.bin": b"\xff" * 20 + weights(3).tobytes(), "v.bin": weights(40).tobytes()}
    made, told = session(put(tmp_path, proto, files))
    assert added(made) == 43
    assert set(told) == {"m/1/model.onnx", "m/1/parts/w.bin", "m/1/v.bin"}


def test_what_lies_in_no_other_file_is_left_alone(tmp_path: Path) -> None:
    """The words of an entry with the key "location" may stand in a graph without external data."""
    proto = graphs.with_tensor("main", numpy_helper.from_array(weights(3), "w"), ("N", WIDTH))
    proto.metadata_props.add(key="location", value="Delft")
    made, told = session(put(tmp_path, proto, {}))
    assert added(made) == 3
    assert set(told) == {"m/1/model.onnx"}


def test_variants_that_share_a_file(tmp_path: Path) -> None:
    proto = graphs.with_tensor("main", graphs.external("w", weights(3), "w.bin"), ("N", WIDTH))
    toml = "batch_sizes = [1]\n" + "".join(f'[[variant]]\nname = "{n}"\nfile = "{n}.onnx"\n' for n in ("a", "b"))
    folder = put(tmp_path, proto, {"w.bin": weights(3).tobytes()}, toml)
    for name in ("a", "b"):
        onnx.save(proto, folder / f"{name}.onnx")
    told: list[str] = []
    load(body_of(tmp_path, "m"), told.extend)
    assert told == ["m/1/a.onnx", "m/1/w.bin", "m/1/b.onnx", "m/1/w.bin"]

    def report(digests: dict[str, FileDigest]) -> None:
        (folder / "w.bin").write_bytes(weights(4).tobytes())

    with pytest.raises(LoadError, match=r"^m/1/w\.bin changed while it was loaded; "):
        load(body_of(tmp_path, "m"), report)


def test_hundreds_of_files_whose_names_fit_no_message(tmp_path: Path) -> None:
    names = [f"{'größe' * 9}_{index:03}.bin" for index in range(700)]
    proto = graphs.with_tensor("main", graphs.external("w", weights(0), names[0]), ("N", WIDTH))
    for index, name in enumerate(names[1:], start=1):
        proto.graph.initializer.append(graphs.external(f"w{index}", weights(index), name))
        last = proto.graph.node[-1]
        last.output[0] = f"y{index}"
        proto.graph.node.append(onnx.helper.make_node("Add", [f"y{index}", f"w{index}"], ["y"]))
    put(tmp_path, proto, {name: weights(index).tobytes() for index, name in enumerate(names)})
    with Worker(version_of(tmp_path, "m")) as worker:
        assert set(worker.files) == {"m/1/model.onnx"} | {f"m/1/{name}" for name in names}


# ---- what is refused ----


def test_places_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(weights(3).tobytes())
    leads_out = "is a link or path out of the folder; copy the file itself into the folder (cp -L)"
    for location in ("../secret.bin", "../../secret.bin", "a/../../../secret.bin"):
        put(tmp_path, graphs.with_tensor("main", graphs.external("w", weights(3), location), ("N", WIDTH)), {})
        assert reason_of(tmp_path, "m") == f"m/1/model.onnx: its external data file {location} {leads_out}"
    absolute = graphs.external("w", weights(3), str(tmp_path / "secret.bin"))
    put(tmp_path, graphs.with_tensor("sparse", absolute, ("N", WIDTH)), {})
    assert reason_of(tmp_path, "m").startswith(
        "m/1/model.onnx: it names its external data by an absolute path; save it"
    )
    folder = put(tmp_path, graphs.with_tensor("branch", graphs.external("w", weights(3), "w.bin"), ("N", WIDTH)), {})
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    assert reason_of(tmp_path, "m") == f"m/1/model.onnx: its external data file w.bin {leads_out}"


def test_a_version_made_of_links_into_one_store(tmp_path: Path) -> None:
    """As the cache of the Hugging Face hub keeps them."""
    proto = graphs.with_tensor("main", graphs.external("w", weights(3), "w.bin"), ("N", WIDTH))
    folder = put(tmp_path, proto, {"w.bin": weights(3).tobytes()})
    (tmp_path / "blobs").mkdir()
    for number, file in enumerate(list(folder.iterdir())):
        file.rename(tmp_path / f"blobs/{number}")
        file.symlink_to(f"../../blobs/{number}")
    assert added(session(folder)[0]) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda entries: setattr(entries[0], "value", ""),
            "tensor 'w' lies in another file, but which one is not said; export it again",
        ),
        (
            lambda entries: entries.add(key="offset", value="4"),
            "its external data file w.bin is cut off (is it still being written?): it does not hold all of w; copy or "
            "export both files again",
        ),
        (
            lambda entries: entries.add(key="offset", value="-4"),
            "its external data file w.bin is cut off (is it still being written?): it does not hold all of w; copy or "
            "export both files again",
        ),
    ],
)
def test_tensors_that_are_nowhere(tmp_path: Path, change: object, reason: str) -> None:
    tensor = graphs.external("w", weights(3), "w.bin")
    change(tensor.external_data)  # type: ignore[operator]
    put(tmp_path, graphs.with_tensor("main", tensor, ("N", WIDTH)), {"w.bin": weights(3).tobytes()})
    assert reason_of(tmp_path, "m") == f"m/1/model.onnx: {reason}"


def test_what_is_no_file(tmp_path: Path) -> None:
    folder = put(tmp_path, graphs.with_tensor("main", graphs.external("w", weights(3), "w.bin"), ("N", WIDTH)), {})
    os.mkfifo(folder / "w.bin")
    assert reason_of(tmp_path, "m") == (
        "m/1/model.onnx: its external data file w.bin is no ordinary file; put the file itself into the same folder"
    )
    (folder / "w.bin").unlink()
    (folder / "w.bin").symlink_to("w.bin")
    assert reason_of(tmp_path, "m") == (
        "m/1/model.onnx: its external data file w.bin cannot be read: Too many levels of symbolic links"
    )


def test_half_a_graph_with_external_data(tmp_path: Path) -> None:
    proto = graphs.with_tensor("main", graphs.external("w", weights(3), "w.bin"), ("N", WIDTH))
    folder = put(tmp_path, proto, {"w.bin": weights(3).tobytes()})
    os.truncate(folder / "model.onnx", (folder / "model.onnx").stat().st_size - 9)
    assert reason_of(tmp_path, "m").startswith("m/1/model.onnx: is not a whole ONNX file (")


# ---- what is still being written ----


@pytest.mark.parametrize("name", ["model.onnx", "w.bin"])
def test_a_copy_that_is_under_way(tmp_path: Path, name: str) -> None:
    proto = graphs.with_tensor("main", graphs.external("w", weights(3), "w.bin"), ("N", WIDTH))
    folder = put(tmp_path, proto, {"w.bin": weights(3).tobytes()})
    what = "" if name == "model.onnx" else "its external data file w.bin "
    with (folder / name).open("r+b"):
        assert reason_of(tmp_path, "m") == (
            f"m/1/model.onnx: {what}is open for writing; is it still being written? Move a version into its place in "
            "whole"
        )
    load(body_of(tmp_path, "m"))


def test_no_lease_is_left_behind(tmp_path: Path) -> None:
    folder = put(tmp_path, graphs.with_tensor("main", numpy_helper.from_array(weights(3), "w"), ("N", WIDTH)), {})
    made, _ = session(folder)
    descriptor = os.open(folder / "model.onnx", os.O_WRONLY | os.O_NONBLOCK)
    os.close(descriptor)
    assert added(made) == 3
    with (folder / "model.onnx").open("rb") as file:
        assert fcntl.fcntl(file, fcntl.F_GETLEASE) == fcntl.F_UNLCK


def replaced(file: Path) -> None:
    other = file.with_suffix(".new")
    other.write_bytes(file.read_bytes())
    other.rename(file)


def written(file: Path) -> None:
    os.utime(file, ns=(0, 0))


def gone(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("change", [replaced, written, gone])
@pytest.mark.parametrize("fails", [False, True])
def test_a_file_that_changes_while_it_is_loaded(tmp_path: Path, change: object, fails: bool) -> None:
    """That says more than whatever else may be wrong with a version of which only a part has arrived."""
    tensor = graphs.external("w", weights(3), "w.bin")
    toml = "batch_sizes = [1]\n" + ("[constants]\nrate = 1\n" if fails else "")
    folder = put(tmp_path, graphs.with_tensor("main", tensor, ("N", WIDTH)), {"w.bin": weights(3).tobytes()}, toml)

    def report(digests: dict[str, FileDigest]) -> None:
        change(folder / "w.bin")  # type: ignore[operator]

    with pytest.raises(LoadError) as refused:
        load(body_of(tmp_path, "m"), report)
    assert str(refused.value) == (
        "m/1/w.bin changed while it was loaded; is it still being written? Move a version into its place in whole"
    )
