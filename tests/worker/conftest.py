"""What holds for every test of the worker."""

import resource
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def memory_as_it_was() -> Iterator[None]:
    """A model that is loaded in this process limits its memory, and would take that of the tests after it."""
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    yield
    resource.setrlimit(resource.RLIMIT_DATA, limits)
