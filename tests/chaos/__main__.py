"""`python -m tests.chaos`: shows row after row, prints what was found, and ends with status 1 where a row failed."""

import argparse
import asyncio
import shlex
import sys
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path

from tests.chaos.verdict import CannotRun, Finding, Plan, Show, told

ROWS = {
    "faults": "1,000 worker faults under load",
    "swaps": "200 hot swaps at 70 % load",
    "clients": "10,000 clients that vanish, 100 slow readers",
    "attacks": "every attack beside a CRITICAL stream",
    "kserve": "hostile clients of KServe's protocol beside a CRITICAL stream",
    "local": "clients that share memory killed as they write, scribbling and lying; the server started again",
    "surroundings": "disk full, repository removed, clock set, network cut",
    "interleavings": "1,000,000 interleavings of cancel and close, simulated and live",
    "soak": "70 % load with churn, swaps and worker deaths; only when asked for",
    "costs": "what TLS with a token costs, and the sandbox; only when asked for",
}
ASKED_FOR_ONLY = ("soak", "costs")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="The law under every fault.",
        epilog="rows: " + "; ".join(f"{name} ({what})" for name, what in ROWS.items()),
    )
    parser.add_argument("--rows", default="", help="names with commas between; default: all but soak and costs")
    parser.add_argument("--effort", choices=("quick", "full"), default="full")
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--hours", type=float, default=1.0, help="how long the soak takes")
    parser.add_argument("--only", default="", help="attacks, or parts of a row, with commas between; default: all")
    parser.add_argument("--one", default="", help="options of the first server whose costs are compared")
    parser.add_argument("--other", default="", help="options of the second one")
    asked = parser.parse_args()
    names = asked.rows.split(",") if asked.rows else [name for name in ROWS if name not in ASKED_FOR_ONLY]
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    findings = []
    only = frozenset(filter(None, asked.only.split(",")))
    for name in names:
        with tempfile.TemporaryDirectory(prefix=f"chaos-{name}-") as folder:
            arguments = (tuple(shlex.split(asked.one)), tuple(shlex.split(asked.other)))
            plan = Plan(asked.seed, asked.effort == "full", Path(folder), asked.hours, only, arguments)
            findings.append(_show(name, plan))
    command = f"python -m tests.chaos --rows {','.join(names)} --effort {asked.effort} --seed {asked.seed}"
    sys.stdout.write(f"\n{command}\n{told(findings)}")
    return 1 if any(finding.failures for finding in findings) else 0


def _show(name: str, plan: Plan) -> Finding:
    finding = Finding(name, judges_speed=plan.full)
    began_s = time.monotonic()
    sys.stdout.write(f"{name}: {ROWS[name]} ...\n")
    sys.stdout.flush()
    show: Show = import_module(f"tests.chaos.row_{name}").show
    try:
        asyncio.run(show(plan, finding))
    except CannotRun as error:
        finding.skipped.append(str(error))
    except Exception as error:
        traceback.print_exc()
        finding.failures.append(f"the row ended early: {type(error).__name__}: {error}"[:500])
    finding.counts["s"] = round(time.monotonic() - began_s)
    sys.stdout.write(told([finding]))
    sys.stdout.flush()
    return finding


if __name__ == "__main__":
    sys.exit(main())
