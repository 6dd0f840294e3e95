"""Writes docs/fates.md and docs/fates.svg from the table of how frames can end, `duly.core.fates`.

    python docs/draw_fates.py FOLDER

writes both into FOLDER. `make docs` runs it; `make check` compares what is in docs/ with what the table says now.
"""

import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

from duly.core.fates import FATES, Fate, State

# ---- the page ----

HEAD = """# How a frame can end

<!-- Generated from server/duly/core/fates.py by `make docs`. Change that file, not this page. -->

Every frame ends in exactly one outcome. This page has every way in which that can happen, as it stands in
[`core/fates.py`](../server/duly/core/fates.py), on which the code runs.

![The five states of a frame, one below the other, and from each the ways in which the frame can end there](fates.svg)

The **reason** is what the client reads with the status; what stands in braces is filled in. A **miss** is what the
lanes could have prevented. Misses raise what the next frames of the stream are worth, put CRITICAL frames under the
rules of overload, and make models change to a faster variant.
"""

ABOUT = {
    State.AT_THE_DOOR: "The host answers the frame itself, and the scheduler never hears of it.",
    State.ARRIVING: "The scheduler answers the frame in the step that tells it of the frame.",
    State.WAITING: "The scheduler answers a frame that waits for a lane.",
    State.RUNNING: "The frame's batch ends, and the scheduler answers the frame.",
    State.ANSWERED: "The answer is on its way to the client. The host may still find that a result comes too late.",
}


def page() -> Iterator[str]:
    yield HEAD
    for state in State:
        yield f"## {state.value.capitalize()}\n\n{ABOUT[state]}\n\n| cause | status | reason | miss |"
        yield "| --- | --- | --- | --- |"
        for fate in of_state(state):
            yield f"| {fate.cause} | `{fate.status.name}` | {reason(fate)} | {'miss' if fate.missed else ''} |"
        yield ""


def reason(fate: Fate) -> str:
    if fate.wording == "{reason}":
        return "the host's own words"
    return fate.wording and f"`{fate.wording}`"


def of_state(state: State) -> list[Fate]:
    return [fate for fate in FATES if fate.state is state]


# ---- the picture: the states are boxes at the left, and each row is a line from its state to its status ----

WIDTH, MARGIN, ROW, GAP = 900, 20, 26, 44
BOX_RIGHT, TEXT_LEFT, PILL_LEFT, PILL_RIGHT, MISS_LEFT = 150, 172, 660, 770, 790
CHARACTER = 7.9
"""The width of an average character of a cause, at most; the line goes on behind the text."""

ONWARD = {
    State.AT_THE_DOOR: "it fits and there is room for it",
    State.ARRIVING: "the scheduler takes it",
    State.WAITING: "its batch starts",
    State.RUNNING: "it is answered",
    State.ANSWERED: "it is sent",
}
"""How a frame gets from each state to the next."""

COLOURS = {
    "ON_TIME": ("#4aa88b", "#16202a"),
    "LATE": ("#c8401f", "#ffffff"),
    "EXPIRED": ("#e69f00", "#16202a"),
    "SUPERSEDED": ("#8ab6d6", "#16202a"),
    "SHED": ("#b35c94", "#ffffff"),
    "SKIPPED": ("#d9cf5a", "#16202a"),
    "INVALID": ("#8c6d46", "#ffffff"),
    "CANCELLED": ("#a3abb4", "#16202a"),
    "FAILED": ("#59636f", "#ffffff"),
}
"""The colour of each status, nearly as in the harness's reports, and of text on it. All show on light and on dark."""

STYLE = """
text { font: 14px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1d232b; }
.paper { fill: #ffffff; } .box { fill: #eef1f4; stroke: #6b7681; }
.quiet { fill: #5b6672; } .spine { stroke: #6b7681; stroke-width: 2; } .head { fill: #6b7681; }
.state { font-weight: 600; text-anchor: middle; } .status { font-size: 12px; font-weight: 600; text-anchor: middle; }
.miss { fill: #b3261e; font-weight: 600; }
@media (prefers-color-scheme: dark) {
text { fill: #e4e8ec; } .paper { fill: #14181d; } .box { fill: #262d35; stroke: #7d8894; }
.quiet { fill: #98a3af; } .spine { stroke: #7d8894; } .head { fill: #7d8894; } .miss { fill: #ff8a7a; }
}
"""


def picture() -> Iterator[str]:
    height = 2 * MARGIN + len(FATES) * ROW + len(State) * GAP + ROW
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    yield f"<title>How a frame can end</title><style>{STYLE}"
    for status, (colour, ink) in COLOURS.items():
        yield f".{status} {{ fill: {colour}; stroke: {colour}; }} .on-{status} {{ fill: {ink}; }}"
    yield f'</style><rect class="paper" width="{WIDTH}" height="{height}" rx="8"/>'
    top = MARGIN
    for state in State:
        fates = of_state(state)
        bottom = top + len(fates) * ROW
        yield box(top, bottom, state.value)
        for place, fate in enumerate(fates):
            yield from way_out(top + place * ROW + ROW // 2, fate)
        yield from onward(bottom, ONWARD[state])
        top = bottom + GAP
    yield box(top, top + ROW, "the client") + "</svg>"


def box(top: int, bottom: int, text: str) -> str:
    left, middle = MARGIN, (MARGIN + BOX_RIGHT) // 2
    shape = f'<rect class="box" x="{left}" y="{top}" width="{BOX_RIGHT - left}" height="{bottom - top}" rx="6"/>'
    return f'{shape}<text class="state" x="{middle}" y="{(top + bottom) // 2 + 5}">{text}</text>'


def onward(top: int, text: str) -> Iterator[str]:
    x, bottom = (MARGIN + BOX_RIGHT) // 2, top + GAP
    yield f'<path class="spine" d="M{x} {top}V{bottom - 8}"/>'
    yield f'<path class="head" d="M{x - 5} {bottom - 10}h10l-5 9z"/>'
    yield f'<text class="quiet" x="{x + 14}" y="{top + GAP // 2 + 5}">{text}</text>'


def way_out(y: int, fate: Fate) -> Iterator[str]:
    status, text_right = fate.status.name, TEXT_LEFT + int(len(fate.cause) * CHARACTER)
    yield f'<path class="{status}" stroke-width="2" d="M{BOX_RIGHT} {y}H{TEXT_LEFT - 6}"/>'
    yield f'<text x="{TEXT_LEFT}" y="{y + 5}">{escape(fate.cause)}</text>'
    yield f'<path class="{status}" stroke-width="2" d="M{text_right} {y}H{PILL_LEFT - 8}l-1 -3l6 3l-6 3l1 -3"/>'
    pill = f'x="{PILL_LEFT}" y="{y - 10}" width="{PILL_RIGHT - PILL_LEFT}" height="20" rx="10"'
    yield f'<rect class="{status}" {pill}/>'
    yield f'<text class="status on-{status}" x="{(PILL_LEFT + PILL_RIGHT) // 2}" y="{y + 4}">{status}</text>'
    if fate.missed:
        yield f'<text class="miss" x="{MISS_LEFT}" y="{y + 5}">◆ miss</text>'


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "fates.md").write_text("\n".join(page()).rstrip("\n") + "\n", "utf-8")
    (folder / "fates.svg").write_text("\n".join(picture()) + "\n", "utf-8")
