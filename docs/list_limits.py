"""Writes docs/limits.md from the settings of the server (`duly.config`) and the constants of its modules.

    python docs/list_limits.py FOLDER

writes the page into FOLDER. `make docs` runs it; `make check` compares what is in docs/ with what the code says now.
A constant is a limit if its name ends with `_MAX`. What happens at it is what its docstring says.
"""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from duly.config import Limit, ServerConfig

SERVER = Path(__file__).parent.parent / "server"
ROOMS = {
    "rpc": "Calls and connections",
    "streams": "Streams",
    "runtime": "The serving process",
    "access": "Identity and rights",
    "worker": "Worker processes",
    "models": "Models and their repository",
    "core": "The scheduler",
    "agreement": "Agreement of answers",
    "energy": "Energy",
    "sampling": "Kept frames and labels",
    "trials": "Trials of versions",
    "": "The rest of the process",
}
"""The folders below `server/duly` whose constants are listed, each with its heading."""
HEAD = """# Limits

<!-- Generated from the settings and constants of server/duly by `make docs`. Change those, not this page. -->

Everything that grows with what clients, models or files do has a limit. This page has every one, and what happens at
it. Settings can be changed when the server starts (`duly serve`, see `--help`); constants cannot.

Calls that end with an error are counted by `duly_calls_failed_total` with its reason, frames by `duly_outcomes_total`
with the status of their outcome, and frames that were refused at the door also by `duly_frames_refused_total` with the
cause, as [fates.md](fates.md) has it.
"""


def page() -> Iterator[str]:
    yield HEAD
    yield "## Settings\n\n| setting | default | what it bounds | at the limit | seen in |"
    yield "| --- | --- | --- | --- | --- |"
    for name, info in ServerConfig.model_fields.items():
        for limit in info.metadata:
            if isinstance(limit, Limit):
                bounds = in_one_line(info.description or "")
                yield f"| `{name}` | {value_of(name, info.default)} | {bounds} | {limit.then} | {seen(limit)} |"
    for room, heading in ROOMS.items():
        rows = list(constants(room))
        if rows:
            yield f"\n## {heading}\n\n| constant | value | what it bounds, and what happens at it |"
            yield "| --- | --- | --- |"
            yield from sorted(rows)


def seen(limit: Limit) -> str:
    return f"`{limit.metric}`" if limit.metric else ""


def constants(room: str) -> Iterator[str]:
    """A row for each constant of the room's modules that is a limit."""
    folder = SERVER / "duly" / room
    for path in sorted(folder.rglob("*.py") if room else folder.glob("*.py")):
        body = ast.parse(path.read_text()).body
        module = ".".join(path.relative_to(SERVER).with_suffix("").parts)
        shown = path.relative_to(SERVER / "duly")
        for at, node in enumerate(body):
            name = assigned(node)
            if name.endswith("_MAX") and not name.startswith("_") and "NAMED" not in name:
                value = value_of(name, getattr(importlib.import_module(module), name))
                text = in_one_line(docstring(body[at + 1 :], where=f"{shown}: {name}"))
                yield f"| [`{name}`](../server/duly/{shown}) | {value} | {text} |"


def assigned(node: ast.stmt) -> str:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return ""


def docstring(after: list[ast.stmt], where: str) -> str:
    """The string that stands directly below a constant, or below others that follow it, if it names the constant.

    Raises SystemExit where there is none.
    """
    name = where.rpartition(" ")[2]
    for place, node in enumerate(after):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            if not place or name in node.value.value:
                return node.value.value
            break
        if not assigned(node):
            break
    raise SystemExit(f"{where}: say below it what it bounds and what happens at it, as a docstring")


def value_of(name: str, value: object) -> str:
    """The value with its unit, which is in the name."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return f"`{value}`"
    name = name.lower()
    if "byte" in name and value >= 1024:
        for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if value >= factor and value % factor == 0:
                return f"{value // factor} {unit}"
    if "_ns" in name:
        return f"{value / 1e9:g} s" if value >= 1e9 else f"{value / 1e6:g} ms"
    for part, unit in (("seconds", "s"), ("percent", "%"), ("_ms", "ms")):
        if part in name:
            return f"{value:,.10g} {unit}"
    if name.endswith(("_s", "_s_max")):
        return f"{value:g} s"
    return f"{value:,}"


def in_one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    (Path(sys.argv[1]) / "limits.md").write_text("\n".join(page()) + "\n")
