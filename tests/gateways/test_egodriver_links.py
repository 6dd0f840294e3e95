"""Streams of rollouts: callers in threads, and a real server."""

import asyncio
from pathlib import Path

import pytest

from duly_client import Client
from duly_gateways.egodriver.links import Links
from duly_gateways.egodriver.settings import read_settings
from duly_gateways.settings_file import Table
from tests import graphs
from tests.e2e.serving import serving


@pytest.mark.asyncio
async def test_rollouts_that_begin_at_once_are_no_more_than_may_be_open(tmp_path: Path) -> None:
    chunk = '[chunk]\noutput = "actions"\ndt_ms = 20\n'
    graphs.save(tmp_path / "models", "policy", graphs.acting(), chunk)
    async with serving(tmp_path / "models") as app, Client(app.address) as client:
        links = Links(client, read_settings(Table("", {"sessions_max": 2}), "policy"))
        opening = [asyncio.to_thread(links.open, f"rollout {nth}", lambda *_: None) for nth in range(8)]
        opened = await asyncio.gather(*opening, return_exceptions=True)
        refused = [each for each in opened if isinstance(each, ValueError) and "sessions_max" in str(each)]
        assert (len(app.streams), len(refused)) == (2, 6)
        await links.end()
