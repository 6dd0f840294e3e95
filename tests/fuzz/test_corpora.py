"""All inputs of the corpora, those that once found something among them, without a fuzzer."""

from collections.abc import Iterator

import pytest

from tests.fuzz.pieces import joined, parts
from tests.fuzz.seeds import CORPUS, seeds
from tests.fuzz.targets import TARGETS, close


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left() -> Iterator[None]:
    yield
    close()


@pytest.mark.parametrize("target", TARGETS)
def test_every_reader_bears_its_corpus(target: str) -> None:
    inputs = sorted((CORPUS / target).iterdir())
    assert len(inputs) >= len(seeds()[target])
    for path in inputs:
        TARGETS[target](path.read_bytes())


def test_pieces_are_cut_as_they_were_joined() -> None:
    assert parts(joined([b"", b"abc", bytes(300)]), 3) == [b"", b"abc", bytes(300)]
