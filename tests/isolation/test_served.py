"""Models that mean harm, served beside an honest one by a real server: what they try is refused, and it serves on."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import grpc
import numpy as np
import pytest
from onnx import helper

from duly.models.spec import ModelConfig
from duly.worker import confine
from duly.worker.errors import LoadError
from duly.worker.libraries import with_checked_libraries
from duly.worker.version_files import VersionFiles
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import FAILED, ON_TIME, Wire, frame
from tests.worker.loading import reason_of

WHOLE = pytest.mark.skipif(bool(confine.lacking()), reason="this kernel lacks what confines workers")
COMPILER = shutil.which("cc") or shutil.which("gcc")


def squares() -> "graphs.onnx.ModelProto":
    """y = sum of x times x transposed: n numbers take n * n * 4 bytes on the way."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "last"], ["column"]),
        helper.make_node("Unsqueeze", ["x", "middle"], ["row"]),
        helper.make_node("MatMul", ["column", "row"], ["all"]),
        helper.make_node("ReduceSum", ["all", "both"], ["y"], keepdims=0),
    ]
    constants = {"last": np.array([2]), "middle": np.array([1]), "both": np.array([1, 2])}
    return graphs.model(nodes, [graphs.value("x", ("N", "n"))], [graphs.value("y", ("N",))], constants)


def compiled(folder: Path) -> Path:
    folder.mkdir()
    source, library = Path(__file__).with_name("hostile.c"), folder / "hostile.so"
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", library, source], check=True)
    return library


@WHOLE
@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
async def test_a_hostile_library_and_a_hostile_frame_harm_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "models"
    library = compiled(tmp_path / "elsewhere")
    graphs.save(root, "honest", graphs.doubling())
    graphs.save(root, "hostile", graphs.doubling(), f'providers = [{{ name = "Evil", library = "{library}" }}]\n')
    graphs.save(root, "hungry", squares(), "batch_sizes = [1]\n")
    monkeypatch.setenv("DULY_TEST_OTHER_FILE", str(root / "honest/1/model.onnx"))
    trusted = hashlib.sha256(library.read_bytes()).hexdigest()
    settings = {"libraries_sha256": (trusted,), "worker_memory_bytes_max": 700 << 20}
    async with serving(root, **settings) as app, grpc.aio.insecure_channel(app.address) as channel:
        told = "".join(capfd.readouterr())
        tried = re.search(r"hostile (\S+);\s+end", told)
        assert tried is not None, "the library was loaded, and what it tried it could tell"
        acts = dict(act.split("=") for act in tried[1].split(";"))
        assert len(acts) == 8
        assert set(acts.values()) == {"refused"}
        async with (
            Wire(channel, model="honest") as honest,
            Wire(channel, model="hungry", default_budget_nano=300 * 10**9) as hungry,
        ):
            assert (await honest.ask(frame(1))).status == ON_TIME
            assert (await hungry.ask(frame(1))).status == ON_TIME
            large = await hungry.ask(frame(2, np.ones(20_000)))
            assert large.status == FAILED
            assert (await hungry.ask(frame(3))).status == ON_TIME
            assert (await honest.ask(frame(2))).status == ON_TIME


def test_a_library_that_the_settings_do_not_list_is_not_loaded(tmp_path: Path) -> None:
    library = tmp_path / "elsewhere.so"
    library.write_bytes(b"\x7fELF what would run")
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    for toml in (
        f'providers = [{{ name = "Acme", library = "{library}" }}]\n',
        f'providers = [{{ name = "Acme", options = {{ backend_path = "{library}" }} }}]\n',
        f'providers = [{{ name = "Acme", options = {{ trt_extra_plugin_lib_paths = "liba.so;{library}" }} }}]\n',
    ):
        graphs.save(tmp_path / "models", "m", graphs.doubling(), toml)
        reason = reason_of(tmp_path / "models", "m")
        assert reason.startswith("m/model.toml: providers[0].")
        assert f"elsewhere.so runs code of its own and is not trusted: its SHA-256 {digest} is not among" in reason


def test_a_library_under_another_name_is_found_by_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "models/m").mkdir(parents=True)
    (tmp_path / "models/m/weights.bin").write_bytes(b"\x7fELF what would run")
    toml = 'providers = [{ name = "Acme", options = { some_path = "./weights.bin" } }]\n'
    graphs.save(tmp_path / "models", "m", graphs.doubling(), toml)
    assert "weights.bin runs code of its own" in reason_of(tmp_path / "models", "m")


@pytest.mark.parametrize("name", ["pipe", "folder"])
def test_what_is_no_file_in_the_place_of_a_library_holds_nobody_up(tmp_path: Path, name: str) -> None:
    path = tmp_path / "lib.so"
    if name == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    config = ModelConfig.model_validate({"providers": [{"name": "Acme", "library": "lib.so"}]})
    files = VersionFiles("m/1", tmp_path, lambda digests: None)
    with pytest.raises(
        LoadError, match=r"m/model.toml: providers\[0\].library: lib.so (is no|cannot be read: Is a dir)"
    ):
        with_checked_libraries(config, "m", tmp_path, (), files)
