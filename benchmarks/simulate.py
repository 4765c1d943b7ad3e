"""python -m benchmarks.simulate: decide() and other servers' rules on the same loads, quickly.

A simulation, event by event, of workers behind one queue (see `simulation`): how long
requests wait, what the workers cost, how calm it is. It is how changes of the policy are
judged: `--try spare=1.5,hold_s=4` adds decide() with other constants as a rule of its own.
`--out benchmarks/results/simulation` writes report, JSON and curves.
"""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Final

import click

from benchmarks.simulation import curves, loads, report
from benchmarks.simulation.cost import SIZES, measure
from benchmarks.simulation.loads import Limits, Load
from benchmarks.simulation.run import Change, Plan, run
from benchmarks.simulation.trace import TraceError, load_of
from spm.policy import Policy

# The system of the server is not simulated, so its limit on workers is none here.
MAX_WORKERS: Final = 10_000
_FIXED_FIELDS: Final = ("min_workers", "max_workers", "threads", "usable_cores")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--load", "names", multiple=True, type=click.Choice(loads.NAMES), help="Only this.")
@click.option("--rule", "rules", multiple=True, help="Only rules whose names begin so.")
@click.option("--try", "changes", multiple=True, metavar="NAME=VALUE,..", help="Other constants.")
@click.option(
    "--trace",
    "traces",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A recorded load: lines of `seconds since the start,seconds of service`.",
)
@click.option("--workers", type=click.IntRange(1, MAX_WORKERS), default=16, show_default=True)
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option("--quick", is_flag=True, help="Loads a fifth as long.")
@click.option("--cost", is_flag=True, help="Measure what decide() costs, by number of workers.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write report, JSON and curves there, e.g. benchmarks/results/simulation.",
)
def main(
    names: tuple[str, ...],
    rules: tuple[str, ...],
    changes: tuple[str, ...],
    traces: tuple[Path, ...],
    workers: int,
    threads: int,
    seed: int,
    seeds: int,
    quick: bool,
    cost: bool,
    out: Path | None,
) -> None:
    """Simulate the rules for the number of workers; prints a Markdown report.

    Loads grow with the number of workers and threads. The same seed gives the same figures.
    """
    limits = Limits.of(workers, threads)
    chosen = _loads(limits, names, traces, quick=quick)
    tried = [_change(text) for text in changes]
    plan = Plan(chosen, limits, range(seed, seed + seeds), tried, rules)
    if not plan.rules_for(chosen[0]):
        raise click.BadParameter("no rule begins so", param_hint="--rule")
    outcomes = run(plan, lambda outcome: click.echo(report.progress(outcome), err=True))
    costs = [measure(size) for size in SIZES] if cost else []
    results = report.Results(plan, outcomes, costs)
    click.echo(report.as_text(results))
    if out is not None:
        for path in _write(results, out):
            click.echo(f"written: {path}", err=True)


def _loads(
    limits: Limits, names: tuple[str, ...], traces: tuple[Path, ...], *, quick: bool
) -> list[Load]:
    """Return what was asked for: with a trace, only that, unless loads are named, too."""
    made = loads.loads(limits, quick=quick)
    chosen = [made[name] for name in (names or (() if traces else made))]
    try:
        recorded = [load_of(path) for path in traces]
    except TraceError as error:
        raise click.BadParameter(str(error), param_hint="--trace") from error
    taken = [load.name for load in (*chosen, *recorded)]
    for name in taken:
        if taken.count(name) > 1:
            raise click.BadParameter(f"two loads are called {name}", param_hint="--trace")
    return [*chosen, *recorded]


def _change(text: str) -> Change:
    """Return the constants of `name=value,name=value`."""
    known = [name for name in Policy._fields if name not in _FIXED_FIELDS]
    change = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in known:
            message = f"no constant is called {name!r}; there are {', '.join(known)}"
            raise click.BadParameter(message, param_hint="--try")
        try:
            change[name] = float(value)
        except ValueError:
            raise click.BadParameter(f"{part!r} has no number", param_hint="--try") from None
        if not isfinite(change[name]):
            raise click.BadParameter(f"{part!r} is not finite", param_hint="--try")
    return change


def _write(results: report.Results, directory: Path) -> list[Path]:
    """Write report, JSON and curves; return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        pictures = curves.draw_all(results, directory)
    except ImportError as error:
        click.echo(f"no curves: {error}", err=True)
        pictures = []
    text, data = directory / "simulation.md", directory / "simulation.json"
    text.write_text(report.as_text(results, [path.stem for path in pictures]), encoding="utf-8")
    data.write_text(report.as_json(results) + "\n", encoding="utf-8")
    return [text, data, *pictures]


if __name__ == "__main__":
    main()
