"""The whole way of what real tools wrote: `duly stream`, a real server, a real worker, and what comes back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from duly.app import App
from tests import graphs
from tests.client.duly_stream import finished, start
from tests.e2e.serving import serving
from tests.recordings.truth import COLOUR, DEPTH, PICTURES, SOUND

RECORDINGS = Path(__file__).parents[1] / "recordings"
TOML = 'batch_sizes = [1, 2]\ndefault_budget_ms = 5000\ndefault_backlog = "ALL"\n[[input]]\nname = "x"\n'
CORNER = 8
"""The models give back so many rows and columns, few enough for `duly stream` to print."""


def corner(channels: int) -> Any:
    dims = ("N", "H", "W", channels)
    return graphs.model(
        [helper.make_node("Slice", ["x", "start", "end", "axes"], ["y"])],
        [graphs.value("x", dims)],
        [graphs.value("y", ("N", CORNER, CORNER, channels))],
        {"start": np.array([0, 0]), "end": np.array([CORNER, CORNER]), "axes": np.array([1, 2])},
    )


async def streamed(server: App, model: str, file: str, *options: str, stdin: bool = False) -> tuple[list[Any], str]:
    """What comes back for each frame that is served, and what is told besides."""
    path = RECORDINGS / file
    process = await start(model, "--server", server.address, "--input", "-" if stdin else path, "--json", *options)
    status, lines, errors = await finished(process, path.read_bytes() if stdin else b"")
    outcomes = [json.loads(line) for line in lines[:-1]]
    values = [np.array(outcome["outputs"]["y"]) for outcome in outcomes if outcome["status"] == "ON_TIME"]
    assert status == (0 if values else 1), errors
    return values, errors + "".join(outcome["reason"] for outcome in outcomes)


async def test_what_was_recorded_comes_back(tmp_path: Path) -> None:
    graphs.save(tmp_path, "camera", corner(3), TOML + 'encodings = ["JPEG", "PNG"]\n')
    graphs.save(tmp_path, "range", corner(1), TOML + 'encodings = ["PNG"]\ndatatype = "UINT16"\n')
    voice = 'encodings = ["PCM_S16LE"]\nsample_rate_hz = 16000\n'
    graphs.save(tmp_path, "voice", graphs.copying(("N", 512), TensorProto.FLOAT), TOML + voice)
    async with serving(tmp_path) as server:
        (depth,), _ = await streamed(server, "range", "ffmpeg_depth.png")
        np.testing.assert_array_equal(depth[..., 0], DEPTH[:CORNER, :CORNER])
        nothing, why = await streamed(server, "camera", "ffmpeg_depth.png")
        assert (nothing, "the PNG has 16 bits a channel, the model takes 8 (UINT8)" in why) == ([], True)
        (turned,), _ = await streamed(server, "camera", "pillow_turned.png")
        np.testing.assert_array_equal(turned, np.rot90(COLOUR, -1)[:CORNER, :CORNER])
        pictures, why = await streamed(server, "camera", "damaged.mjpeg", stdin=True)
        for picture, recorded in zip(pictures, PICTURES[::2], strict=True):
            np.testing.assert_allclose(picture, recorded[:CORNER, :CORNER], atol=10)
        assert "passed over: stdin: picture 2 is damaged" in why
        for stdin in (False, True):
            chunks, _ = await streamed(server, "voice", "ffmpeg_pipe.wav", stdin=stdin)
            np.testing.assert_array_equal(np.concatenate(chunks), SOUND[:1024] / np.float32(1 << 15))
