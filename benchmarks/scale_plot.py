"""The curves as small multiples: one panel a curve, one line a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.scale_curves import Curve
from benchmarks.scale_report import LABELS, Results, shape_of
from benchmarks.servers import OURS

COLUMNS: Final = 4
# Told apart by those who see fewer colours, too (Okabe and Ito, 2008).
COLOURS: Final = {
    OURS: "#0072b2",
    "gunicorn": "#d55e00",
    "waitress": "#e69f00",
    "granian": "#009e73",
    "bjoern": "#7f7f7f",
}
_OTHER_COLOUR: Final = "#cc79a7"
_LINEAR: Final = frozenset({"ideal", "memory_mb"})  # these start at zero
_DECADES: Final = 300.0  # from here on only whole powers of ten are marked


def draw(results: Results, path: Path) -> None:
    """Write the picture to `path` (SVG or PNG, by its suffix).

    Raises: ImportError if matplotlib is not installed.
    """
    # Not at the top: a run without matplotlib still has its table and its JSON.
    import matplotlib

    matplotlib.use("Agg")  # draws into files, needs no display
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text: a quarter of the size
    from matplotlib import pyplot

    wanted = [(c, figure) for c in results.curves() for figure in (c.figure, *c.drawn)]
    rows = max(1, -(-len(wanted) // COLUMNS))
    figure, axes = pyplot.subplots(
        rows,
        COLUMNS,
        figsize=(3.9 * COLUMNS, 2.9 * rows),
        squeeze=False,
        layout="constrained",
    )
    panels = list(axes.flat)
    handles: dict[str, Any] = {}
    for axis, (curve, what) in zip(panels, wanted, strict=False):
        _panel(axis, results, curve, what)
        handles |= {label: h for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    for axis in panels[len(wanted) :]:
        axis.set_visible(False)
    names = sorted(handles, key=[*COLOURS, *handles].index)
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside upper center",
        ncols=6,
        frameon=False,
    )
    figure.savefig(path)
    pyplot.close(figure)


def _panel(axis: Any, results: Results, curve: Curve, what: str) -> None:
    values: list[float] = []
    for server in results.servers(curve):
        line = results.line(curve, server, what)
        values += [value for _, value in line]
        is_ours = server == OURS
        axis.plot(
            [size for size, _ in line],
            [value for _, value in line],
            marker="o",
            markersize=4 if is_ours else 3,
            linewidth=2.2 if is_ours else 1.2,
            color=COLOURS.get(server, _OTHER_COLOUR),
            label=server,
            zorder=3 if is_ours else 2,
        )
    own = shape_of(results, curve, OURS) if what == curve.figure else None
    axis.set_title(f"{curve.name} ({OURS}: {own.name})" if own else curve.name, fontsize=10)
    axis.set_xlabel(curve.unit, fontsize=8)
    axis.set_ylabel(LABELS[what], fontsize=8)
    _scale_x(axis, curve, is_linear=what == "memory_mb")
    _scale_y(axis, what, values)
    axis.grid(True, color="#e6e6e6", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _scale_x(axis: Any, curve: Curve, *, is_linear: bool) -> None:
    from matplotlib.ticker import NullLocator

    sizes = curve.sizes
    if sizes[0] == 0:
        axis.set_xscale("symlog", linthresh=sizes[1], linscale=0.5)
    elif not is_linear:
        axis.set_xscale("log")
    axis.set_xticks(sizes, [_short(size) for size in sizes])
    axis.xaxis.set_minor_locator(NullLocator())


def _scale_y(axis: Any, what: str, values: list[float]) -> None:
    """Use logarithms, over a decade at least: what is flat should look so."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if what in _LINEAR:
        axis.set_ylim(0, max([1.0, *values]) * 1.05)
        return
    low, high = min(values, default=1.0), max(values, default=1.0)
    wider = max(1.4, (10 * low / high) ** 0.5)
    axis.set_yscale("log")
    axis.set_ylim(low / wider, high * wider)
    steps = (1.0, 2.0, 5.0) if high / low < _DECADES else (1.0,)
    axis.yaxis.set_major_locator(LogLocator(subs=steps))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.yaxis.set_minor_locator(NullLocator())


def _short(size: int) -> str:
    """Return 1000 as 1k, 1000000 as 1M."""
    for unit, letter in ((1_000_000, "M"), (1_000, "k")):
        if size >= unit:
            return f"{size // unit}{letter}"
    return str(size)
