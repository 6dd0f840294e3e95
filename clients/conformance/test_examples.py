"""The example of each language streams a picture to a real server and tells what became of every frame."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from clients.conformance.conftest import EXAMPLES
from clients.conformance.serving import Server


def test_the_example_streams_a_picture(
    request: pytest.FixtureRequest, shared_server: Callable[[str], Server], tmp_path: Path
) -> None:
    subject = request.config.getoption("--subject")
    if subject not in EXAMPLES:
        pytest.skip("its example is in the README, and tested there")
    cv2.imwrite(str(tmp_path / "picture.jpg"), np.zeros((1, 1, 3), np.uint8))
    command = [*EXAMPLES[subject], shared_server("plain").address, "picture", str(tmp_path / "picture.jpg")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    answered = [int(number) for number in re.findall(r"^frame (\d+):", said, flags=re.MULTILINE)]
    assert sorted(answered) == list(range(1, 31)), said


def test_the_example_names_what_is_wrong(request: pytest.FixtureRequest, shared_server: Callable[[str], Server]) -> None:
    subject = request.config.getoption("--subject")
    if subject not in EXAMPLES:
        pytest.skip("its example is in the README, and tested there")
    command = [*EXAMPLES[subject], shared_server("plain").address, "nobody", __file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "nobody" in done.stderr
