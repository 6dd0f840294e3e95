"""What the examples of the pages expect of the reader: a folder with models and pictures, and a server that runs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper

from tests import graphs
from tests.documents.pages import ROOT, blocks

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "server", ROOT / "clients" / "python", ROOT / "load_tests", ROOT))),
}


README = "README.md"
SAMPLES = "samples"
"""The folder in which the server keeps frames."""
LOCAL = "local.sock"
"""The socket in the reader's folder at which the server shares memory."""


def detector() -> onnx.ModelProto:
    """grid[N,425,13,13] from images[N,3,416,416]: it has the shapes of the demo's detector, and finds nothing."""
    nodes = [
        helper.make_node("AveragePool", ["images"], ["pooled"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("Conv", ["pooled", "weights"], ["grid"]),
    ]
    constants = {"weights": np.full((425, 3, 1, 1), -10, np.float32)}
    inputs, grid = [graphs.value("images", ["N", 3, 416, 416])], [graphs.value("grid", ["N", 425, 13, 13])]
    return graphs.model(nodes, inputs, grid, constants)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples run: the checkout's folders, pictures, and `models` with the models that the README serves."""
    root = tmp_path_factory.mktemp("reader")
    for entry in ROOT.iterdir():
        if entry.is_dir() and not entry.name.startswith("."):
            (root / entry.name).symlink_to(entry)
    picture = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
    for name in ("picture.jpg", "street.jpg"):
        (root / name).write_bytes(picture)
    (settings,) = [each.text for each in blocks("toml") if each.page == README and "[[input]]" in each.text]
    here = "".join(line for line in settings.splitlines(keepends=True) if not line.startswith("providers"))
    graphs.save(root / "models", "detector", detector(), here)
    demo = ROOT / "server" / "duly" / "demo" / "models" / "yolo" / "model.toml"
    graphs.save(root / "models", "yolo", detector())
    (root / "models" / "yolo" / "model.toml").write_text(demo.read_text("utf-8"))
    (root / "models" / "yolo" / "coco.names").write_text("\n".join(f"class {number}" for number in range(80)))
    graphs.save(root / "models", "reviews", graphs.sorting_reviews())
    graphs.save(root / "models", "policy", graphs.acting(), '[chunk]\noutput = "actions"\ndt_ms = 20\n')
    (root / SAMPLES).mkdir()
    (pbtxt,) = [each.text for each in blocks("pbtxt")]
    graphs.save(root / "models", "tracker", graphs.summing())
    (root / "models" / "tracker" / "model.toml").unlink()
    (root / "models" / "tracker" / "config.pbtxt").write_text(pbtxt)
    return root


def run(folder: Path, *command: str) -> "subprocess.Popen[str]":
    """Starts `duly`, `duly-load`, `duly-sim` or `python` with the code of this checkout, in the reader's folder."""
    modules = {
        "duly": ["-m", "duly.cli"],
        "duly-load": ["-m", "duly_load.cli.main"],
        "duly-sim": ["-m", "duly_sim.cli.main"],
        "python": [],
    }
    return subprocess.Popen(
        [sys.executable, *modules[command[0]], *command[1:]],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """A server as the README starts it, on ports that are free."""
    lines = [line for block in blocks("sh") if block.page == README for line in block.text.splitlines()]
    (line,) = [line for line in lines if line.startswith("duly serve")]
    command = line.replace(":8500", ":0").replace(":9090", ":0").split()
    process = run(
        folder,
        *command,
        "--log-format=json",
        "--threads=1",
        f"--local={folder}/{LOCAL}",
        f"--sample={folder}/{SAMPLES}",
    )
    assert process.stderr is not None
    try:
        log = []
        for text in process.stderr:
            log.append(text)
            entry = json.loads(text) if text.startswith("{") else {}
            if entry.get("event") == "serving":
                yield entry["address"]
                break
        else:
            pytest.fail(f"`{line}` ended with status {process.wait()}: {''.join(log)}")
    finally:
        process.terminate()
        process.communicate(timeout=60)
