"""The rates as bars, one picture per run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.report import Results
from benchmarks.servers import OURS
from benchmarks.summary import Row, rows

OURS_COLOUR: Final = "#2f6f9f"
PEER_COLOUR: Final = "#b8c4cc"


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
    figure, axes = pyplot.subplots(
        1, len(names), figsize=(4.2 * len(names), 3.2), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], names, strict=True):
        chosen = [row for row in found if row.scenario == name]
        bars = axis.barh(
            [row.server for row in chosen],
            [_rate(row) for row in chosen],
            xerr=_whiskers(chosen),
            color=[OURS_COLOUR if row.server == OURS else PEER_COLOUR for row in chosen],
        )
        axis.bar_label(bars, [_label(row) for row in chosen], padding=4, fontsize=8)
        axis.invert_yaxis()  # the first server on top
        axis.margins(x=0.35)  # room for the labels
        axis.set_title(name)
        axis.set_xlabel("requests/s", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.locator_params(axis="x", nbins=4)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"Requests per second, medians of {results.plan.rounds} rounds "
        f"(factor over {results.reference})",
        fontsize=10,
    )
    figure.savefig(path)
    pyplot.close(figure)


def _rate(row: Row) -> float:
    return row.rate.median if row.rate else 0.0


def _whiskers(chosen: Sequence[Row]) -> list[list[float]]:
    """Return how far the lowest and the highest round lie from each median."""
    below = [row.rate.median - row.rate.low if row.rate else 0.0 for row in chosen]
    above = [row.rate.high - row.rate.median if row.rate else 0.0 for row in chosen]
    return [below, above]


def _label(row: Row) -> str:
    if row.rate is None:
        return "failed"
    factor = f" ({row.ratio.median:.2f})" if row.ratio else ""
    return f"{row.rate.median:,.0f}{factor}"
