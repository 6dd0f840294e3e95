"""A drive with what a real camera and a real microphone gave, through real models."""

import wave
from pathlib import Path

import pytest

from duly.demo.assets import fetch
from duly.demo.prepare import prepare_models
from tests.duly_logs.conftest import run
from tests.duly_logs.drives import protobuf_drive, video_pictures
from tests.duly_logs.test_cli_replay import messages, outcomes
from tests.e2e.serving import serving


@pytest.mark.timeout(300)
async def test_a_street_and_a_conversation(tmp_path: Path) -> None:
    """Frames 102 to 109 of the video show people in a street. In the sound somebody speaks from 7 s on."""
    assets = fetch(["bikes.mp4", "sample.wav"], progress=False)
    with wave.open(str(assets["sample.wav"])) as sound:
        sound.setpos(7 * 16000)
        samples = sound.readframes(2 * 16000)
    drive = protobuf_drive(tmp_path / "drive.mcap", video_pictures(assets["bikes.mp4"], 102, 8), samples)
    seen, heard = tmp_path / "seen.mcap", tmp_path / "heard.mcap"
    async with serving(prepare_models(), admission="advise") as app:
        for model, out in (("yolo", seen), ("vad", heard)):
            status, text, errors = await run(
                "replay", drive, "--model", model, "--server", app.address, "--speed", "max", "--write", out
            )
            assert status == 0, errors
            assert text.startswith(f"{8 if model == 'yolo' else 62} frames sent: ")
    found = [{d.label for d in outcome.detections} for outcome in outcomes(seen, "yolo")]  # type: ignore[attr-defined]
    assert sum("person" in labels for labels in found) >= 7, found
    texts = [text.text for _, content in messages(seen, "/duly/yolo/annotations") for text in content.texts]
    assert any(text.startswith("person 0.") for text in texts)
    speech = [outcome.outputs[0].values[0] for outcome in outcomes(heard, "vad")]  # type: ignore[attr-defined]
    assert sum(value > 0.5 for value in speech) > 40, speech
