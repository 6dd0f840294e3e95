"""The law with guards, over gRPC and the local transport: every frame is answered once, with the flags that it has."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from duly.app import App
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.test_guards import ALL, BLANK, FROZEN, RANGE, SCORE
from tests.e2e.test_law import open_wire, send
from tests.e2e.wire import INVALID, ON_TIME

KINDS = {"fine": 0, "again": 0, "large": 160, "far": 60, "blank": 0}


def expected(values: list[list[float]]) -> list[tuple[int, list[str]]]:
    """What becomes of the frames of one stream of `watched`: its status and its flags."""
    outcomes, repeats = [], 0
    for index, value in enumerate(values):
        repeats = repeats + 1 if index and value == values[index - 1] else 0
        blank = len(set(value)) == 1
        found = {"frozen": repeats > 1, "range": max(value) > 100, "blank": blank}
        found["distribution"] = not blank and max(value) > 50
        outcomes.append((INVALID if blank else ON_TIME, [name for name, is_so in found.items() if is_so]))
    return outcomes


@pytest.fixture(scope="module")
def own_loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, App]]:
    """A server and the loop that it runs in."""
    root = tmp_path_factory.mktemp("law") / "models"
    graphs.save(root, "watched", graphs.scored(), toml=ALL + FROZEN + RANGE + BLANK + SCORE)
    with asyncio.Runner() as runner, TemporaryDirectory(prefix="duly-") as folder:
        server = serving(root, local=f"{folder}/local.sock")
        yield runner, runner.run(server.__aenter__())
        runner.run(server.__aexit__(None, None, None))


@pytest.mark.parametrize("transport", ["grpc", "local"])
@given(kinds=some.lists(some.lists(some.sampled_from(sorted(KINDS)), min_size=1, max_size=9), min_size=1, max_size=6))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_every_frame_has_one_outcome_with_the_flags_that_it_should_have(
    own_loop: tuple[asyncio.Runner, App], transport: str, kinds: list[list[str]]
) -> None:
    """Whatever lies between good frames, and however they are put into batches."""
    runner, app = own_loop

    async def story() -> None:
        values: list[list[float]] = []
        async with AsyncExitStack() as stack:
            wire = await open_wire(stack, app, transport, model="watched", default_budget_nano=60 * 10**9)
            for message in kinds:
                for kind in message:
                    last = float(KINDS[kind] or len(values) + 1)
                    value = [0.0, 0.0, 0.0, 0.0] if kind == "blank" else [0.25, 0.5, 0.75, last]
                    values.append(values[-1] if kind == "again" and values else value)
                    await send(wire, range(len(values), len(values) + 1), values[-1], 60 * 10**9)
            await wire.finish()
            found = {number: (each.status, list(each.guards)) for number, each in wire.outcomes.items()}
            assert found == dict(enumerate(expected(values), start=1))
        assert app.driver.held.bytes == 0

    runner.run(story())
