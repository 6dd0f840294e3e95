"""What people record with: every file comes out as it was recorded, or it is said why not, as docs/recordings.md tells.

The files are in this folder; `make.py` wrote them with the tools that their names begin with.
"""

import numpy as np
import pytest

from tests.recordings.table import HERE, PAGE, ROWS_OF_TABLE, Row, play, table

SUFFIXES = {".avi", ".jpg", ".mjpeg", ".mkv", ".mp4", ".npy", ".png", ".wav"}


def check(row: Row, frames: list[np.ndarray]) -> None:
    assert len(frames) == len(row.frames)
    for got, recorded in zip(frames, row.frames, strict=True):
        wanted = recorded.reshape(got.shape) if got.size == recorded.size and got.shape[-1] == 1 else recorded
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got.astype(float), wanted.astype(float), rtol=0, atol=row.far)


@pytest.mark.parametrize("row", ROWS_OF_TABLE, ids=lambda row: f"{row.file}-{row.model.name}")
def test_what_comes_out_is_what_was_recorded_or_told(row: Row) -> None:
    played = play(row)
    check(row, played.frames)
    assert played.frames or played.words
    assert not any("Traceback" in word or str(HERE) in word for word in played.words)


@pytest.mark.parametrize("row", [row for row in ROWS_OF_TABLE if row.file.endswith(".mjpeg")], ids=lambda row: row.file)
def test_a_stream_of_pictures_comes_through_a_pipe_as_well(row: Row) -> None:
    with (HERE / row.file).open("rb") as source:
        check(row, play(row, source).frames)


def test_every_file_is_tried_and_the_page_says_what_comes_of_it() -> None:
    assert {row.file for row in ROWS_OF_TABLE} == {path.name for path in HERE.iterdir() if path.suffix in SUFFIXES}
    stale = "docs/recordings.md is not what comes of the files: python -m tests.recordings.table writes it anew"
    assert table() in PAGE.read_text("utf-8"), stale
