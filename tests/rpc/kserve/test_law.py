"""The law over KServe's protocol, in any order of what happens."""

import asyncio

import pytest

from tests.rpc.kserve.law import World


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_every_request_gets_one_reply_or_its_call_a_status_and_nothing_is_left(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def worlds() -> int:
        requests = 0
        for seed in range(first, first + 50):
            world = World(seed, monkeypatch)
            try:
                await world.run()
            except BaseException as error:
                error.add_note(f"seed {seed}; the last acts: {' '.join(world.log[-25:])}")
                raise
            requests += world.requests
        return requests

    assert asyncio.run(worlds()) > 1000
