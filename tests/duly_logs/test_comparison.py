"""What counts as a change between two replays, and what does not."""

import json
from pathlib import Path

import numpy as np
import pytest
from mcap.writer import Writer

from duly_logs.comparison import Comparison, compare
from duly_logs.detections import Detection
from duly_logs.log import Log, LogError
from duly_logs.report import report, verdict
from duly_logs.schemas import OUTCOME
from duly_logs.written import Row, Written, read_written


def row(frame: int, status: str = "ON_TIME", *found: Detection, **outputs: list[float]) -> Row:
    arrays = {name: np.array(values) for name, values in outputs.items()}
    return Row(frame, frame * 10**8, status, 10.0, 90.0, 10.0, "1", "default", "", found, arrays)


def written(*rows: Row, name: str = "a.mcap", **about: str) -> Written:
    log = Log(Path(name), (), "", lambda topic: iter(()))
    return Written(log, about, {each.frame: each for each in rows})


def compared(before: list[Row], after: list[Row]) -> Comparison:
    return compare(written(*before), written(*after, name="b.mcap"), score=0.05, tolerance=1e-3)


def box(label: str, score: float, x0: float, size: float = 0.2) -> Detection:
    return Detection(label, score, x0, 0.1, x0 + size, 0.1 + size)


def test_nothing_changed() -> None:
    rows = [row(1, "ON_TIME", box("car", 0.9, 0.1)), row(2, "EXPIRED"), row(3, "ON_TIME", y=[1.0, 2.0])]
    nearly = [row(1, "ON_TIME", box("car", 0.88, 0.101)), row(2, "EXPIRED"), row(3, "ON_TIME", y=[1.0, 2.0001])]
    comparison = compared(rows, nearly)
    assert not comparison.changes
    assert verdict(comparison) == "Nothing changed in 3 frames."


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (row(1), row(1, "LATE"), "ON_TIME → LATE"),
        (row(1, "ON_TIME", box("car", 0.9, 0.1)), row(1, "SHED"), "ON_TIME → SHED"),
        (row(1), row(1, "ON_TIME", box("car", 0.9, 0.1)), "car 0.90 appeared"),
        (row(1, "LATE", box("car", 0.9, 0.1)), row(1, "LATE"), "car 0.90 vanished"),
        (row(1, "LATE", box("car", 0.9, 0.1)), row(1, "LATE", box("car", 0.7, 0.1)), "car, 0.90 → 0.70"),
        (row(1, "LATE", box("car", 0.9, 0.1)), row(1, "LATE", box("car", 0.9, 0.13)), "car moved, 0.90 → 0.90"),
        (
            row(1, "LATE", box("car", 0.9, 0.1)),
            row(1, "LATE", box("bus", 0.9, 0.1)),
            "bus 0.90 appeared; car 0.90 vanished",
        ),
        (row(1, y=[1.0, 2.0]), row(1, y=[1.0, 3.0]), "y 2 → 3"),
        (row(1, y=[1.0]), row(1, y=[1.0, 3.0]), "y [1] → [2]"),
        (row(1, y=[1.0]), row(1), "y vanished"),
    ],
)
def test_what_changed_is_said_in_words(before: Row, after: Row, words: str) -> None:
    (change,) = compared([before], [after]).changes
    assert change.words() == words
    assert words.replace("→", "→") in report(compared([before], [after]), 3)


def test_things_are_paired_with_what_they_overlap_most() -> None:
    before = row(1, "ON_TIME", box("car", 0.9, 0.10), box("car", 0.8, 0.15))
    after = row(1, "ON_TIME", box("car", 0.8, 0.15), box("car", 0.9, 0.10))
    assert not compared([before], [after]).changes


def test_labels_are_counted() -> None:
    comparison = compared(
        [row(1, "ON_TIME", box("car", 0.9, 0.1), box("bus", 0.9, 0.6)), row(2)],
        [row(1, "ON_TIME", box("car", 0.9, 0.1)), row(2, "ON_TIME", box("car", 0.9, 0.1))],
    )
    assert comparison.labels() == [("bus", 1, 0, 0, 1), ("car", 1, 2, 1, 0)]


def test_frames_of_one_only_are_counted() -> None:
    comparison = compared([row(1), row(2), row(3)], [row(2), row(3), row(4)])
    assert (comparison.common, comparison.only_before, comparison.only_after) == ((2, 3), 1, 1)
    assert verdict(comparison) == "Nothing changed in 2 frames; 2 frames are in one of the two only."


def test_two_drives_are_not_compared() -> None:
    later = [Row(1, 7, "ON_TIME", 1, 1, 1, "1", "", "", (), {})]
    with pytest.raises(LogError, match=r"a.mcap and b.mcap are not of one drive: 0 of their 1 frames have"):
        compared([row(1)], later)
    with pytest.raises(LogError, match="not of one drive"):
        compared([], [row(1)])


def test_what_a_log_says_of_itself_is_escaped_in_the_page() -> None:
    rows = [row(1, "ON_TIME", box("<b>car</b>", 0.9, 0.1))]
    one = written(*rows, name="<a>.mcap", topic="<script>alert(1)</script>")
    page = report(compare(one, written(row(1)), score=0.05, tolerance=1e-3), 3)
    assert "<script" not in page
    assert "<b>car" not in page
    assert "&lt;b&gt;car&lt;/b&gt; 0.90 vanished" in page
    assert "http" not in page.replace("http-equiv", ""), "it needs nothing from elsewhere"


@pytest.mark.parametrize("frame", ["<img src=x onerror=alert(1)>", None, [1], 1.5e999])
def test_a_log_whose_outcomes_are_of_another_schema_of_that_name_is_refused(tmp_path: Path, frame: object) -> None:
    """What is no number never comes as far as the page, whose numbers are written as they are."""
    fields = {"frame": frame, "status": "ON_TIME", "latency_ms": 1, "slack_ms": 1, "age_ms": 1}
    fields |= {"version": "1", "variant": "", "reason": "", "detections": [], "outputs": []}
    with (tmp_path / "a.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start()
        schema = writer.register_schema(OUTCOME, "jsonschema", b"{}")
        writer.add_message(writer.register_channel("/a", "json", schema), 7, json.dumps(fields).encode(), 7)
        writer.finish()  # type: ignore[no-untyped-call]
    with pytest.raises(LogError, match=r"an outcome on /a is no duly\.log\.Outcome"):
        read_written(tmp_path / "a.mcap")
