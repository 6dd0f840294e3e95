"""The example of each language streams a picture to a real server and tells what became of every frame."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from clients.conformance.conftest import EXAMPLES, ROOT
from clients.conformance.serving import Server

TITLES = {"cpp": "C++", "rust": "Rust", "go": "Go"}
"""The part of docs/clients.md that is about a language; it begins with the commands that make it run."""


@pytest.mark.timeout(400)
def test_the_example_streams_a_picture(
    request: pytest.FixtureRequest, shared_server: Callable[[str], Server], tmp_path: Path
) -> None:
    subject = request.config.getoption("--subject")
    if subject not in EXAMPLES:
        pytest.skip("its example is in the README, and tested there")
    cv2.imwrite(str(tmp_path / "picture.jpg"), np.zeros((1, 1, 3), np.uint8))
    command = [*EXAMPLES[subject], shared_server("plain").address, "picture", str(tmp_path / "picture.jpg")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout
    answered = [int(number) for number in re.findall(r"^frame (\d+):", said, flags=re.MULTILINE)]
    assert sorted(answered) == list(range(1, 31)), said


@pytest.mark.timeout(600)
def test_the_commands_of_the_page_work(
    request: pytest.FixtureRequest, shared_server: Callable[[str], Server], tmp_path: Path
) -> None:
    subject = request.config.getoption("--subject")
    if subject not in TITLES:
        pytest.skip("it has no commands there")
    page = (ROOT / "docs/clients.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(TITLES[subject])}\n+```bash\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert found, f"docs/clients.md has no commands for {TITLES[subject]}"
    cv2.imwrite(str(tmp_path / "picture.jpg"), np.zeros((1, 1, 3), np.uint8))
    typed = "127.0.0.1:8500 yolo picture.jpg"
    assert typed in found[1]
    ours = f"{shared_server('plain').address} picture {tmp_path / 'picture.jpg'}"
    command = ["bash", "-e", "-c", found[1].replace(typed, ours)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "frame 30: " in done.stdout


@pytest.mark.timeout(400)
def test_the_example_names_what_is_wrong(
    request: pytest.FixtureRequest, shared_server: Callable[[str], Server]
) -> None:
    subject = request.config.getoption("--subject")
    if subject not in EXAMPLES:
        pytest.skip("its example is in the README, and tested there")
    command = [*EXAMPLES[subject], shared_server("plain").address, "nobody", __file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode != 0
    assert "nobody" in done.stderr
