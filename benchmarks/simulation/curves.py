"""The curves: load, workers and queue over time, each rule a line; one picture per load."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from math import nan
from pathlib import Path
from typing import Final

from benchmarks.plot import OURS_COLOUR
from benchmarks.simulation.loads import Load
from benchmarks.simulation.report import Results
from benchmarks.simulation.run import Outcome
from benchmarks.simulation.smart import NAME

_COLOURS: Final = (
    *("#c65d3b", "#d9a441", "#7a9e4f", "#4f9e8f", "#8a6fb0", "#b0527a", "#999999", "#555555"),
)


def draw_all(results: Results, directory: Path) -> list[Path]:
    """Write one PNG for each load; return the files.

    Raises: ImportError if matplotlib is not installed.
    """
    # Not at the top: a run without matplotlib still has its table and its JSON.
    import matplotlib

    matplotlib.use("Agg")  # draws into files, needs no display
    return [_draw(load, results.of(load.name), directory) for load in results.plan.loads]


def _draw(load: Load, outcomes: Sequence[Outcome], directory: Path) -> Path:
    from matplotlib import pyplot

    figure, (rates, workers, queues) = pyplot.subplots(
        3, 1, figsize=(10, 8), sharex=True, height_ratios=(1, 3, 2), layout="constrained"
    )
    first = outcomes[0].samples
    times = [sample.at_s for sample in first]
    rates.plot(times, [sample.rate for sample in first], color="#444444", linewidth=1)
    rates.set_ylabel("requests/s")
    rates.set_ylim(bottom=0)
    workers.step(
        times, [s.need for s in first], "k--", where="post", linewidth=1, label="just needed"
    )
    colours = cycle(_COLOURS)
    for outcome in outcomes:
        name, samples = outcome.rule, outcome.samples
        times = [sample.at_s for sample in samples]
        ours = name == NAME
        style = {
            "color": OURS_COLOUR if ours else next(colours),
            "linewidth": 2.0 if ours else 0.9,
            "zorder": 3 if ours else 2,
        }
        workers.step(times, [s.ready for s in samples], where="post", label=name, **style)
        queues.plot(times, [s.queue for s in samples], **style)
        if ours:
            aims = [nan if s.wanted is None else s.wanted for s in samples]
            style |= {"linewidth": 1.0, "linestyle": ":"}
            workers.step(times, aims, where="post", label=f"{name}, wanted", **style)
    workers.set_ylabel("workers ready")
    workers.set_ylim(bottom=0)
    figure.legend(*workers.get_legend_handles_labels(), fontsize=7, loc="outside right upper")
    queues.set_ylabel("requests waiting")
    queues.set_yscale("symlog", linthresh=10)
    queues.set_ylim(bottom=0)
    queues.set_xlabel("seconds")
    for axis in (rates, workers, queues):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    figure.suptitle(f"{load.name}: {load.title}", fontsize=10)
    path = directory / f"{load.name}.png"
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
    return path
