"""Plugins beside the plain ONNX Runtime, where they find no device: `make accelerators-plugins` runs these tests."""

from pathlib import Path

import pytest

from duly.accelerators import ACCELERATORS, CPU, Accelerator
from duly.worker.plugins import plugin_of
from tests import graphs
from tests.worker.loading import reason_of

INSTALLED = [each for each in ACCELERATORS if plugin_of(each.provider) is not None]


@pytest.mark.skipif(not INSTALLED, reason="no plugin is installed here")
@pytest.mark.parametrize("row", INSTALLED, ids=lambda row: row.kind)
def test_a_plugin_that_finds_no_device_is_refused_by_its_name_and_no_cpu_takes_its_place(
    tmp_path: Path, row: Accelerator
) -> None:
    graphs.save(tmp_path, "m", graphs.doubling())
    lane = f"{row.kind}:{row.first}"
    assert reason_of(tmp_path, "m", lane=lane) == (
        f"m/1/model.onnx: lane {lane}: {row.provider}: its library {row.plugin} finds no device for it; "
        f"there are: {CPU}"
    )
