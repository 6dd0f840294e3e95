"""Tests of what devices do, run by `make accelerators` with the lane of each (`-m accelerators --lane webgpu:0`)."""

from pathlib import Path

import pytest

from tests.lane import CPU_LANE
from tests.lane import lane as given

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.accelerators)


@pytest.fixture(scope="session")
def lane() -> str:
    assert given() != CPU_LANE, "make accelerators runs these tests with --lane"
    return given()
