"""The law over gRPC and the local transport: whatever a client does, every frame it sent is answered exactly once."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duly.app import App
from duly.v1 import inference_pb2 as pb
from tests.e2e.local_wire import LocalWire
from tests.e2e.wire import LATE, ON_TIME, Wire, frame

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("frames"), st.integers(1, 5), st.sampled_from([1, 10**5, 10**7, 10**9])),
        st.tuples(st.just("bad"), st.integers(1, 3), st.just(10**9)),
        st.tuples(st.just("cancel"), st.integers(1, 30), st.just(0)),
        st.tuples(st.just("wait"), st.just(0), st.just(0)),
    ),
    min_size=1,
    max_size=25,
)


async def open_wire(stack: AsyncExitStack, app: App, transport: str, **terms: Any) -> Wire | LocalWire:
    if transport == "local":
        return await stack.enter_async_context(LocalWire(app.local_path, **terms))
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(app.address))
    return await stack.enter_async_context(Wire(channel, **terms))


async def send(wire: Wire | LocalWire, ids: range, values: list[float], budget_ns: int) -> None:
    if isinstance(wire, LocalWire):
        await wire.send(*(wire.described(frame_id, values, budget_ns=budget_ns) for frame_id in ids))
    else:
        await wire.send(*(frame(frame_id, values, budget_nano=budget_ns) for frame_id in ids))


async def cancel(wire: Wire | LocalWire, frame_id: int) -> None:
    if isinstance(wire, LocalWire):
        await wire.cancel(frame_id)
    else:
        await wire.write(pb.StreamRequest(cancel=pb.CancelFrames(frame_ids=[frame_id])))


@pytest.mark.parametrize("transport", ["grpc", "local"])
@given(actions=ACTIONS, policy=st.sampled_from([1, 2, 3]), ordering=st.sampled_from([1, 2, 3]), model=st.booleans())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_law_over_the_wire(
    wire_loop: "tuple[asyncio.Runner, App]",
    transport: str,
    actions: list[tuple[str, int, int]],
    policy: int,
    ordering: int,
    model: bool,
) -> None:
    """Whatever a client does, every frame it sent is answered exactly once before the stream ends well."""
    runner, app = wire_loop
    name, width = ("sum", 2) if model else ("double", 4)

    async def story() -> None:
        async with AsyncExitStack() as stack:
            wire = await open_wire(
                stack,
                app,
                transport,
                model=name,
                backlog_policy=policy,
                backlog_frames=3 if policy == pb.BACKLOG_POLICY_KEEP_LAST else 0,
                ordering=ordering,
            )
            sent = 0
            for kind, count, budget_ns in actions:
                if kind in ("frames", "bad"):
                    values = [1.0] * (width if kind == "frames" else width + 1)
                    await send(wire, range(sent + 1, sent + count + 1), values, budget_ns)
                    sent += count
                elif kind == "cancel":
                    await cancel(wire, count)
                elif sent:
                    await wire.outcome(sent)
            await wire.finish()
            if isinstance(wire, LocalWire):
                assert wire.end == {"reason": "", "text": ""}
            assert sorted(wire.outcomes) == list(range(1, sent + 1))
            if ordering == pb.ORDERING_ARRIVAL:
                assert wire.order == sorted(wire.order)
            if ordering == pb.ORDERING_MONOTONIC:
                results = [i for i in wire.order if wire.outcomes[i].status in (ON_TIME, LATE)]
                assert results == sorted(results)
        assert app.driver.held.bytes == 0

    runner.run(story())
