"""`duly feedback` as a user runs it, against a real server that keeps frames."""

import asyncio
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from duly.cli_feedback import TOLD_MAX
from duly.sampling import feedback as door
from duly.sampling.store import read
from tests import graphs
from tests.e2e.serving import serving

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "server"), str(ROOT / "clients" / "python")])}


async def duly(*arguments: object, stdin: bytes = b"") -> tuple[int | None, str, str]:
    """(exit status, stdout, stderr)."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "duly.cli", *map(str, arguments)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=ENVIRONMENT,
    )
    out, errors = await process.communicate(stdin)
    return process.returncode, out.decode(), errors.decode()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """(models, an empty folder for samples)."""
    graphs.save(tmp_path / "models", "m", graphs.doubling(), 'labels = "names.txt"')
    (tmp_path / "models" / "m" / "names.txt").write_text("left\nleft of it\nright of it\nright\n")
    (tmp_path / "samples").mkdir()
    return tmp_path / "models", tmp_path / "samples"


async def test_what_stream_prints_comes_back_as_labels(folders: tuple[Path, Path], tmp_path: Path) -> None:
    models, samples = folders
    np.save(tmp_path / "x.npy", np.arange(24, dtype=np.float32).reshape(6, 4))
    async with serving(models, sample=samples) as app:
        at = ("--server", app.address)
        streamed = await duly("stream", "m", "--input", tmp_path / "x.npy", "--budget-ms", 60_000, "--json", *at)
        assert streamed[0] == 0, streamed
        outcomes = [json.loads(line) for line in streamed[1].splitlines()[:-1]]
        named = [(each["stream"], each["frame_id"]) for each in outcomes]
        rows = [{"stream": key, "frame_id": number, "label": number} for key, number in named[:3]]
        rows += [{"stream": key, "frame_id": number, "label": {"y": [1.0, 2, 3, 4]}} for key, number in named[3:5]]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "labels.jsonl").write_text(lines)
        sent = await duly("feedback", tmp_path / "labels.jsonl", *at)
        assert sent == (0, "5 lines: 5 joined\n", "")
        key, number = named[5]
        text = f"stream,frame_id,label,weight,source\n{key},{number},right,2,desk\n"
        text += f"{key},99,1,,\nnobody,1,1,,\n{key},x,1,,\n"
        text += f'{key},1,"{{""z"": 1}}",,\n{key},1,wrong,,\n'
        status, out, errors = await duly("feedback", "-", "--json", *at, stdin=text.encode())
        assert status == 1
        assert json.loads(out) == {
            **{"lines": 6, "joined": 1, "unknown_frame": 2, "invalid": 2, "not_kept": 0, "pending": 0},
            **{"no_labels": 1, "not_sent": 0},
        }
        told = errors.splitlines()
        assert told[0] == 'duly: standard input:5: no label: frame_id is "x"; it is a whole number, that of the frame'
        assert told[1].startswith("duly: standard input:3: unknown frame: no frame is kept under this key and id")
        assert told[3].startswith(
            "duly: standard input:6: invalid: label 'z': the model has no such output; it has 'y'"
        )
    kept = {each.frame_id: each for each in read(samples)}
    assert [kept[number].labels["label"].tolist() for _, number in named[:3]] == [number for _, number in named[:3]]
    assert kept[named[3][1]].labels["y"].tolist() == [1, 2, 3, 4]
    last = kept[named[5][1]]
    assert last.labels["label"].tolist() == 3
    assert last.labelled is not None
    assert (last.labelled.weight, last.labelled.source) == (2.0, "desk")


async def test_more_than_the_server_takes_at_once_is_sent_with_pauses(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    models, samples = folders
    monkeypatch.setattr(door, "ITEMS_BURST", 1024)
    monkeypatch.setattr(door, "ITEMS_PER_S", 4000)
    async with serving(models, sample=samples) as app:
        text = b"stream,frame_id,label\n" + b"nobody,1,1\n" * 2500
        status, out, errors = await duly("feedback", "-", "--server", app.address, stdin=text)
    assert (status, out) == (1, "2,500 lines: 2,500 unknown frame\n")
    told = [line for line in errors.splitlines() if "are sent, up to line" not in line]  # where it takes long
    assert len(told) == TOLD_MAX + 1


async def test_what_cannot_be_sent_is_told_and_the_status_is_no_success(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    models, _ = folders
    (tmp_path / "labels.csv").write_text("stream,frame_id,label\nk,1,1\n")
    async with serving(models) as app:
        at = ("--server", app.address)
        status, out, errors = await duly("feedback", tmp_path / "labels.csv", *at)
        assert (status, out) == (1, "1 line: 1 not sent\n")
        assert "--sample" in errors
        assert await duly("feedback", "-", *at) == (1, "", "duly: standard input: there are no labels in it\n")
        status, out, errors = await duly("feedback", tmp_path / "none.csv", *at)
        assert (status, out) == (1, "")
        assert "none.csv: No such file" in errors
        status, _, errors = await duly("feedback", "-", *at, stdin=b"time,value\n1,2\n")
        assert status == 1
        assert errors.startswith("duly: standard input: the first line lacks stream, frame_id, label")
    status, out, errors = await duly("feedback", tmp_path / "labels.csv", *at)
    assert (status, out) == (1, "1 line: 1 not sent\n")
    assert "no answer from" in errors
