"""Loads a model in the test's own process, and gives the reason where that fails."""

import re
from pathlib import Path
from typing import Any

import pytest

from duly.worker.errors import LoadError
from duly.worker.load_model import load
from tests.worker.client import load_body, version_of


def body_of(root: Path, name: str, **changes: Any) -> dict[str, Any]:
    return load_body(version_of(root, name)) | changes


def reason_of(root: Path, name: str, **changes: Any) -> str:
    with pytest.raises(LoadError) as refused:
        load(body_of(root, name, **changes))
    reason = str(refused.value)
    assert str(root) not in reason
    assert "\n" not in reason
    assert not re.search(r"\.(cc|h):\d|onnxruntime::|ONNXRuntimeError", reason)
    return reason
