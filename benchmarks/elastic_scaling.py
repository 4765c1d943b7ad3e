"""Scaling by demand: a burst of fresh connections, and steady load that is to leave it in peace."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from benchmarks.elastic_load import Load, Seen
from benchmarks.elastic_series import (
    changes,
    milliseconds,
    rebounds,
    seconds_until_back,
    seconds_until_ready,
    staying,
    windows,
)
from benchmarks.elastic_server import Moment, Shape, Watch, serving
from benchmarks.elastic_verdict import Check, Outcome
from benchmarks.hostile import get

PATIENCE_S: Final = 12.0
SLEEP_S: Final = 0.1
SLEEP: Final = get("/sleep?ms=100", "Connection: close")
_NS: Final = 1_000_000_000
_CURVE_S: Final = 0.25
_CALM_WORKERS: Final = 4


@dataclass(frozen=True, slots=True)
class Burst:
    """Rates are requests per second."""

    quiet_rate: float = 5.0
    burst_rate: float = 120.0
    quiet_s: float = 5.0
    burst_s: float = 15.0
    after_s: float = 20.0


QUICK: Final = Burst(quiet_s=3, burst_s=6, after_s=17)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a run, by the wall clock."""

    begin_ns: int
    end_ns: int


def burst(name: str, number: int, shape: Shape, p99_bound: float, *, quick: bool) -> Outcome:
    """Measure 5 -> 120 -> 5 requests/s on fresh connections."""
    plan = QUICK if quick else Burst()
    with serving(shape) as target, Load(target.address) as load, Watch(target) as watch:
        load.run_for(0.5)
        memory = {"PSS MB before": target.pss_mb()}
        seen, parts = drive(load, plan)
        memory["PSS MB after"] = target.pss_mb()
    needed = int(plan.burst_rate * SLEEP_S / shape.threads)
    return _judge_burst(name, number, seen, watch.moments, parts, needed, p99_bound, memory)


def drive(load: Load, plan: Burst) -> tuple[Seen, list[Span]]:
    """Let the burst come and go; return what was seen, and when the three parts were."""
    flow = load.fresh(SLEEP)
    parts = []
    for rate, seconds in (
        (plan.quiet_rate, plan.quiet_s),
        (plan.burst_rate, plan.burst_s),
        (plan.quiet_rate, plan.after_s),
    ):
        begin_ns = time.time_ns()
        flow.pace(rate)
        load.run_for(seconds)
        parts.append(Span(begin_ns, time.time_ns()))
    load.finish(PATIENCE_S)
    return flow.seen, parts


def _judge_burst(
    name: str,
    number: int,
    seen: Seen,
    moments: Sequence[Moment],
    parts: Sequence[Span],
    needed: int,
    p99_bound: float,
    memory: dict[str, float],
) -> Outcome:
    quiet, wave, after = parts
    unloaded = seen.durations_ns(quiet.begin_ns, quiet.end_ns)
    loaded = seen.durations_ns(wave.begin_ns, wave.end_ns)
    unloaded_ms, p99_ms = milliseconds(unloaded, 0.5), milliseconds(loaded, 0.99)
    counts = [staying(moment) for moment in moments]
    checks = (
        Check("errors", len(seen.failures), 0, each=True),
        Check(
            f"{needed} workers ready after",
            seconds_until_ready(moments, wave.begin_ns, needed),
            0.5,
            "s",
        ),
        Check("p99 in the burst / unloaded p50", p99_ms / unloaded_ms, p99_bound, "x"),
        Check(
            f"at most {_CALM_WORKERS} workers again after",
            seconds_until_back(moments, after.begin_ns, _CALM_WORKERS),
            15,
            "s",
        ),
        Check("oscillations", rebounds(counts), 0, each=True),
    )
    figures = {
        **burst_figures(seen, quiet, wave),
        "workers start": counts[0],
        "workers peak": max(counts),
        "workers end": counts[-1],
        **memory,
    }
    curve = windows(seen.answered, moments, quiet.begin_ns, after.end_ns, _CURVE_S)
    return Outcome(name, number, checks, figures, said(seen), [asdict(w) for w in curve])


def burst_figures(seen: Seen, quiet: Span, wave: Span) -> dict[str, float]:
    """Return what can be said of any server in a burst."""
    unloaded = seen.durations_ns(quiet.begin_ns, quiet.end_ns)
    loaded = seen.durations_ns(wave.begin_ns, wave.end_ns)
    return {
        "requests": seen.sent,
        "unloaded p50 ms": milliseconds(unloaded, 0.5),
        "unloaded p99 ms": milliseconds(unloaded, 0.99),
        "burst p50 ms": milliseconds(loaded, 0.5),
        "burst p99 ms": milliseconds(loaded, 0.99),
        "burst max ms": milliseconds(loaded, 1),
        "late p99 ms": milliseconds(sorted(seen.late_ns), 0.99),
    }


def steady(name: str, number: int, *, quick: bool) -> Outcome:
    """Measure four minutes of Poisson load, beside a server whose workers are fixed.

    Both servers run at once, each with a load of its own, so that whatever else the machine
    does in these minutes hits both.
    """
    rate, settle_s, seconds = (60.0, 20.0, 40.0) if quick else (60.0, 30.0, 210.0)
    elastic, fixed = Shape(2, 16, 1), Shape(16, 16, 1)
    with (
        serving(elastic) as target,
        serving(fixed) as reference,
        Load(target.address, seed=number) as load,
        Watch(target, 0.05) as watch,
    ):
        flows = [
            load.fresh(SLEEP, is_poisson=True, address=server.address)
            for server in (target, reference)
        ]
        for flow in flows:
            flow.pace(rate)
        load.run_for(settle_s)
        begin_ns = time.time_ns()
        load.run_for(seconds)
        end_ns = time.time_ns()
        load.finish(PATIENCE_S)
        own, others = (flow.seen for flow in flows)
        moments = watch.between(begin_ns, end_ns)
        sizes = {"PSS MB": target.pss_mb(), f"PSS MB of {fixed}": reference.pss_mb()}
    done = changes(moments)
    p99s = [milliseconds(seen.durations_ns(begin_ns, end_ns), 0.99) for seen in (own, others)]
    checks = (
        Check("errors", len(own.failures), 0, each=True),
        Check("spawns and retirements after settling", done.count, 10),
        Check("p99 / p99 with workers fixed at the maximum", p99s[0] / p99s[1], 1.05, "x"),
    )
    counts = [moment.total for moment in moments]
    figures = {
        "seconds": seconds,
        "requests": own.sent,
        "p99 ms": p99s[0],
        f"p99 ms of {fixed}": p99s[1],
        "spawned": done.spawned,
        "retired": done.retired,
        "revived": done.revived,
        "workers mean": sum(counts) / len(counts),
        "workers low": min(counts),
        "workers high": max(counts),
        "late p99 ms": milliseconds(sorted(own.late_ns), 0.99),
        **sizes,
    }
    return Outcome(name, number, checks, figures, said(own))


def said(seen: Seen) -> list[str]:
    """Return the different things that went wrong, with how often each did."""
    counts: dict[str, int] = {}
    for failure in seen.failures:
        counts[failure.what] = counts.get(failure.what, 0) + 1
    return [f"{count} x {what}" for what, count in counts.items()]
