"""The right size: as many workers as the cores can use, threads for what only waits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import mean
from typing import Final

import psutil

from benchmarks.elastic_app import BODY, loops_for
from benchmarks.elastic_series import changes
from benchmarks.elastic_server import APP, Moment, Shape, Watch, serving
from benchmarks.elastic_verdict import Check, Outcome
from benchmarks.load import choose_generator
from benchmarks.scenarios import Scenario

_CLOSE: Final = (("Connection", "close"),)
_COMPUTE_S: Final = 0.005
_IO_CONNECTIONS: Final = 200
_IO_SLEEP_S: Final = 0.05
_ENOUGH: Final = 0.95  # of the ideal rate
_NS: Final = 1_000_000_000


def cpu(name: str, number: int, *, quick: bool) -> list[Outcome]:
    """Compare the settled server with each fixed number of workers, CPU-bound."""
    loops = loops_for(_COMPUTE_S)
    kinds = [
        (threads, headers)
        for threads in ((1,) if quick else (1, 4, 16))
        for headers in (((), _CLOSE) if not quick else ((),))
    ]
    outcomes = []
    for threads, headers in kinds:
        scenario = Scenario(
            "cpu", "", APP, BODY, f"/compute?loops={loops}", headers, connections=32
        )
        label = f"{name} {threads} {'thread' if threads == 1 else 'threads'}"
        label += " fresh" if headers else " kept"
        outcomes.append(_against_fixed(label, number, scenario, threads, quick=quick))
    return outcomes


def _against_fixed(
    label: str, number: int, scenario: Scenario, threads: int, *, quick: bool
) -> Outcome:
    settle_s, seconds = (6, 4) if quick else (10, 8)
    generator = choose_generator()
    tried = (1, 2, 4) if quick else (1, 2, 3, 4, 8, 16)
    rates: dict[str, float] = {}
    others: dict[str, float] = {}
    errors = 0
    moments: Sequence[Moment] = ()
    over_time = ""
    for shape in (Shape(1, 16, threads), *(Shape(n, n, threads) for n in tried)):
        is_elastic = shape.min_workers != shape.max_workers
        with serving(shape) as target, Watch(target, 0.1) as watch:
            settled_s = settle_s if is_elastic else 1
            began_ns, began_s, busy_s = time.time_ns(), target.child.cpu_s(), machine_busy_s()
            # One run: a pause between two would be a change of the load.
            seen, share = generator.run(target.child.port, scenario, settled_s + seconds, None)
            took_s = (time.time_ns() - began_ns) / _NS
            used_s = target.child.cpu_s() - began_s
            others[f"cores used by others {shape}"] = (
                machine_busy_s() - busy_s - used_s
            ) / took_s - share
            settled_ns = began_ns + int(settled_s * _NS)
            span = watch.between(settled_ns, settled_ns + int(seconds * _NS))
        rates[str(shape)] = _rate(span)
        errors += seen.errors
        if is_elastic:
            moments, over_time = span, _per_second(watch.moments)
    own = next(iter(rates.values()))
    checks = [
        Check("errors", errors, 0, each=True),
        *(
            Check(f"requests/s / those of {shape}", own / rate, 0.95, "x", at_least=True)
            for shape, rate in list(rates.items())[1:]
        ),
        Check("workers changed after settling", changes(moments).count, 0),
    ]
    figures = {f"requests/s {shape}": rate for shape, rate in rates.items()}
    return Outcome(
        label,
        number,
        checks,
        {
            **figures,
            **others,
            "workers settled": mean(moment.total for moment in moments),
            "workers each second": over_time,
        },
    )


def machine_busy_s() -> float:
    """Return the processor seconds that everybody has used so far."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _rate(moments: Sequence[Moment]) -> float:
    """Return the requests per second that the server counted."""
    first, last = moments[0], moments[-1]
    return (last.requests - first.requests) / (last.at_ns - first.at_ns) * _NS


def _per_second(moments: Sequence[Moment]) -> str:
    """Return how many workers there were, second by second."""
    if not moments:
        return ""
    found: dict[int, int] = {}
    for moment in moments:
        found.setdefault((moment.at_ns - moments[0].at_ns) // _NS, moment.total)
    return " ".join(str(total) for total in found.values())


def io(name: str, number: int, *, quick: bool) -> Outcome:
    """Compare 200 connections that sleep with the ideal, and memory with the least that does."""
    settle_s, seconds = (6, 4) if quick else (12, 10)
    generator = choose_generator()
    path = f"/sleep?ms={_IO_SLEEP_S * 1000:.0f}"
    scenario = Scenario("io", "", APP, BODY, path, connections=_IO_CONNECTIONS)
    ideal = _IO_CONNECTIONS / _IO_SLEEP_S
    figures: dict[str, object] = {}
    memory: dict[str, float] = {}
    shares: dict[str, float] = {}
    errors = 0
    tried = (3, 4, 5) if quick else (2, 3, 4, 5, 6, 8)
    for shape in (Shape(1, 16, 64), *(Shape(n, n, 64) for n in tried)):
        label = str(shape)
        with serving(shape) as target, Watch(target, 0.1) as watch:
            generator.run(target.child.port, scenario, settle_s, None)
            begin_ns = time.time_ns()
            seen, _ = generator.run(target.child.port, scenario, seconds, None)
            moments = watch.between(begin_ns, time.time_ns())
            memory[label] = target.pss_mb()
        errors += seen.errors
        shares[label] = seen.rate / ideal
        figures |= {
            f"{label}: share of the ideal rate": shares[label],
            f"{label}: workers": mean(moment.total for moment in moments),
            f"{label}: threads": mean(moment.threads for moment in moments),
            f"{label}: PSS MB": memory[label],
        }
    own, *fixed = shares
    enough = [label for label in fixed if shares[label] >= 0.95] or [
        max(fixed, key=lambda label: shares[label])
    ]
    least = min(memory[label] for label in enough)
    figures[f"least PSS MB of a fixed number that reaches {_ENOUGH}"] = least
    checks = (
        Check("errors", errors, 0, each=True),
        Check("share of the ideal rate", shares[own], _ENOUGH, at_least=True),
        Check("PSS / least of a fixed number that does", memory[own] / least, 1.1, "x"),
    )
    return Outcome(name, number, checks, figures)
