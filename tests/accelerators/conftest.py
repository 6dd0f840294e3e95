"""Tests of what devices do, run by `make accelerators` with the lane of each (`-m accelerators --lane webgpu:0`)."""

from pathlib import Path

import pytest

from duly.accelerators import kind_of
from tests.lane import CPU_LANE, DRIVERS
from tests.lane import lane as given

HERE = Path(__file__).parent
NOT_THERE = {"cuda": "cuda:99", "openvino": "openvino:NPU"}
"""Lanes on devices that no machine for tests has, by their kind."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.accelerators)


@pytest.fixture(scope="session")
def lane() -> str:
    assert given() != CPU_LANE, "make accelerators runs these tests with --lane"
    return given()


@pytest.fixture
def missing(lane: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A lane of the same provider whose device is not there."""
    if kind_of(lane) == "webgpu":  # it has but one, which goes with its driver
        for name in DRIVERS:
            monkeypatch.setenv(name, "/nowhere.json")
    return NOT_THERE.get(kind_of(lane), lane)
