"""Turns are shared by who waits for them, whoever asks most often, and every turn is given back whatever happens."""

import asyncio
from random import Random

import pytest

from duly.runtime.fair_turns import FairTurns, TooManyWait


async def waiting(turns: FairTurns, principal: str, connection: str, came: list[str]) -> None:
    async with turns.turn(principal, connection):
        came.append(f"{principal}{connection}")


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def ask(turns: FairTurns, came: list[str], *who: tuple[str, str]) -> list["asyncio.Task[None]"]:
    tasks = [asyncio.create_task(waiting(turns, *each, came)) for each in who]
    await settle()
    return tasks


async def test_turns_go_round_principals_and_the_connections_of_each() -> None:
    turns, came = FairTurns(100), list[str]()
    async with turns.turn("x", "0"):
        tasks = await ask(turns, came, *[("a", "1")] * 4, *[("a", "2")] * 2, ("b", "1"), ("c", "1"))
        assert turns.waiting == 8
    await asyncio.gather(*tasks)
    assert came == ["a1", "b1", "c1", "a2", "a1", "a2", "a1", "a1"]


async def test_where_too_many_wait_the_connection_that_has_most_gives_up_its_newest() -> None:
    turns, came = FairTurns(4), list[str]()
    async with turns.turn("x", "0"):
        tasks = await ask(turns, came, *[("a", "1")] * 4)
        with pytest.raises(TooManyWait):
            async with turns.turn("a", "1"):
                pass
        tasks += await ask(turns, came, ("b", "1"))
        assert turns.waiting == 4
        tasks += [asyncio.create_task(one_more(turns, came))]
        await settle()
        assert turns.waiting == 5, "an operator is always let in"
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in ended] == [type(None)] * 3 + [TooManyWait] + [type(None)] * 2
    assert came == ["a1", "b1", "operator", "a1", "a1"]


async def one_more(turns: FairTurns, came: list[str]) -> None:
    async with turns.turn("", "", whoever_waits=True):
        came.append("operator")


async def test_whoever_goes_away_at_whatever_moment_no_turn_is_lost() -> None:
    for seed in range(60):
        random, turns, came = Random(seed), FairTurns(8), list[str]()
        tasks: list[asyncio.Task[None]] = []
        for _ in range(60):
            if random.random() < 0.6:
                tasks.append(asyncio.create_task(busy(turns, random, came)))
            elif tasks:
                random.choice(tasks).cancel()
            if random.random() < 0.5:
                await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks, return_exceptions=True)
            async with turns.turn("last", "1"):
                assert turns.waiting == 0
        assert turns._rounds == {}


async def busy(turns: FairTurns, random: Random, came: list[str]) -> None:
    async with turns.turn(random.choice("ab"), random.choice("12")):
        assert not came, "one at a time"
        came.append("in")
        try:
            for _ in range(random.randint(0, 3)):
                await asyncio.sleep(0)
        finally:
            came.clear()
