"""What each scenario is about as bars, one small picture for each, all in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.report import Results
from benchmarks.sample import FIGURES
from benchmarks.servers import OURS
from benchmarks.summary import Row, Spread, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS_COLOUR: Final = "#2f6f9f"
PEER_COLOUR: Final = "#b8c4cc"
_COLUMNS: Final = 3


def draw(results: Results, path: Path) -> None:
    """Write the picture to `path` (SVG or PNG, by its suffix).

    Raises: ImportError if matplotlib is not installed.
    """
    # Not at the top: a run without matplotlib still has its table and its JSON.
    import matplotlib

    matplotlib.use("Agg")  # draws into files, needs no display
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text: a quarter of the size
    from matplotlib import pyplot

    found = rows(results.samples, results.reference)
    names = list(dict.fromkeys(row.scenario for row in found))
    columns = max(1, min(_COLUMNS, len(names)))
    lines = max(1, -(-len(names) // columns))
    servers = max([sum(row.scenario == name for row in found) for name in names], default=1)
    figure, axes = pyplot.subplots(
        lines,
        columns,
        figsize=(4.6 * columns, (0.95 + 0.24 * servers) * lines + 0.4),
        squeeze=False,
        layout="constrained",
    )
    cells = list(axes.flat)
    for axis, name in zip(cells, names, strict=False):
        _bars(axis, [row for row in found if row.scenario == name])
    for axis in cells[len(names) :]:
        axis.set_visible(False)
    figure.suptitle(
        f"Medians of {results.plan.rounds} rounds, lowest and highest as whiskers; in brackets "
        f"how many times as good as {results.reference}",
        fontsize=10,
    )
    figure.savefig(path)
    pyplot.close(figure)


def _bars(axis: Axes, chosen: Sequence[Row]) -> None:
    """Draw one scenario: a bar for each server, the first on top."""
    figure = FIGURES[chosen[0].merit]
    spreads = [_scaled(row, figure.factor) for row in chosen]
    bars: Any = axis.barh(
        [row.server for row in chosen],
        [spread.median for spread in spreads],
        xerr=[
            [spread.median - spread.low for spread in spreads],
            [spread.high - spread.median for spread in spreads],
        ],
        color=[OURS_COLOUR if row.server == OURS else PEER_COLOUR for row in chosen],
        error_kw={"elinewidth": 0.8},
    )
    axis.bar_label(bars, [_label(row) for row in chosen], padding=4, fontsize=7)
    axis.invert_yaxis()
    axis.margins(x=0.4)  # room for the labels
    direction = "" if figure.higher_is_better else " (less is better)"
    axis.set_title(f"{chosen[0].scenario}: {figure.head}{direction}", fontsize=9)
    axis.tick_params(labelsize=7)
    axis.locator_params(axis="x", nbins=4)
    axis.spines[["top", "right"]].set_visible(False)


def _scaled(row: Row, factor: float) -> Spread:
    spread = row.figures.get(row.merit)
    if spread is None:
        return Spread(0.0, 0.0, 0.0)
    return Spread(spread.median * factor, spread.low * factor, spread.high * factor)


def _label(row: Row) -> str:
    figure = FIGURES[row.merit]
    if row.merit not in row.figures:
        return "failed"
    factor = f" ({row.ratio.median:.2f})" if row.ratio else ""
    return f"{_scaled(row, figure.factor).median:{figure.form}}{factor}"
