"""The example of docs/kserve.md runs as it stands there, with tritonclient in an environment of its own."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.documents.pages import ROOT, blocks
from tests.e2e.serving import serving
from tests.peers.environments import plain, python_of, running

pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]


async def test_the_example_of_the_page(tmp_path: Path) -> None:
    (example,) = [block.text for block in blocks("python") if block.page == "docs/kserve.md"]
    script = ROOT / "clients" / "python" / "examples" / "policy.py"
    making = await asyncio.create_subprocess_exec(sys.executable, str(script), "model", str(tmp_path / "policy"))
    assert await making.wait() == 0
    async with serving(tmp_path / "policy") as app:
        file = tmp_path / "example.py"
        file.write_text(example.replace("127.0.0.1:8500", app.address), "utf-8")
        async with running(python_of("tritonclient"), file, env=plain()) as process:
            out, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
    outcome, inferences = out.decode().splitlines()
    assert outcome.startswith("ON_TIME (2, 50, 8) ")
    assert inferences == "2"
