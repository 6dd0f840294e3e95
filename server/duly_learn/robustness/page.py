"""A result as a page that opens offline: the picture, tables, and what the corruptions look like."""

from collections.abc import Sequence

from duly.agreement.interval import Interval
from duly_learn.report.page import Cell, Drawing, Image, Pair, Section, Table, Verdict, render
from duly_learn.robustness.picture import picture
from duly_learn.robustness.result import CLEAN, Level, Result, Tested

INTERVALS = (
    "Intervals are for a confidence of 95 % and take frames as independent of one another; neighbours of one recording "
    "are not, so that the true ones are rather wider."
)


def page(result: Result) -> str:
    """Returns the whole page."""
    both = [result.tested] + ([result.against] if result.against is not None else [])
    sections = [
        Section(
            "What is left", f"The score, in %, from clean frames to the worst. {INTERVALS}", [Drawing(picture(result))]
        ),
        *(_of_one(tested) for tested in both),
        *([_differences(result, result.against)] if result.against is not None else []),
        *([_looks(result)] if result.pictures else []),
    ]
    title = f"Robustness of {' and '.join(tested.model for tested in both)}"
    return render(title, _facts(result), _verdict(result), sections)


def _facts(result: Result) -> list[tuple[str, str]]:
    facts = [
        ("measure", result.measure),
        ("compared with", result.expected),
        ("frames", f"{result.frames} of {result.streams} stream{'s' if result.streams > 1 else ''}"),
        ("seed", f"{result.seed}{'' if result.is_repeatable else '; cut by the clock, see the notes'}"),
    ]
    return facts + ([("agreement on clean frames", str(result.agreement))] if result.agreement is not None else [])


def _verdict(result: Result) -> Verdict:
    worst = [(min(row.levels, key=lambda level: level.mean.mean), row.name) for row in result.tested.rows if row.levels]
    worst.sort(key=lambda entry: entry[0].mean.mean)
    clean = result.tested.clean.mean.mean
    headline = f"{result.tested.model}: {100 * clean:.1f} % on clean frames"
    if worst:
        level, name = worst[0]
        headline += f", {100 * level.mean.mean:.1f} % under {name} at {level.label}"
    if result.against is not None:
        sure = [each for each in result.compared if each.significant]
        worse = sum(each.difference.mean < 0 for each in sure)
        headline += (
            f"; {result.against.model} is significantly better in {len(sure) - worse} and worse in {worse} of "
            f"{len(result.compared)} conditions"
        )
    return Verdict(True, headline, result.notes)


def _of_one(tested: Tested) -> Section:
    widest = max((len(row.levels) for row in tested.rows), default=0)
    columns = ["", *(str(nth + 1) for nth in range(widest)), "what the numbers below mean", "severities of"]
    rows = [[Cell(CLEAN), _cell(tested.clean), *[Cell("")] * (widest + 1)]]
    for row in tested.rows:
        cells = [_cell(level) for level in row.levels] + [Cell("")] * (widest - len(row.levels))
        name = f"{row.name}, {len(row.levels[0].scores)} frames" if row.what == "attack" and row.levels else row.name
        rows.append([Cell(name), *cells, Cell(row.unit), Cell(row.scale)])
    about = "Scores in %, with their intervals, and below each what was done: an attack's is the size of its ball. "
    about += "Where the model has guards, how many frames they have flagged."
    return Section(tested.model, about, [Table(columns, rows)])


def _cell(level: Level) -> Cell:
    amount = level.label if "/" in level.label else _shown(level.amount)
    flagged = f"\n{100 * level.flagged / len(level.scores):.0f} % flagged" if level.flagged else ""
    return Cell(_percent(level.mean) + ("" if level.amount is None else f"\n{amount}") + flagged, "number lines")


def _percent(mean: Interval) -> str:
    return f"{100 * mean.mean:.1f} ({100 * mean.low:.0f} to {100 * mean.high:.0f})"


def _shown(amount: object) -> str:
    if isinstance(amount, tuple):
        return ", ".join(map(_shown, amount))
    return f"{amount:.3g}" if isinstance(amount, float) else str(amount)


def _differences(result: Result, against: Tested) -> Section:
    rows = []
    for each in result.compared:
        found = each.difference
        kind = ("good" if found.mean > 0 else "bad") if each.significant else "number"
        rows.append(
            [
                Cell(each.row if each.row == CLEAN else f"{each.row} {each.label}"),
                Cell(f"{100 * found.mean:+.1f}", kind),
                Cell(f"{100 * found.low:+.1f} to {100 * found.high:+.1f}", "number"),
                Cell(f"{found.p:.2g}", "number"),
                Cell("significant" if each.significant else "", kind),
            ]
        )
    about = (
        "Points of the score, on the very same harmed frames. Significant is what is so by Holm's rule: the chance to "
        "call any condition different by mistake is 5 % at most."
    )
    columns = ["condition", "difference", "95 %", "p", ""]
    return Section(f"{against.model} less {result.tested.model}", about, [Table(columns, rows)])


def _looks(result: Result) -> Section:
    parts: list[Pair] = []
    for name in dict.fromkeys(shown.row for shown in result.pictures):
        of_name: Sequence[Image] = [
            Image(shown.jpeg, "image/jpeg", f"{name} {shown.label}".strip())
            for shown in result.pictures
            if shown.row == name
        ]
        parts.append(Pair(of_name))
    return Section("What it looks like", "One frame, as corruptions make it at some severities.", parts)
