"""Fills the tables of docs/accelerators.md from the table that the server goes by, server/duly/accelerators.py.

    python docs/list_accelerators.py FOLDER

reads the page, puts the tables between their marks as the code has them now, and writes the page into FOLDER.
`make docs` runs it; `make check` compares the result with the page. The rest of the page is written by hand.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from duly.accelerators import ACCELERATORS, MEANINGS, PROOFS, Accelerator

PAGE = Path(__file__).parent / "accelerators.md"


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def providers() -> str:
    head = ("lanes", "run on", "with", "installed by", "need besides", "is it there?")
    return table(head, (row(each) for each in ACCELERATORS))


def row(each: Accelerator) -> Sequence[str]:
    lane = f"`{each.kind}:…`"
    if each is not next(other for other in ACCELERATORS if other.kind == each.kind):
        lane += ", where `providers` of model.toml asks for it"
    return (lane, each.hardware, f"`{each.provider}`", installed(each), each.needs, seen(each))


def installed(each: Accelerator) -> str:
    ways = []
    if each.wheel:
        ways.append(
            f"`duly[{each.extra}]` (`{each.wheel}`)" if each.extra else f"`{each.wheel}` in place of `onnxruntime`"
        )
    if each.plugin:
        extra = each.extra if not each.wheel else ""
        ways.append(f"`duly[{extra}]` (`{each.plugin}`)" if extra else f"`duly[cpu]` and the plugin `{each.plugin}`")
    return "; or ".join(ways) or "AMD's own installer, in place of `onnxruntime`"


def seen(each: Accelerator) -> str:
    return f"`{each.seen_by}`" if each.seen_by else ""


def lanes() -> str:
    return table(("lane", "is"), ((", ".join(f"`{name}`" for name in each.lanes), each.means) for each in MEANINGS))


def matrix() -> str:
    head = ("provider", "tests run on", "truly assigned", "fall back caught", "device lost")
    return table(head, ((each[0], each[1] or "nothing yet", *each[2:]) for each in PROOFS))


TABLES = {"providers": providers, "lanes": lanes, "matrix": matrix}


def filled(page: str) -> str:
    """The page with its tables as they are now. Raises SystemExit where one has no place in it."""
    for name, made in TABLES.items():
        marks = re.compile(rf"(<!-- {name}: made from the code -->\n)(?:\|.*\n)*(<!-- end -->\n)")
        if not (place := marks.search(page)):
            raise SystemExit(f"{PAGE.name} has no place for the table {name}: <!-- {name}: made from the code -->")
        page = f"{page[: place.start()]}{place[1]}{made()}\n{place[2]}{page[place.end() :]}"
    return page


if __name__ == "__main__":
    (Path(sys.argv[1]) / PAGE.name).write_text(filled(PAGE.read_text("utf-8")), "utf-8")
