"""What OpenVINO compiles is kept by the server and used again, by workers that reach but a folder of their own."""

import asyncio
import json
import os
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from duly.accelerators import ACCELERATORS
from duly.app import App, check_models
from duly.config import ServerConfig
from duly.runtime.engine_store import EngineStore
from duly.start_error import StartError
from duly.worker.load_model import load
from duly.worker.ort_session import OrtSession
from tests import graphs
from tests.accelerators.test_served import TOML, asked, loaded, seeing
from tests.e2e.serving import serving
from tests.worker.client import load_body, version_of

Serve = Callable[..., AbstractAsyncContextManager[App]]


@pytest.fixture
def cache(tmp_path: Path, lane: str) -> Path:
    if not lane.startswith("openvino:"):
        pytest.skip("of the providers that run here, OpenVINO alone keeps what it compiles")
    return tmp_path / "cache"


@pytest.fixture
def serve(tmp_path: Path, cache: Path, lane: str) -> Serve:
    """Serves a model with that cache, and has it answer."""
    models = graphs.save(tmp_path / "models", "eye", seeing(), TOML)

    @asynccontextmanager
    async def running(folder: Path = models, **settings: object) -> AsyncIterator[App]:
        given = {"lanes": (lane,), "engine_cache": str(cache)} | settings
        async with serving(folder, **given) as app, grpc.aio.insecure_channel(app.address) as channel:
            await asked(channel, 3)
            yield app

    return running


def entries(cache: Path) -> dict[str, float]:
    """The kept engines, with the time of each."""
    return {each.name: (each / "manifest.json").stat().st_mtime for each in (cache / "entries").iterdir()}


def counts(app: App) -> tuple[int, int, int]:
    """Engines made, used again, and made while frames waited."""
    engines = app.resources.engine_counts
    return tuple(sum(each.values()) for each in (engines.made, engines.reused, engines.made_late))  # type: ignore[return-value]


async def test_an_engine_is_compiled_once(serve: Serve, cache: Path) -> None:
    async with serve() as app:
        assert counts(app) == (1, 0, 0)
        (key,) = entries(cache)
        manifest = json.loads((cache / "entries" / key / "manifest.json").read_text())
        assert manifest["about"] == "eye/1: model.onnx"
        assert [Path(name).suffix for name in manifest["files"]] == [".blob"]
        assert not list((cache / "locks").iterdir())
        worker = next(iter(loaded(app).workers.values()))
        assert worker.load.engines is not None
        assert not [file for file in worker.load.engines.folder.rglob("*") if file.is_file()]
    assert not list((cache / "servers").iterdir())
    async with serve() as app:
        assert counts(app) == (0, 1, 0)
        assert list(entries(cache)) == [key]


async def test_another_number_of_the_same_graph_is_the_same_engine(serve: Serve, cache: Path, tmp_path: Path) -> None:
    async with serve():
        pass
    other = graphs.save(tmp_path / "others", "eye", seeing(), TOML, version=7)
    async with serve(other) as app:
        assert counts(app) == (0, 1, 0)


async def test_other_batches_are_another_engine(serve: Serve, cache: Path, tmp_path: Path) -> None:
    async with serve():
        pass
    other = graphs.save(tmp_path / "others", "eye", seeing(), TOML.replace("[1, 2, 4]", "[1, 2]"))
    async with serve(other) as app:
        assert counts(app) == (1, 0, 0)
    assert len(entries(cache)) == 2


async def test_a_damaged_engine_is_compiled_anew(serve: Serve, cache: Path) -> None:
    async with serve():
        pass
    (blob,) = cache.glob("entries/*/files/*.blob")
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    async with serve() as app:
        assert counts(app) == (1, 0, 0)
    async with serve() as app:
        assert counts(app) == (0, 1, 0)


async def test_an_engine_that_the_provider_does_not_take_is_compiled_anew(serve: Serve, cache: Path) -> None:
    """It has the digest that the manifest says, as one that was damaged before it was kept."""
    async with serve():
        pass
    (key,) = entries(cache)
    (blob,) = cache.glob("entries/*/files/*.blob")
    store = EngineStore(cache, 1 << 30)
    broken = store.worker_folder()
    (broken / blob.name).write_bytes(b"no engine" * 100)
    assert not store.put(key, broken, 1.0, "broken")
    store.close()
    async with serve() as app:
        assert sum(counts(app)) == 1


async def test_a_worker_that_dies_while_it_makes_an_engine_leaves_none(
    serve: Serve, cache: Path, tmp_path: Path, lane: str
) -> None:
    models = graphs.save(tmp_path / "refused", "eye", seeing(), TOML + "[checks]\none_ms_max = 1e-9\n")
    with pytest.raises(StartError, match="one frame takes"):
        async with serve(models):
            pass
    assert not list((cache / "locks").iterdir())
    assert not list((cache / "servers").iterdir())


async def test_two_servers_compile_an_engine_once(serve: Serve, cache: Path) -> None:
    both = [serve(), serve()]
    apps = await asyncio.gather(*(each.__aenter__() for each in both))
    try:
        made, reused, late = map(sum, zip(*map(counts, apps), strict=True))
        assert (made, reused, late) == (1, 1, 0)
        assert len(entries(cache)) == 1
    finally:
        for each in both:
            await each.__aexit__(None, None, None)


async def test_a_folder_that_others_may_write_is_refused(serve: Serve, cache: Path) -> None:
    cache.mkdir(mode=0o700)
    cache.chmod(0o770)
    with pytest.raises(StartError, match=r"engine_cache: others may write .* chmod go-w"):
        async with serve():
            pass


async def test_without_a_folder_it_serves_all_the_same(serve: Serve, cache: Path) -> None:
    async with serve(engine_cache="off") as app:
        assert sum(counts(app)) == 0
    assert not cache.exists()


async def test_what_is_compiled_while_frames_wait_is_told(serve: Serve) -> None:
    async with serve() as app:
        (worker,) = loaded(app).workers.values()
        assert worker.load.engines is not None
        worker.load.engines.look_for_late()
        assert counts(app)[2] == 0
        (folder,) = (each for each in worker.load.engines.folder.iterdir())
        (folder / "late.blob").touch()
        worker.load.engines.look_for_late()
        worker.load.engines.look_for_late()
        assert counts(app)[2] == 1


def test_models_check_compiles_for_the_server(cache: Path, tmp_path: Path, lane: str) -> None:
    models = graphs.save(tmp_path / "models", "eye", seeing(), TOML)
    config = ServerConfig(models=models, lanes=(lane,), engine_cache=str(cache))
    assert [found.problem for found in check_models(config)] == [None]
    assert len(entries(cache)) == 1

    async def served() -> tuple[int, int, int]:
        async with serving(models, lanes=(lane,), engine_cache=str(cache)) as app:
            return counts(app)

    assert asyncio.run(served()) == (0, 1, 0)


async def test_the_sandbox_holds(serve: Serve) -> None:
    async with serve(sandbox="require") as app:
        (worker,) = loaded(app).workers.values()
        assert counts(app)[0] == 1
        assert "Seccomp:\t2" in Path(f"/proc/{worker.pid}/status").read_text() or os.uname().machine != "x86_64"


# ---- in this process ----


class Folder:
    """A server that keeps an engine in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[str] = []

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"folder": str(self.folder), "there": False, "seconds": 0.0}

    def tell(self, doing: str, builds: bool = False, expected_s: float = 0.0) -> None:
        self.told.append(doing)


def test_what_is_written_at_the_end_of_sessions_is_opened_again(
    cache: Path, tmp_path: Path, lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with TensorRT-RTX, which OpenVINO stands in for: the first sessions are gone when the second ones open."""
    rtx = {each.provider: each._replace(cache_ends=True) for each in ACCELERATORS}
    monkeypatch.setattr("duly.worker.engines.of_provider", rtx.get)
    models, link = graphs.save(tmp_path / "models", "eye", seeing(), TOML), Folder(cache)
    cache.mkdir()
    alive: list[weakref.ref[OrtSession]] = []
    opened = OrtSession.__init__

    def noted(self: OrtSession, *args: Any, **more: Any) -> None:
        assert not [each for each in alive if each() is not None]
        alive.append(weakref.ref(self))
        opened(self, *args, **more)

    monkeypatch.setattr(OrtSession, "__init__", noted)
    loaded = load(load_body(version_of(models, "eye"), lane), link=link)
    assert len(alive) == 2
    assert [file.suffix for file in cache.iterdir()] == [".blob"]
    assert [doing for doing in link.told if "opens" in doing or "compiles" in doing] == [
        "OpenVINOExecutionProvider compiles model.onnx",
        "opens again what was compiled",
        "opens what OpenVINOExecutionProvider has compiled of model.onnx",
    ]
    assert loaded.ready["variants"][0]["providers"] == ("OpenVINOExecutionProvider",)
    assert link.told[-1] == ""
