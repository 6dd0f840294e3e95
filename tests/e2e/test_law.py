"""The law over the wire: whatever a client does, every frame it sent is answered exactly once."""

import asyncio

import grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duly.app import App
from duly.v1 import inference_pb2 as pb
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


@given(actions=ACTIONS, policy=st.sampled_from([1, 2, 3]), ordering=st.sampled_from([1, 2, 3]), model=st.booleans())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_law_over_the_wire(
    wire_loop: "tuple[asyncio.Runner, App]",
    actions: list[tuple[str, int, int]],
    policy: int,
    ordering: int,
    model: bool,
) -> None:
    """Whatever a client does, every frame it sent is answered exactly once before the stream ends well."""
    runner, app = wire_loop
    name, width = ("sum", 2) if model else ("double", 4)

    async def story() -> None:
        async with (
            grpc.aio.insecure_channel(app.address) as channel,
            Wire(
                channel,
                model=name,
                backlog_policy=policy,
                backlog_frames=3 if policy == pb.BACKLOG_POLICY_KEEP_LAST else 0,
                ordering=ordering,
            ) as wire,
        ):
            sent = 0
            for kind, count, budget_ns in actions:
                if kind in ("frames", "bad"):
                    values = [1.0] * (width if kind == "frames" else width + 1)
                    await wire.send(*(frame(sent + n, values, budget_nano=budget_ns) for n in range(1, count + 1)))
                    sent += count
                elif kind == "cancel":
                    await wire.write(pb.StreamRequest(cancel=pb.CancelFrames(frame_ids=[count])))
                elif sent:
                    await wire.outcome(sent)
            await wire.finish()
            assert sorted(wire.outcomes) == list(range(1, sent + 1))
            if ordering == pb.ORDERING_ARRIVAL:
                assert wire.order == sorted(wire.order)
            if ordering == pb.ORDERING_MONOTONIC:
                results = [i for i in wire.order if wire.outcomes[i].status in (ON_TIME, LATE)]
                assert results == sorted(results)
        assert app.driver.held.bytes == 0

    runner.run(story())
