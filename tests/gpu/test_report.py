"""The record says what every stage came to, also where one failed or was stopped, and nothing by which a machine or its
user could be known.
"""

import getpass
import json
import platform
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.report import write_report
from tests.gpu.scrub import scrubbed, scrubbed_json
from tests.gpu.stages import Ended

UUID = "GPU-1e2d3c4b-0000-1111-2222-a1b2c3d4e5f6"
ENVIRONMENT: dict[str, Any] = {
    "lane": "cuda:0",
    "gpus": 1,
    "gpu": {"name": "NVIDIA H200", "ECC": "Enabled"},
    "idle": {"SM clock": "345 MHz"},
    "versions": {"driver": "580.159.04", "TensorRT": "not found"},
    "MPS": False,
    "onnxruntime": {"version": "1.31.1"},
    "packages": {"duly": "0.1.0", "onnxruntime-gpu": "1.31.1"},
    "machine": {
        "cpu": "Some CPU",
        "cores": 16,
        "memory_bytes": 128 << 30,
        "hypervisor": True,
        "kernel": "Linux 6.18",
        "python": "3.12.3",
    },
    "duly": {"version": "0.1.0", "commit": "abc", "changed": "2 files"},
    "doctor": [
        {"subject": "models", "level": "warning", "found": "/home/somebody/models is empty", "advice": ""},
        {"subject": "python", "level": "ok", "found": "3.12", "advice": ""},
    ],
}
THROUGHPUT: dict[str, Any] = {
    "loaded": {
        "mlp-fp32": {
            "alone_seconds": 2.2,
            "providers": ["CUDAExecutionProvider"],
            "seconds": 3.1,
            "notes": [],
            "after": {"SM clock": "1980 MHz"},
        },
        "squeezenet-fp32": {"alone_seconds": 17.5},  # the stage was stopped as the worker loaded it
    },
    "rows": [
        {
            "model": "mlp-fp32",
            "batch": 4,
            "alone": {"frames_per_s": [9000, 8000, 9500], "p50_us": [110, 100, 120], "p99_us": [150, 140, 160]},
            "duly": {"frames_per_s": [8100, 7000, 8200], "p50_us": [160, 150, 170], "p99_us": [250, 240, 260]},
            "ratio": {"frames_per_s": [0.9, 0.88, 0.91], "p50": [1.1, 1.0, 1.2]},
            "extra_us": [50, 45, 55],
            "away": 0.0,
        }
    ],
}
OVERLAP: dict[str, Any] = {
    "rows": [
        {
            "model": "wide-fp32",
            "batch": 64,
            "bytes": 9_600_000,
            "pinned": True,
            "ms": {name: [1.0, 0.9, 1.1] for name in ("copy", "run", "after", "beside")},
            "hidden": [0.87, 0.8, 0.9],
            "copy_gb_per_s": 52.5,
        }
    ],
    "workers": [
        {
            "model": "wide-fp32",
            "batch": 64,
            "to the device ahead": True,
            "ms": {"after": [2.0, 1.9, 2.1], "beside": [1.0, 0.9, 1.1]},
            "saved": [0.5, 0.4, 0.6],
            "notes": ["CUDA does not pin the memory"],
        }
    ],
}
OVERLOAD: dict[str, Any] = {
    "capacity_per_s": 870.5,
    "capacity_problems": [],
    "layers": 800,
    "batch": 4,
    "batch_ms": 10.2,
    "busy": 0.97,
    "not held": [0.5, 1.0],
    "rows": [
        {
            "load": 1.5,
            "target": "duly",
            "valid": True,
            "invalid": [],
            "figures": {"on_time_ratio": 0.66, "goodput_per_s": 866.0, "p50_ms": 50.0, "p99_ms": 99.0},
        },
        {"load": 3, "target": "floor", "valid": False, "invalid": ["the generator was late"], "figures": {}},
    ],
}
TESTS: dict[str, Any] = {
    "collected": 9,
    "passed": 6,
    "failed": 1,
    "skipped": 1,
    "not reached": 1,
    "failures": [{"test": "accelerators/test_served.py::test_x", "outcome": "failed", "reason": f"a | b on {UUID}"}],
    "skips": [{"test": "accelerators/test_served.py::test_y", "outcome": "skipped", "reason": "it is WebGPU's"}],
}


def done(key: str, title: str) -> Ended:
    return Ended(key, title, "done", 12.3)


def test_the_page_tells_what_every_stage_has_found(tmp_path: Path) -> None:
    for key, results in (
        ("environment", ENVIRONMENT),
        ("throughput", THROUGHPUT),
        ("throughput_tensorrt", THROUGHPUT),
        ("overlap", OVERLAP),
        ("overload", OVERLOAD),
        ("worker_tests", TESTS),
    ):
        (tmp_path / f"{key}.json").write_text(json.dumps(results))
    ended = [
        done("environment", "the machine"),
        Ended("worker_tests", "the worker", "failed", 60.0, "3 lines\nof it\n1 of 9 tests failed"),
        done("throughput", "throughput"),
        Ended("throughput_tensorrt", "throughput, TensorRT", "stopped", 35.0, "its time of 35 s was over"),
        done("overlap", "copies beside runs"),
        done("overload", "overload"),
    ]
    size = write_report(tmp_path, "NVIDIA H200", "cuda:0", ended, 412.0, rehearsal=False)
    page = (tmp_path / "report.md").read_text()
    assert page.startswith("# NVIDIA H200, lane cuda:0\n")
    for line in (
        "in 412 s",
        "| the worker | **failed**: 1 of 9 tests failed | 60 |",
        "| throughput, TensorRT | **stopped**: its time of 35 s was over | 35 |",
        "| name | NVIDIA H200 |",
        "| version of driver | 580.159.04 |",
        "| duly | 0.1.0, commit abc, 2 files changed |",
        "Of 9 tests: 6 passed, 1 failed, 1 skipped, 1 not reached.",
        "- mlp-fp32: opened alone in 2.2 s; with duly it ran on CUDAExecutionProvider, loaded in 3.1 s; after it: SM",
        "- squeezenet-fp32: opened alone in 17.5 s\n",
        "- The worker says: CUDA does not pin the memory\n",
        "| mlp-fp32 | 4 | 9e+03 (8e+03 to 9.5e+03) | 8.1e+03 (7e+03 to 8.2e+03) | 0.9 (0.88 to 0.91) |",
        "| wide-fp32 | 64 | 9.6 | yes |",
        "0.87 (0.8 to 0.9) | 52.5 |",
        "| wide-fp32 | 64 | yes | 2 (1.9 to 2.1) | 1 (0.9 to 1.1) | 0.5 (0.4 to 0.6) |",
        "Of a model of 800 layers, which take the lane about 10.2 ms for each batch of 4, duly on this machine serves",
        "870.5 frames/s in time, which is load 1. The lane was busy for 97% of that run. The floor runs no model",
        "No time was left for load 0.5, 1.",
        "| 1.5 | duly | 66.0% | 866 | 50 | 99 |  |",
        "| 3 | floor | - | - | - | - | the generator was late |",
        "## What failed",
    ):
        assert line in page, line
    assert "ehearsal" not in page
    assert "python | ok" not in page
    assert size == sum(file.stat().st_size for file in tmp_path.iterdir())
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["rehearsal"] is False
    assert [stage["status"] for stage in report["stages"]].count("done") == 4
    assert report["results"]["overload"] == OVERLOAD
    assert {file.name for file in tmp_path.iterdir()} == {"report.md", "report.json"}


def test_a_rehearsal_says_so_at_the_top(tmp_path: Path) -> None:
    write_report(tmp_path, "rehearsal", "cpu:0", [], 3.0, rehearsal=True)
    assert "**A rehearsal, no GPU.**" in (tmp_path / "report.md").read_text()[:60]
    assert json.loads((tmp_path / "report.json").read_text())["rehearsal"] is True


def test_a_lane_that_was_not_busy_is_not_said_to_be_the_limit(tmp_path: Path) -> None:
    (tmp_path / "overload.json").write_text(json.dumps(OVERLOAD | {"busy": 0.31}))
    write_report(tmp_path, "NVIDIA T4", "cuda:0", [done("overload", "overload")], 1.0, False)
    text = (tmp_path / "report.md").read_text()
    assert "busy for 31% of that run: **something else was the limit**" in text


def test_results_that_are_not_whole_do_not_keep_the_page_from_being_written(tmp_path: Path) -> None:
    (tmp_path / "overload.json").write_text('{"lane": "cuda:0"}')
    (tmp_path / "overlap.json.new").write_text('{"la')
    write_report(
        tmp_path, "NVIDIA T4", "cuda:0", [done("overload", "overload"), done("overlap", "overlap")], 1.0, False
    )
    assert "The results of overload are not whole (KeyError)." in (tmp_path / "report.md").read_text()
    assert {file.name for file in tmp_path.iterdir()} == {"report.md", "report.json"}


def test_nothing_of_the_machine_or_its_user_is_in_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "gpu-box-7")
    monkeypatch.setattr(getpass, "getuser", lambda: "somebody")
    (tmp_path / "environment.json").write_text(json.dumps(ENVIRONMENT | {"gpu": {"name": f"gpu-box-7's {UUID}"}}))
    (tmp_path / "worker_tests.json").write_text(json.dumps(TESTS))
    reason = (
        f'File "/home/somebody/duly/tests/x.py", line 3\nssh somebody@gpu-box-7:/data/x; {UUID} at 00000000:1A:00.0'
    )
    ended = [done("environment", "the machine"), Ended("worker_tests", "the worker", "failed", 60.0, reason)]
    write_report(tmp_path, "NVIDIA H200", "cuda:0", ended, 1.0, rehearsal=False)
    for file in tmp_path.iterdir():
        text = file.read_text()
        for secret in ("gpu-box-7", "somebody", "1e2d3c4b", "00000000:1A"):
            assert secret not in text, (file.name, secret)
    assert "…/x.py" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "nvidia-cublas 13.10.0.20 and 9.28.1.4",
        "12.3/45.6 frames/s, 3 GB/s",
        "see /dev/nvidia0 and /usr/lib/x86_64-linux-gnu/libcuda.so",
        "127.0.0.1:8500",
        "commit 4ff3aba4550ac4172f013c0c17bcfe22a3b4d49d",
        "models/eye/1",
    ],
)
def test_what_is_alike_everywhere_stays(text: str) -> None:
    assert scrubbed(text) == text


def test_keys_and_lists_are_cleared_too() -> None:
    assert scrubbed_json({"/srv/a/b": ["/srv/a/c.py", 3, None]}) == {"…/b": ["…/c.py", 3, None]}
