"""The record of a run: report.json with what every stage has found, and report.md, a page of it for people. They are
free of names, paths and numbers by which a machine could be known, so that they can be committed.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.gpu.scrub import scrubbed, scrubbed_json
from tests.gpu.stages import Ended

SIZE_BYTES_MAX = 1_000_000
"""Of all files of a record together."""
FORMAT = 2
LIMITS = 0.8
"""A lane that is busy for less of the time is not what limits how much is served."""
REHEARSAL = (
    "> **A rehearsal, no GPU.** This page shows that `make gpu` works as a program. Its figures are of short "
    "measurements on another device, and say nothing of any GPU."
)

Results = Mapping[str, Any]


def write_report(out: Path, device: str, lane: str, ended: Sequence[Ended], seconds: float, rehearsal: bool) -> int:
    """Makes report.md and report.json of what the stages have left in `out`. A stage without results is told by what
    became of it. Returns how many bytes there are now.
    """
    found: dict[str, Results] = {}
    for stage in ended:
        file = out / f"{stage.key}.json"
        if file.exists():
            found[stage.key] = _cleared(file)
    content = {
        "format": FORMAT,
        "rehearsal": rehearsal,
        "device": device,
        "lane": lane,
        "seconds": round(seconds, 1),
        "stages": [asdict(stage) for stage in ended],
        "results": found,
    }
    (out / "report.json").write_text(json.dumps(scrubbed_json(content), indent=1) + "\n", encoding="utf-8")
    lines = _page(device, lane, ended, seconds, rehearsal, found)
    (out / "report.md").write_text(scrubbed("\n".join(lines)) + "\n", encoding="utf-8")
    for stage in ended:
        for file in (out / f"{stage.key}.json", out / f"{stage.key}.json.new"):
            file.unlink(missing_ok=True)
    return sum(file.stat().st_size for file in out.iterdir())


def _cleared(file: Path) -> Results:
    found = scrubbed_json(json.loads(file.read_text(encoding="utf-8")))
    assert isinstance(found, dict)
    return found


def _page(
    device: str, lane: str, ended: Sequence[Ended], seconds: float, rehearsal: bool, found: Mapping[str, Results]
) -> Iterator[str]:
    yield f"# {device}, lane {lane}\n"
    if rehearsal:
        yield f"{REHEARSAL}\n"
    yield f"Made by `make gpu` in {seconds:.0f} s. Figures are medians, with the least and the greatest of rounds.\n"
    yield from _table(
        ("stage", "became", "s"), ((stage.title, _became(stage), f"{stage.seconds:.0f}") for stage in ended)
    )
    sections = {
        "environment": _environment, "worker_tests": _tests, "throughput": _throughput, "overlap": _overlap,
        "overload": _overload,
    }  # fmt: skip
    for stage in ended:
        section = next((each for name, each in sections.items() if stage.key.startswith(name)), None)
        if section is not None and stage.key in found:
            yield f"## {stage.title[0].upper()}{stage.title[1:]}\n"
            try:
                yield from section(found[stage.key])
            except (KeyError, TypeError, IndexError, ValueError) as error:
                yield f"The results of {stage.key} are not whole ({type(error).__name__}).\n"
    failed = [stage for stage in ended if stage.status == "failed"]
    if failed:
        yield "## What failed\n"
    for stage in failed:
        yield f"{stage.title}:\n\n```\n{stage.reason.replace('```', '')}\n```\n"


def _became(stage: Ended) -> str:
    mark = "" if stage.status == "done" else "**"
    reason = f": {stage.reason.strip().splitlines()[-1]}" if stage.reason.strip() else ""
    return f"{mark}{stage.status}{mark}{reason}"


def _environment(found: Results) -> Iterator[str]:
    gpu, machine, duly = found.get("gpu", {}), found["machine"], found["duly"]
    versions = found.get("versions", {})
    packages = {name: value for name, value in found["packages"].items() if name != "duly"}
    rows = [(name, value) for name, value in gpu.items()]
    rows += [("GPUs", str(found["gpus"])), ("MPS", "on" if found["MPS"] else "off")] if gpu else []
    rows += [(f"version of {name}", value) for name, value in versions.items()]
    rows += [
        ("processor", f"{machine['cpu']}, {machine['cores']} cores{', virtual' if machine['hypervisor'] else ''}"),
        ("memory", f"{machine['memory_bytes'] / 2**30:.0f} GiB"),
        ("system", f"{machine['kernel']}, Python {machine['python']}"),
        ("packages", ", ".join(f"{name} {value}" for name, value in packages.items())),
        ("duly", f"{duly['version']}, commit {duly['commit']}" + (
            f", {duly['changed']} changed" if duly.get("changed", "0 files") != "0 files" else "")),
    ]  # fmt: skip
    if idle := found.get("idle"):
        rows.append(("idle", _joined(idle)))
    yield from _table(("what", "found"), rows)
    doctor = found.get("doctor", ())
    if isinstance(doctor, str):
        yield f"{doctor}\n"
        return
    told = [each for each in doctor if each["level"] != "ok"]
    if told:
        yield "What `duly doctor` says that is not all well:\n"
        yield from _table(
            ("about", "level", "found"), ((each["subject"], each["level"], each["found"]) for each in told)
        )


def _tests(found: Results) -> Iterator[str]:
    counts = ", ".join(f"{found[name]} {name}" for name in ("passed", "failed", "skipped", "not reached"))
    yield f"Of {found['collected']} tests: {counts}.\n"
    rows = [(each["test"], each["outcome"], each["reason"]) for each in [*found["failures"], *found["skips"]]]
    if rows:
        yield from _table(("test", "outcome", "reason"), rows)


def _throughput(found: Results) -> Iterator[str]:
    for name, said in found["loaded"].items():
        line = f"- {name}: opened alone in {said['alone_seconds']} s"
        if "providers" in said:
            line += f"; with duly it ran on {', '.join(said['providers'])}, loaded in {said['seconds']} s"
        if "after" in said:
            line += f"; after it: {_joined(said['after'])}"
        yield line
        yield from _notes(said.get("notes", ()))
    yield ""
    heads = (
        "model",
        "batch",
        "alone, frames/s",
        "duly, frames/s",
        "ratio",
        "alone, p50 ms",
        "duly, p50 ms",
        "more, ms",
        "duly, p99 ms",
    )
    yield from _table(
        heads,
        (
            (
                row["model"],
                str(row["batch"]),
                _spread(row["alone"]["frames_per_s"]),
                _spread(row["duly"]["frames_per_s"]),
                _spread(row["ratio"]["frames_per_s"]),
                _spread(row["alone"]["p50_us"], 1e-3),
                _spread(row["duly"]["p50_us"], 1e-3),
                _spread(row["extra_us"], 1e-3),
                _spread(row["duly"]["p99_us"], 1e-3),
            )
            for row in found["rows"]
        ),
    )


def _overlap(found: Results) -> Iterator[str]:
    heads = (
        "model",
        "batch",
        "MB",
        "pinned",
        "copy ms",
        "run ms",
        "one after the other ms",
        "beside ms",
        "hidden",
        "GB/s",
    )
    yield from _table(
        heads,
        (
            (
                row["model"],
                str(row["batch"]),
                f"{row['bytes'] / 1e6:.1f}",
                "yes" if row["pinned"] else "no",
                *(_spread(row["ms"][name]) for name in ("copy", "run", "after", "beside")),
                _spread(row["hidden"]),
                f"{row['copy_gb_per_s']:g}",
            )
            for row in found["rows"]
        ),
    )

    if not found["workers"]:
        return
    yield "Of duly's worker, with the next batch taken in while this one runs or behind it:\n"
    yield from _table(
        ("model", "batch", "goes to the device ahead", "one after the other ms", "beside ms", "saved"),
        (
            (
                row["model"],
                str(row["batch"]),
                "yes" if row["to the device ahead"] else "no",
                _spread(row["ms"]["after"]),
                _spread(row["ms"]["beside"]),
                _spread(row["saved"]),
            )
            for row in found["workers"]
        ),
    )
    yield from _notes([note for row in found["workers"] for note in row["notes"]])


def _overload(found: Results) -> Iterator[str]:
    limit = "" if found["busy"] > LIMITS else ": **something else was the limit**"
    yield (
        f"Of a model of {found['layers']} layers, which take the lane about {found['batch_ms']:g} ms for each batch of "
        f"{found['batch']}, duly on this machine serves {found['capacity_per_s']:g} frames/s in time, which is load 1. "
        f"The lane was busy for {found['busy']:.0%} of that run{limit}. The floor runs no model: it is what is left of "
        "a server without one.\n"
    )
    for problem in found["capacity_problems"]:
        yield f"That run is not valid: {problem}.\n"
    rows = []
    for row in found.get("rows", ()):
        said, valid = row["figures"], row["valid"]
        rows.append(
            (
                f"{row['load']:g}",
                row["target"],
                f"{said['on_time_ratio']:.1%}" if valid else "-",
                f"{said['goodput_per_s']:.0f}" if valid else "-",
                f"{said['p50_ms']:.3g}" if valid else "-",
                f"{said['p99_ms']:.3g}" if valid else "-",
                "" if valid else "; ".join(dict.fromkeys(row["invalid"])),
            )
        )
    yield from _table(("load", "target", "on time", "goodput /s", "p50 ms", "p99 ms", "not valid"), rows)
    if found["not held"]:
        yield f"No time was left for load {', '.join(f'{load:g}' for load in found['not held'])}.\n"


def _notes(notes: Iterable[str]) -> Iterator[str]:
    """What workers have said of how they serve."""
    for note in dict.fromkeys(notes):
        yield f"- The worker says: {note}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(_cell(each) for each in row)} |"
    yield ""


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _spread(values: Sequence[float], scale: float = 1.0) -> str:
    middle, least, greatest = (f"{each * scale:.3g}" for each in values)
    return f"{middle} ({least} to {greatest})"


def _joined(said: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in said.items())
