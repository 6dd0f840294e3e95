"""`duly models optimize` on the demo's detector: 8 bits are faster by far, and agree or are refused with the figure."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from duly.cli_models import models
from duly.models.repository import Repository
from tests.worker import real

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1800)]


def test_the_detector_in_8_bits(tmp_path: Path) -> None:
    root = real.yolo(tmp_path / "models")
    street = real.asset("bikes.mp4")
    page = tmp_path / "report.html"
    arguments = ["--steps", "int8-static,int8-dynamic", "--frames", str(street), "--frames-max", "120"]
    arguments += ["--held-out", "0.5", "--judge", "mean", "--tolerance", "0.05"]
    done = CliRunner().invoke(
        models,
        ["optimize", str(root), "yolo", *arguments, "--report", str(page)],
        catch_exceptions=False,
    )
    assert "the graph has 9 convolutions and no matrix products" in done.stdout
    text = page.read_text()
    assert "Accuracy against latency" in text
    if done.exit_code:
        assert "and 0.95 is asked for (tolerance 0.05)" in done.stdout or "it is not faster" in done.stdout
        assert not (root / "yolo/2").exists()
        return
    newest = Repository(root).scan()[0][0]
    assert newest.key == "yolo/2"
    assert newest.config.variant_names[-1] == "int8-static"
    assert newest.config.variants[-1].accuracy >= 0.95
