"""`python -m tests.fuzz`: fuzzes all targets, several at once, prints how many inputs each got, and ends with status 1
where one was found that a reader does not bear. `quick`: the corpora and a few thousand inputs more.
"""

import argparse
import asyncio
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.seeds import CORPUS
from tests.fuzz.targets import TARGETS

QUICK_INPUTS, QUICK_SECONDS = 20_000, 4
FULL_INPUTS = 10_000_000
"""So many in all. Targets that are slower get fewer, those that are faster more."""
SLOW = (
    "stream_messages",
    "kserve_calls",
    "recordings",
    "server_settings",
    "model_settings",
    "triton_settings",
    "policies",
    "tokens",
    "key_sets",
    "tls_files",
    "addresses",
    "picture_headers",
    "sample_files",
    "feedback_requests",
    "video_units",
)
SLOW_SHARE = 0.1
"""What a slow target gets of what a fast one gets."""
BYTES_MAX = 4096
INPUT_SECONDS_MAX = 10
_DONE = re.compile(r"#(\d+)\s+DONE|Done (\d+) runs")
_LAST = re.compile(r"^#(\d+)\s", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Run:
    target: str
    inputs: int
    seconds: float
    status: int
    crash: str
    """The end of what the fuzzer said, where it found something; else empty."""


async def _fuzz(target: str, inputs: int, seconds: int, seed: int, found: Path, turn: asyncio.Semaphore) -> Run:
    async with turn:
        began_s = time.monotonic()
        folder = found / target
        folder.mkdir(parents=True)
        options = [
            f"-runs={inputs}",
            f"-seed={seed}",
            f"-max_len={BYTES_MAX}",
            f"-timeout={INPUT_SECONDS_MAX}",
            f"-artifact_prefix={folder}/",
            "-rss_limit_mb=4096",
            "-print_final_stats=1",
            "-verbosity=1",
        ]
        if seconds:
            options.append(f"-max_total_time={seconds}")
        grown = folder / "grown"
        shutil.copytree(CORPUS / target, grown)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.fuzz.one",
            target,
            *options,
            str(grown),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=os.environ,
        )
        assert process.stdout is not None
        text = (await process.stdout.read()).decode(errors="replace")
        status = await process.wait()
        counted = [int(first or second) for first, second in _DONE.findall(text)] or [
            int(number) for number in _LAST.findall(text)
        ]
        run = Run(target, max(counted, default=0), time.monotonic() - began_s, status, text[-3000:] if status else "")
        sys.stdout.write(
            f"{target:16} {run.inputs:>12,} inputs  {run.seconds:6.0f} s  {'CRASH' if status else 'held'}\n"
        )
        sys.stdout.flush()
        return run


async def _all(asked: argparse.Namespace) -> int:
    quick = asked.effort == "quick"
    names = asked.targets.split(",") if asked.targets else list(TARGETS)
    weights = {name: SLOW_SHARE if name in SLOW else 1.0 for name in names}
    total = asked.inputs or (QUICK_INPUTS * len(names) if quick else FULL_INPUTS)
    each = total / sum(weights.values())
    turn = asyncio.Semaphore(asked.jobs)
    with tempfile.TemporaryDirectory(prefix="duly-fuzz-") as found:
        runs = await asyncio.gather(
            *(
                _fuzz(
                    name,
                    int(each * weights[name]) + 1,
                    QUICK_SECONDS if quick else asked.seconds,
                    asked.seed,
                    Path(found),
                    turn,
                )
                for name in names
            )
        )
        for run in runs:
            if run.status:
                sys.stdout.write(f"\n{run.target} does not bear an input:\n{run.crash}\n")
                for crash in (Path(found) / run.target).glob("*-*"):
                    kept = Path("build/fuzz") / f"{run.target}-{crash.name}"
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(crash, kept)
                    sys.stdout.write(f"kept as {kept}; replay: python -m tests.fuzz.one {run.target} {kept}\n")
    inputs = sum(run.inputs for run in runs)
    crashes = sum(run.status != 0 for run in runs)
    sys.stdout.write(f"{inputs:,} inputs in all over {len(runs)} targets, {crashes} targets with a crash\n")
    return 1 if crashes else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("effort", nargs="?", choices=("quick", "full"), default="full")
    parser.add_argument("--targets", default="", help=f"names with commas between, of {', '.join(TARGETS)}")
    parser.add_argument("--inputs", type=int, default=0, help="so many in all")
    parser.add_argument("--seconds", type=int, default=0, help="for each target at most; 0: as long as it takes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=13)
    return asyncio.run(_all(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
