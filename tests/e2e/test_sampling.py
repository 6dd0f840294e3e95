"""Frames that a server keeps, and labels for them: real servers, clients, workers and files."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from duly.app import App
from duly.sampling.store import read
from duly.v1 import inference_pb2
from duly_client import Client, Feedback, FeedbackResult, FeedbackStatus, InvalidRequest, ServerUnavailable
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.waiting import until

JOINED, UNKNOWN, INVALID = FeedbackStatus.JOINED, FeedbackStatus.UNKNOWN_FRAME, FeedbackStatus.INVALID


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for samples."""
    path = tmp_path / "samples"
    path.mkdir(0o700)
    return path


def writer_pid(app: App) -> int:
    """The process that writes samples; 0: there is none."""
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        for pid in (task / "children").read_text().split():
            if b"duly.sampling.main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    return 0


async def written(app: App, frames: int, model: str = "double") -> None:
    await until(lambda: app._sampling.counts.written[model] >= frames)


def modes(folder: Path) -> set[str]:
    """The modes of what lies below a folder."""
    return {oct(path.stat().st_mode & 0o777) for path in folder.rglob("*")}


async def ask(client: Client, values: list[np.ndarray], model: str = "double", **asked: object) -> list[np.ndarray]:
    """Sends frames one after the other on one stream, whose results it returns."""
    results = []
    async with client.stream(model, budget_ms=30_000, **asked) as stream:  # type: ignore[arg-type]
        for value in values:
            await stream.send(value)
            outcome = await anext(stream)
            assert outcome.ok, outcome
            results.append(outcome.outputs["y"])
    return results


def frames(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(nth).random(4, np.float32) for nth in range(count)]


@pytest.mark.parametrize("local", [False, True])
async def test_what_is_kept_is_what_was_sent_and_what_was_answered(
    repository: Path, folder: Path, tmp_path: Path, local: bool
) -> None:
    sent = frames(20)
    more = {"local": str(tmp_path / "local.sock")} if local else {}
    async with serving(repository, sample=folder, sample_frames=8, **more) as app:
        async with Client(f"local:{tmp_path}/local.sock" if local else app.address) as client:
            answered = await ask(client, sent, name="front")
        await written(app, 8)
    kept = list(read(folder))
    assert len(kept) == 8
    assert {each.form.model for each in kept} == {"double"}
    for each in kept:
        assert np.array_equal(each.inputs["x"], sent[each.frame_id - 1])
        assert np.array_equal(each.outputs["y"], answered[each.frame_id - 1])
        assert each.outputs["y"].dtype == np.float32
        assert (each.form.version, each.variant, each.status, each.stream_name) == ("1", "default", "ON_TIME", "front")
        assert each.received_unix_ns > 0
    (group,) = (folder / "double" / "samples").iterdir()
    assert len(list(group.iterdir())) == 8
    assert modes(folder) == {"0o700", "0o600"}


async def test_large_shared_frames_are_kept_though_their_memory_is_used_again(tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "models"
    graphs.save(root, "double", graphs.doubling((None, 65_536)))
    sent = [np.full(65_536, nth, np.float32) for nth in range(12)]
    async with serving(root, sample=folder, local=str(tmp_path / "local.sock")) as app:
        async with Client(f"local:{tmp_path}/local.sock", local_memory_bytes=1 << 20) as client:
            await ask(client, sent)
        await written(app, 12)
    assert [float(each.inputs["x"].max()) for each in read(folder)] == [float(nth) for nth in range(12)]
    assert all(each.inputs["x"].min() == each.inputs["x"].max() for each in read(folder))


async def test_only_models_that_are_asked_for_and_single_frames_of_a_principal_together(
    repository: Path, folder: Path
) -> None:
    async with serving(repository, sample=folder, sample_models=("dou*",), sample_frames=3) as app:
        async with Client(app.address) as client:
            keys = [(await client.infer("double", value, budget_ms=30_000)).stream_key for value in frames(7)]
            async with client.stream("sum") as stream:
                assert stream.opened.stream_key == ""
                await stream.send(np.ones(2, np.float32))
                assert (await anext(stream)).ok
            await written(app, 3)
            results = await client.feedback([Feedback(key, 1, {"y": np.zeros(4, np.float32)}) for key in keys])
        assert len(set(keys)) == 7
    kept = list(read(folder))
    assert len(kept) == 3
    assert {each.form.model for each in kept} == {"double"}
    assert len(list((folder / "double" / "samples").iterdir())) == 1, "they share their places"
    joined = [key for key, result in zip(keys, results, strict=True) if result.status is JOINED]
    assert sorted(joined) == sorted(each.stream for each in kept)
    assert {result.status for result in results} == {JOINED, UNKNOWN}


async def test_labels_are_joined_with_their_frames_also_after_a_restart(repository: Path, folder: Path) -> None:
    y = np.arange(4, dtype=np.float32)
    async with serving(repository, sample=folder) as app, Client(app.address) as client:
        async with client.stream("double", budget_ms=30_000) as stream:
            for value in frames(3):
                await stream.send(value)
                assert (await anext(stream)).ok
            key = stream.key_of(1)
            assert key == stream.opened.stream_key
        await written(app, 3)
        assert (await stream.feedback(1, 5, weight=2.0, source="desk")).status is JOINED
        assert +app._sampling.counts.labels == {"JOINED": 1}
    async with serving(repository, sample=folder) as app, Client(app.address) as client:
        await until(lambda: writer_pid(app))
        results = await retried(client, [Feedback(key, 2, {"y": y}), Feedback(key, 1, 1), Feedback(key, 9, 1)])
        assert [result.status for result in results] == [JOINED, JOINED, UNKNOWN]
    first, second, third = read(folder)
    assert first.labels == {"label": 1}, "the newest holds"
    assert np.array_equal(second.labels["y"], y)
    assert third.labels == {}
    assert second.labelled is not None
    assert (second.labelled.principal, second.labelled.weight) == ("127.0.0.1", 1.0)


async def retried(client: Client, items: list[Feedback]) -> list[FeedbackResult]:
    """Sends labels until somebody takes them."""
    while True:
        with contextlib.suppress(ServerUnavailable):
            return await client.feedback(items)
        await asyncio.sleep(0.01)


async def test_labels_that_cannot_be_are_named_one_by_one(repository: Path, folder: Path) -> None:
    async with serving(repository, sample=folder) as app, Client(app.address) as client:
        async with client.stream("double", budget_ms=30_000) as stream:
            await stream.send(frames(1)[0])
            assert (await anext(stream)).ok
        await written(app, 1)
        key = stream.key_of(1)

        def y(*values: float, kind: str = "float32") -> dict[str, np.ndarray]:
            return {"y": np.array(values, kind)}

        items = [
            (Feedback(key, 1, y(1, 2, np.nan, 4)), "label 'y': it has NaN or an infinity"),
            (Feedback(key, 1, y(1, 2, 3)), "label 'y': it is FP32[3], the output is FP32[4]"),
            (Feedback(key, 1, y(1, 2, 3, 4, kind="int64")), "label 'y': it is INT64[4], the output is FP32[4]"),
            (Feedback(key, 1, np.array([1, 2])), "label 'label': it has 2 elements; a class is one"),
            (Feedback(key, 1, float("inf")), "label 'label': it has NaN"),  # type: ignore[arg-type]
            (
                Feedback(key, 1, {"z": 1}),
                "label 'z': the model has no such output; it has 'y', and 'label' for a class",
            ),
            (Feedback(key, 1, {}), "it has no label"),
            (Feedback(key, 1, 1, source="a\nb"), "source should be printable"),
            (Feedback("x" * 200, 1, 1), "stream_key should be that of StreamOpened"),
            (Feedback(key, 1, {f"n{nth}": 1 for nth in range(17)}), "it has 17 labels, at most 16"),
            (Feedback(key, 1, {"n" * 129: 1}), "a label's name should be printable, and of 1 to 128 bytes"),
        ]
        results = await client.feedback([item for item, _ in items])
        for result, (_, reason) in zip(results, items, strict=True):
            assert result.status is INVALID
            assert result.reason.startswith(reason), result.reason
        (result,) = await client.feedback([Feedback(key, 2, 1)])
        assert (result.status, result.reason[:23]) == (UNKNOWN, "no frame is kept under ")
        with pytest.raises(InvalidRequest, match="labels of 1025 frames"):
            await client._call_feedback_of(1025, key) if hasattr(client, "_call_feedback_of") else await too_many(
                client, key
            )
        assert +app._sampling.counts.labels == {"INVALID": len(items), "UNKNOWN_FRAME": 1}
    assert not any(each.labels for each in read(folder))


async def too_many(client: Client, key: str) -> None:
    item = inference_pb2.FrameFeedback(stream_key=key, frame_id=1)
    request = inference_pb2.FeedbackRequest(items=[item] * 1025)
    await client._call("InferenceService/Feedback", request, inference_pb2.FeedbackResponse)


async def test_a_server_that_keeps_nothing_says_so(repository: Path) -> None:
    async with serving(repository) as app, Client(app.address) as client:
        async with client.stream("double") as stream:
            assert stream.opened.stream_key == ""
            with pytest.raises(ValueError, match="keeps no frames"):
                await stream.feedback(1, 1)
        with pytest.raises(InvalidRequest, match="keeps no frames") as off:
            await client.feedback([Feedback("0123-1", 1, 1)])
        assert off.value.reason == "FEEDBACK_OFF"
        assert not writer_pid(app)
        assert app.driver._delivery.taps is None


async def test_a_writer_that_dies_is_replaced_and_serving_goes_on(repository: Path, folder: Path) -> None:
    async with serving(repository, sample=folder, sample_frames=1000) as app, Client(app.address) as client:
        seen: set[int] = set()
        for _ in range(2):
            await until(lambda: writer_pid(app) not in seen | {0})
            before = app._sampling.counts.written["double"]
            await ask(client, frames(5))
            await until(lambda before=before: app._sampling.counts.written["double"] >= before + 1)  # type: ignore[misc]
            pid = writer_pid(app)
            seen.add(pid)
            os.kill(pid, signal.SIGKILL)
            await ask(client, frames(5))
        assert app._sampling.counts.restarts == 1 or await restarted(app, 2)
    assert list(read(folder)), "what it had written is there"
    assert not writer_pid(app)


def moved(folder: Path) -> Path:
    return folder.rename(folder.with_name("away"))


async def restarted(app: App, times: int) -> bool:
    await until(lambda: app._sampling.counts.restarts >= times)
    return True


async def test_a_folder_that_goes_is_named_and_taken_up_again(repository: Path, folder: Path) -> None:
    async with serving(repository, sample=folder, sample_frames=1000) as app, Client(app.address) as client:
        await ask(client, frames(1))
        await written(app, 1)
        away = moved(folder)
        while not app._sampling.counts.dropped["folder_gone"]:
            await ask(client, frames(2))
        await until(lambda: app._sampling.counts.restarts)
        os.mkdir(folder)
        kept = app._sampling.counts.written["double"]
        while app._sampling.counts.written["double"] <= kept:
            await ask(client, frames(2))
        assert app._sampling._link is not None
        assert app._sampling._link.problem == ""
    assert list(read(folder))
    assert len(list(read(away))) == kept


async def test_frames_of_a_model_that_learns_are_all_kept_with_their_labels(repository: Path, folder: Path) -> None:
    toml = repository / "double" / "model.toml"
    toml.write_text(toml.read_text() + '\n[learning]\nlabel = "right"\n')
    sent = frames(300)
    async with serving(repository, learn=folder, learn_frames_per_s_max=10_000) as app, Client(app.address) as client:
        async with client.stream("double", budget_ms=30_000, backlog="ALL") as stream:
            for at in range(0, 300, 50):
                await stream.send_many(sent[at : at + 50])
                for _ in range(50):
                    assert (await anext(stream)).ok
        key = stream.key_of(1)
        waiting = await client.feedback([Feedback(key, nth, {"right": nth % 2}) for nth in range(1, 301, 2)])
        assert {result.status for result in waiting} == {JOINED}
        assert (await stream.feedback(2, 1)).reason.endswith("and 'right' for a class")
        await written(app, 300)
        later = await client.feedback([Feedback(key, nth, {"right": 5}) for nth in (1, 299)])
        assert {result.status for result in later} == {JOINED}
        await ask(client, [np.ones(2, np.float32)], model="sum")
    kept = list(read(folder))
    assert len(kept) == 300
    for each in kept:
        assert np.array_equal(each.inputs["x"], sent[each.frame_id - 1])
        right = 5 if each.frame_id in (1, 299) else 1
        assert each.labels == ({"right": right} if each.frame_id % 2 else {})
    assert not (folder / "sum").exists()
