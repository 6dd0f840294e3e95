"""The page of goodput against load, as one HTML file that opens offline."""

from pathlib import Path

from duly_load.report.figures import against_load
from duly_load.report.page import Column, Picture, Table, render
from duly_load.results.formats import write_text

Points = list[tuple[float, float, float, float]]
"""(load, least, median, greatest goodput) of the runs of one policy."""


def write_curves(path: Path, title: str, curves: list[tuple[str, Points]], load: str) -> None:
    """One page of goodput against load: a line for each policy, with the spread of its runs, and the numbers.

    The folder of `path` must exist. Raises ValueError where there is nothing to draw, ModuleNotFoundError without
    plotly.
    """
    if not curves or not all(points for _, points in curves):
        raise ValueError(f"every policy should have at least one point, got {[len(points) for _, points in curves]}")
    loads = sorted({point[0] for _, points in curves for point in points})
    medians = [(policy, {at: median for at, _, median, _ in points}) for policy, points in curves]
    table = Table(
        "Median goodput",
        f"On-time predictions per second by {load}; the best policy of each column stands out.",
        "policy",
        tuple(Column(f"{at:,.6g}", f"{load}: {at:,.6g}", ",.1f", best=1) for at in loads),
        [(policy, tuple(median.get(at) for at in loads)) for policy, median in medians],
    )
    picture = Picture(
        "Goodput against load",
        "Lines are medians over the runs at a load, bands go from the least to the greatest. Where a line bends away "
        "from the others it starts to miss; one that falls serves frames that are lost already.",
        against_load(curves, load, "goodput (frames/s)", "%{y:,.4~g}/s"),
    )
    write_text(path, render(title, [("Policies", str(len(curves)))], [table], [picture]))
