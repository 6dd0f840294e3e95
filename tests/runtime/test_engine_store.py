"""Engines on the disk: whole or not there, nobody else's, and no more than may be."""

import errno
import json
import os
import resource
import stat
from pathlib import Path

import pytest

from duly.runtime.engine_store import EngineStore, NotTrusted, check_folder, engine_folder, key_of

BYTES_MAX = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "engines"


@pytest.fixture
def store(folder: Path) -> EngineStore:
    return EngineStore(folder, BYTES_MAX)


def made(store: EngineStore, files: dict[str, bytes]) -> Path:
    """A worker's folder with these files."""
    folder = store.worker_folder()
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def put(store: EngineStore, key: str, files: dict[str, bytes]) -> str:
    return store.put(key, made(store, files), 12.5, "m/1: model.onnx")


def taken(store: EngineStore, key: str) -> dict[str, bytes] | None:
    folder = store.worker_folder()
    if store.take(key, folder) is None:
        assert not list(folder.iterdir())
        return None
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FILES = {"trt_1.engine": b"e" * 3000, "sub/trt_1.profile": b"p"}


def test_what_is_put_can_be_taken_again_and_again(store: EngineStore) -> None:
    assert put(store, "k", FILES) == ""
    assert taken(store, "k") == taken(store, "k") == FILES
    found = store.take("k", store.worker_folder())
    assert found is not None
    assert (found.files, found.size_bytes, found.seconds) == (2, 3001, 12.5)


def test_another_server_finds_it(store: EngineStore, folder: Path) -> None:
    put(store, "k", FILES)
    store.close()
    assert taken(EngineStore(folder, BYTES_MAX), "k") == FILES


def test_the_workers_folder_is_empty_when_its_engine_is_kept(store: EngineStore) -> None:
    folder = made(store, FILES)
    assert store.put("k", folder, 1.0, "") == ""
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("harm", ["flipped", "cut", "gone", "grown"])
def test_a_damaged_engine_is_not_given_and_gone(store: EngineStore, folder: Path, name: str, harm: str) -> None:
    put(store, "k", FILES)
    entry = folder / "entries/k"
    path = entry / name if name == "manifest.json" else entry / "files" / name
    data = path.read_bytes()
    path.unlink()
    if harm != "gone":
        path.write_bytes({"flipped": bytes([data[0] ^ 1]) + data[1:], "cut": data[:-1], "grown": data + b"{"}[harm])
    assert taken(store, "k") is None
    if not (name == "manifest.json" and harm == "gone"):
        assert not entry.exists()
    assert put(store, "k", FILES) == ""
    assert taken(store, "k") == FILES


def test_an_engine_outlives_a_server_that_may_open_no_more_files(store: EngineStore) -> None:
    put(store, "k", FILES)
    target = store.worker_folder()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            store.take("k", target)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert taken(store, "k") == FILES


def test_what_is_no_engine_goes_when_another_is_kept(store: EngineStore, folder: Path) -> None:
    put(store, "k", FILES)
    (folder / "entries/k/manifest.json").unlink()
    put(store, "other", FILES)
    assert [entry.name for entry in (folder / "entries").iterdir()] == ["other"]


def test_a_manifest_that_leads_out_is_none(store: EngineStore, folder: Path, tmp_path: Path) -> None:
    put(store, "k", FILES)
    manifest = folder / "entries/k/manifest.json"
    body = json.loads(manifest.read_text())
    (tmp_path / "secret").write_bytes(b"s")
    body["files"] = {"../../../../secret": body["files"]["sub/trt_1.profile"]}
    manifest.write_text(json.dumps(body))
    assert taken(store, "k") is None


def test_a_worker_that_leaves_links_keeps_nothing(store: EngineStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    folder = made(store, FILES)
    (folder / "link").symlink_to(tmp_path / "secret")
    assert store.put("k", folder, 1.0, "") == "link is no file"
    assert taken(store, "k") is None
    folder = made(store, {})
    (folder / "sub").symlink_to(tmp_path)
    assert store.put("k", folder, 1.0, "") == "sub is no file"
    folder = made(store, {})
    os.mkfifo(folder / "pipe")
    assert store.put("k", folder, 1.0, "") == "pipe is no file"
    assert (tmp_path / "secret").read_text() == "s"


def test_what_was_written_later_through_an_open_file_is_found_out(store: EngineStore) -> None:
    """A worker may still hold a file open that is an engine's by now."""
    folder = made(store, FILES)
    with open(folder / "trt_1.engine", "r+b") as file:
        assert store.put("k", folder, 1.0, "") == ""
        file.write(b"x")
    assert taken(store, "k") is None


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "nothing was written"),
        ({"a": b"x", "b": b""}, "a file of it is empty"),
        ({"a": b"x" * (BYTES_MAX + 1)}, r"engine_cache_bytes_max"),
        ({str(number): b"x" for number in range(257)}, "too many files"),
    ],
)
def test_what_is_no_engine_is_not_kept(store: EngineStore, folder: Path, files: dict[str, bytes], why: str) -> None:
    assert why in put(store, "k", files)
    assert not list((folder / "entries").iterdir())
    assert [each.name for each in (folder / "servers").rglob("staged-*")] == []


def test_the_engine_that_was_not_used_for_longest_goes_first(store: EngineStore, folder: Path) -> None:
    for number, key in enumerate(("a", "b", "c")):
        put(store, key, {"f": bytes([number]) * (BYTES_MAX // 4)})
        os.utime(folder / "entries" / key / "manifest.json", (number, number))
    assert taken(store, "a") is not None  # so that it is b's turn
    put(store, "d", {"f": b"d" * (BYTES_MAX // 2)})
    assert [key for key in "abcd" if taken(store, key) is not None] == ["a", "c", "d"]


def test_times_are_remembered_up_to_a_number(store: EngineStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duly.runtime.engine_store.TIMES_MAX", 3)
    for number in range(5):
        store.note_seconds(f"graph {number}", 10.0 + number)
    store.note_seconds("graph 2", 99.0)
    seconds = [EngineStore(folder, BYTES_MAX).seconds_of(f"graph {number}") for number in range(5)]
    assert seconds == [0, 0, 99.0, 13.0, 14.0]
    (folder / "times.json").write_text("[")
    assert store.seconds_of("graph 2") == 0
    store.note_seconds("graph 2", 1.0)
    assert store.seconds_of("graph 2") == 1.0


def test_one_makes_an_engine_at_a_time(store: EngineStore, folder: Path) -> None:
    other = EngineStore(folder, BYTES_MAX)
    lock = store.lock("k")
    assert lock is not None
    assert other.lock("k") is None
    assert other.lock("l") is not None
    lock.release()
    assert not (folder / "locks/k").exists()
    again = other.lock("k")
    assert again is not None
    again.release()


def test_what_dead_servers_left_goes_with_the_next_one(folder: Path) -> None:
    dead, alive = EngineStore(folder, BYTES_MAX), EngineStore(folder, BYTES_MAX)
    left = made(dead, FILES)
    lock = dead.lock("k")
    assert lock is not None
    kept = made(alive, FILES)
    os.close(dead._alive)  # as when its process ends
    os.close(lock._descriptor)
    EngineStore(folder, BYTES_MAX)
    assert not left.exists()
    assert kept.exists()
    assert not (folder / "locks/k").exists()


def test_the_folder_is_its_users_alone(store: EngineStore, folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for mode in (0o720, 0o702):
        folder.chmod(mode)
        with pytest.raises(NotTrusted, match=r"others may write to .* chmod go-w"):
            EngineStore(folder, BYTES_MAX)
    folder.chmod(0o755)
    EngineStore(folder, BYTES_MAX)


def test_nor_may_others_turn_its_path_elsewhere(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "own").mkdir(parents=True, mode=0o700)
    shared.chmod(0o777)
    with pytest.raises(NotTrusted, match="chmod go-w"):
        check_folder(shared / "own")
    shared.chmod(0o1777)  # as /tmp: names there belong to who made them
    check_folder(shared / "own")


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotTrusted, match="cannot be used"):
        EngineStore(tmp_path / "file", BYTES_MAX)


def test_where_engines_are_kept() -> None:
    assert engine_folder("/srv/engines", {}) == Path("/srv/engines")
    given = {"CACHE_DIRECTORY": "/var/cache/duly:/var/cache/x", "HOME": "/home/me", "XDG_CACHE_HOME": "/caches"}
    assert engine_folder("auto", given) == Path("/var/cache/duly/engines")
    del given["CACHE_DIRECTORY"]
    assert engine_folder("auto", given) == Path("/caches/duly/engines")
    assert engine_folder("auto", given | {"XDG_CACHE_HOME": "relative"}) == Path("/home/me/.cache/duly/engines")


def test_the_key_holds_all_that_an_engine_depends_on() -> None:
    parts = {"providers": [["TensorrtExecutionProvider", {"trt_fp16_enable": "1"}]], "device": {"name": "A"}}
    keys = {
        key_of({"model.onnx": "00"}, parts),
        key_of({"model.onnx": "01"}, parts),
        key_of({"model.onnx": "00", "w.bin": "00"}, parts),
        key_of({"model.onnx": "00"}, parts | {"device": {"name": "B"}}),
        key_of({"model.onnx": "00"}, parts | {"providers": []}),
    }
    assert len(keys) == 5
    assert key_of({"b": "1", "a": "0"}, parts) == key_of({"a": "0", "b": "1"}, dict(reversed(parts.items())))
