"""Sequences over unary calls: requests with one sequence_id share their model's state, and leave nothing behind."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from duly.app import App
from duly.rpc.kserve import front_end, messages, sequences
from duly.v1 import model_pb2, model_pb2_grpc
from tests import graphs
from tests.access.credentials import RIGHT, policy
from tests.e2e.kserve_wire import StreamWire, infer, numbers, refused, request, until
from tests.e2e.serving import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


def step(value: float, sequence: int | str, *flags: str, **parameters: int | str) -> messages.ModelInferRequest:
    """One step of a sequence of the running sum. Flags: start, end."""
    asked = {f"sequence_{flag}": True for flag in flags}
    return request("sum", [[value, -value]], sequence_id=sequence, **asked, **parameters)


async def total(channel: grpc.aio.Channel, *arguments: object, **parameters: int | str) -> float:
    return numbers(await infer(channel, step(*arguments, **parameters)))[0]  # type: ignore[arg-type]


def nothing_left(app: App) -> bool:
    """Whether no sequence, stream or frame is left, and nothing is counted as held."""
    assert app.kserve is not None
    memory = app.streams.host.memory
    counts = (app.kserve.sequences, len(app.streams), len(app.driver.held), app.driver.held.bytes)
    return not any((*counts, memory.outcomes, memory.result_bytes))


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def nothing_is_left(shared_server: App) -> AsyncIterator[None]:
    yield
    await until(lambda: nothing_left(shared_server))


async def test_steps_of_a_sequence_share_their_state_and_others_have_their_own(
    shared_server: App, shared_channel: grpc.aio.Channel
) -> None:
    assert shared_server.kserve is not None
    assert await total(shared_channel, 5, 1, "start") == 5
    assert await total(shared_channel, 7, "1", "start") == 7, "text is no number"
    assert await total(shared_channel, 6, 1) == 11
    assert await total(shared_channel, 1, "1") == 8
    assert (shared_server.kserve.sequences, len(shared_server.streams)) == (2, 2)
    assert await total(shared_channel, 1, 1, "end") == 12
    assert await total(shared_channel, 1, "1", "end") == 9


async def test_a_sequence_goes_on_over_another_connection(shared_server: App) -> None:
    for value, flags, expected in ((5, ("start",), 5), (6, (), 11), (1, ("end",), 12)):
        async with grpc.aio.insecure_channel(
            shared_server.address, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            assert await total(channel, value, 3, *flags) == expected


async def test_a_start_begins_anew_and_one_request_may_be_first_and_last(shared_channel: grpc.aio.Channel) -> None:
    assert await total(shared_channel, 5, 2, "start") == 5
    assert await total(shared_channel, 6, 2, "start") == 6
    assert await total(shared_channel, 4, 2, "end") == 10
    for _ in range(2):
        assert await total(shared_channel, 9, 2, "start", "end") == 9


async def test_a_request_of_a_sequence_that_has_not_begun_is_refused(shared_channel: grpc.aio.Channel) -> None:
    for flags in ((), ("end",)):
        error = await refused(infer(shared_channel, step(1, 4, *flags)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details() == (
            "[request id: r1] parameter 'sequence_id' is 4, a sequence of model 'sum' that has not begun or is over; "
            "its first request has 'sequence_start' true"
        )
    await total(shared_channel, 1, 4, "start", "end")
    assert (await refused(infer(shared_channel, step(1, 4)))).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_first_request_that_is_refused_begins_nothing(shared_channel: grpc.aio.Channel) -> None:
    asked = step(1, 5, "start")
    asked.outputs.add(name="nothing")
    assert "there is no output 'nothing'" in str((await refused(infer(shared_channel, asked))).details())
    unknown = step(1, 5, "start")
    unknown.model_name = "unknown"
    assert (await refused(infer(shared_channel, unknown))).code() is grpc.StatusCode.NOT_FOUND
    assert "has not begun" in str((await refused(infer(shared_channel, step(1, 5)))).details())


async def test_a_bad_step_is_answered_and_changes_no_state(shared_channel: grpc.aio.Channel) -> None:
    assert await total(shared_channel, 5, 6, "start") == 5
    asked = step(1, 6)
    asked.raw_input_contents[0] = b"123"
    error = await refused(infer(shared_channel, asked))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "input 'x'" in str(error.details())
    assert await total(shared_channel, 1, 6, "end") == 6


async def test_calls_of_one_sequence_that_are_under_way_at_once_each_get_their_own_answer(
    shared_channel: grpc.aio.Channel,
) -> None:
    assert await total(shared_channel, 0, 7, "start") == 0
    asked = [step(2**bit, 7) for bit in range(20)]
    replies = await asyncio.gather(*(infer(shared_channel, each) for each in asked))
    totals = [int(numbers(reply)[0]) for reply in replies]
    assert max(totals) == 2**20 - 1
    assert all(each & 2**bit for bit, each in enumerate(totals)), "each has its own step in it"
    ordered = sorted(totals)
    assert all(before & after == before for before, after in itertools.pairwise(ordered)), "one after another"
    await total(shared_channel, 0, 7, "end")


async def test_calls_that_come_while_their_sequence_begins_wait_for_it(shared_channel: grpc.aio.Channel) -> None:
    asked = [step(1, 8, "start"), *(step(1, 8) for _ in range(8))]
    calls = [infer(shared_channel, each) for each in asked]
    replies = await asyncio.gather(*calls, return_exceptions=True)
    totals = [numbers(reply)[0] for reply in replies if not isinstance(reply, BaseException)]
    assert sorted(totals) == [float(n + 1) for n in range(len(totals))]
    for reply in replies:  # one that overtook the first
        assert not isinstance(reply, BaseException) or "has not begun" in str(reply)
    await total(shared_channel, 0, 8, "end")


async def test_rows_of_a_request_are_steps_one_after_another(shared_channel: grpc.aio.Channel) -> None:
    rows = request("sum", [[1, 1], [2, 2], [3, 3]], sequence_id=9, sequence_start=True, sequence_end=True)
    assert numbers(await infer(shared_channel, rows)) == [1, 1, 3, 3, 6, 6]


async def test_parameters_of_sequences_mean_nothing_to_models_without_state(shared_channel: grpc.aio.Channel) -> None:
    asked = request("double", [[1, 2, 3, 4]], sequence_id=5)
    assert numbers(await infer(shared_channel, asked)) == [2, 4, 6, 8]


async def test_the_terms_of_a_sequence_are_those_of_its_first_request(
    shared_server: App, shared_channel: grpc.aio.Channel
) -> None:
    """Over unary calls and in a stream alike: another priority later is no other sequence."""
    assert await total(shared_channel, 5, 10, "start", priority=3) == 5
    assert await total(shared_channel, 6, 10, priority=1) == 11
    assert await total(shared_channel, 1, 10, "end") == 12
    async with StreamWire(shared_channel) as wire:
        first, second, third = step(5, 10, "start", priority=3), step(6, 10, priority=1), step(1, 10, "end")
        first.id, second.id, third.id = "first", "second", "third"
        await wire.send(first, second, third)
        for request_id, expected in (("first", 5), ("second", 11), ("third", 12)):
            reply = await wire.reply(request_id)
            assert (reply.error_message, numbers(reply.infer_response)[0]) == ("", expected)
        await wire.finish()


async def test_a_call_that_is_cancelled_leaves_nothing_and_its_sequence_goes_on(
    shared_server: App, shared_channel: grpc.aio.Channel
) -> None:
    assert await total(shared_channel, 5, 11, "start") == 5
    for _ in range(50):
        call = infer(shared_channel, step(0, 11))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert await total(shared_channel, 1, 11) == 6
    last = infer(shared_channel, step(0, 11, "end"))
    await asyncio.sleep(0)
    last.cancel()
    await asyncio.wait([asyncio.ensure_future(last.code())])
    await asyncio.gather(infer(shared_channel, step(0, 11, "end")), return_exceptions=True)


async def test_a_call_that_is_cancelled_while_its_sequence_opens_leaves_nothing(
    shared_server: App, shared_channel: grpc.aio.Channel
) -> None:
    for turns in range(40):
        call = infer(shared_channel, step(1, 12, "start"))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([asyncio.ensure_future(call.code())])
    await total(shared_channel, 1, 12, "start", "end")


async def test_an_idle_sequence_is_over_and_one_under_way_is_not(
    shared_server: App, shared_channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kserve = shared_server.kserve
    assert kserve is not None
    assert await total(shared_channel, 1, 13, "start") == 1
    async with StreamWire(shared_channel) as wire:
        await wire.send(step(1, 14, "start"), request("double", [[1, 2, 3, 4]], "kept"))
        await wire.reply("r1")
        await wire.reply("kept")
        kserve.watch()
        assert (kserve.sequences, len(shared_server.streams)) == (1, 3)
        monkeypatch.setattr(sequences, "SEQUENCE_IDLE_NS_MAX", 0)
        monkeypatch.setattr("duly.rpc.kserve.stream_call.SEQUENCE_IDLE_NS_MAX", 0)
        kserve.watch()
        await until(lambda: (kserve.sequences, len(shared_server.streams)) == (0, 1))
        wire.replies.clear()
        await wire.send(step(1, 14))
        assert "has not begun or is over" in (await wire.reply("r1")).error_message
        await wire.finish()
    assert "has not begun or is over" in str((await refused(infer(shared_channel, step(1, 13)))).details())
    assert front_end.SEQUENCE_IDLE_NS_MAX == 60_000_000_000


async def test_a_principal_has_a_limit_of_sequences_and_gets_their_places_back(
    shared_channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "SEQUENCES_PRINCIPAL_MAX", 4)
    for sequence in range(1, 5):
        await total(shared_channel, 1, sequence, "start")
    error = await refused(infer(shared_channel, step(1, 5, "start")))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "4 sequences of '127.0.0.1' are open already, 4 in all; at most 4 may be, 512 in all" in str(error.details())
    assert await total(shared_channel, 1, 4) == 2, "those that are there go on"
    for _ in range(3):
        assert await total(shared_channel, 1, 4, "start") == 1, "one that begins anew has its place already"
    assert await total(shared_channel, 1, 4) == 2
    await total(shared_channel, 1, 1, "end")
    await total(shared_channel, 1, 5, "start")
    for sequence in range(2, 6):
        await total(shared_channel, 1, sequence, "end")


async def test_unloading_its_model_ends_what_a_sequence_can_do(tmp_path: Path) -> None:
    graphs.save(tmp_path, "sum", graphs.summing(), graphs.SUMMING)
    graphs.save(tmp_path, "double", graphs.scaling())
    async with serving(tmp_path) as app, grpc.aio.insecure_channel(app.address) as channel:
        control = model_pb2_grpc.ModelServiceStub(channel)
        assert await total(channel, 5, 1, "start") == 5
        await control.UnloadModel(model_pb2.UnloadModelRequest(name="sum"))
        assert (await refused(infer(channel, step(1, 1)))).code() is grpc.StatusCode.NOT_FOUND
        await control.LoadModel(model_pb2.LoadModelRequest(name="sum"))
        assert await total(channel, 1, 1) == 1, "it goes on, with a state that begins anew"
        assert await total(channel, 1, 1, "end") == 2
        await until(lambda: nothing_left(app))


async def test_a_sequence_goes_over_to_a_new_version(tmp_path: Path) -> None:
    graphs.save(tmp_path, "sum", graphs.summing(), graphs.SUMMING)
    async with serving(tmp_path) as app, grpc.aio.insecure_channel(app.address) as channel:
        control = model_pb2_grpc.ModelServiceStub(channel)
        assert await total(channel, 5, 1, "start") == 5
        graphs.save(tmp_path, "sum", graphs.summing(), graphs.SUMMING, version=2)
        await control.LoadModel(model_pb2.LoadModelRequest(name="sum", version="2"))
        await control.ActivateVersion(model_pb2.ActivateVersionRequest(name="sum", version="2"))
        reply = await infer(channel, step(1, 1))
        assert (reply.model_version, numbers(reply)[0]) == ("2", 1)
        assert await total(channel, 1, 1, "end") == 2
        await until(lambda: nothing_left(app))


async def test_a_drain_answers_what_is_under_way_and_ends_all_sequences(tmp_path: Path) -> None:
    graphs.save(tmp_path, "sum", graphs.summing(), graphs.SUMMING)
    async with serving(tmp_path) as app, grpc.aio.insecure_channel(app.address) as channel:
        assert await total(channel, 5, 1, "start") == 5
        calls = [asyncio.ensure_future(infer(channel, step(1, 1))) for _ in range(20)]
        await until(lambda: len(app.driver.held))
        await app.drain()
        replies = await asyncio.gather(*calls, return_exceptions=True)
        for reply in replies:
            assert not isinstance(reply, BaseException) or "drain" in str(reply) or "stopped" in str(reply), reply
        await until(lambda: nothing_left(app))
        error = await refused(infer(channel, step(1, 2, "start")))
        assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_sequence_is_its_principals_own_and_ends_with_the_right_to_it(tmp_path: Path) -> None:
    graphs.save(tmp_path / "models", "sum", graphs.summing(), graphs.SUMMING)
    graphs.save(tmp_path / "models", "double", graphs.scaling())
    anyone = '\n[[principal]]\nname = "anyone"\nmodels = ["sum"]\nanyone = true\n'
    policy(tmp_path, anyone)
    right = (("authorization", f"Bearer {RIGHT}"),)
    async with (
        serving(tmp_path / "models", policy=tmp_path / "policy.toml") as app,
        grpc.aio.insecure_channel(app.address) as channel,
    ):
        assert numbers(await infer(channel, step(5, 1, "start"), metadata=right))[0] == 5
        assert "has not begun" in str((await refused(infer(channel, step(1, 1)))).details()), "it is another's"
        assert await total(channel, 7, 1, "start") == 7
        assert numbers(await infer(channel, step(1, 1), metadata=right))[0] == 6
        policy(tmp_path, anyone.replace('["sum"]', '["sum"]\nclasses = ["BEST_EFFORT"]'))
        await app._doors.gate.reload()
        error = await refused(infer(channel, step(1, 1)))
        assert (error.code(), "may not claim STANDARD" in str(error.details())) == (
            grpc.StatusCode.PERMISSION_DENIED,
            True,
        )
        assert app.kserve is not None
        await until(lambda: app.kserve is not None and app.kserve.sequences == 1)
        assert numbers(await infer(channel, step(1, 1, "end"), metadata=right))[0] == 7
        await until(lambda: nothing_left(app))
