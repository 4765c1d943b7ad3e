"""The right size: as many workers as the cores can use, threads for what only waits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Final

import psutil

from benchmarks.elastic_app import BODY, loops_for
from benchmarks.elastic_series import changes
from benchmarks.elastic_server import APP, Moment, Shape, Watch, serving
from benchmarks.elastic_verdict import Check, Outcome
from benchmarks.load import choose_generator
from benchmarks.processes import ServerError
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


@dataclass(frozen=True, slots=True)
class Turn:
    """One server under CPU-bound load, after it has settled."""

    rate: float  # requests per second
    errors: int
    others: float  # cores that neither it nor the load used, and nobody left idle
    moments: Sequence[Moment]
    workers: str  # second by second, from the start


def _against_fixed(
    label: str, number: int, scenario: Scenario, threads: int, *, quick: bool
) -> Outcome:
    settle_s, seconds = (6, 4) if quick else (10, 8)
    tried = (1, 2, 4) if quick else (1, 2, 3, 4, 8, 16)
    elastic, fixed = Shape(1, 16, threads), [Shape(n, n, threads) for n in tried]
    shapes = [elastic, *fixed]
    first = number % len(shapes)  # another one in each round: minutes differ
    turns = {
        shape: _turn(shape, scenario, settle_s if shape == elastic else 1, seconds)
        for shape in shapes[first:] + shapes[:first]
    }
    own = turns[elastic]
    checks = [
        Check("errors", sum(turn.errors for turn in turns.values()), 0, each=True),
        *(
            Check(f"requests/s / those of {shape}", own.rate / turns[shape].rate, 0.95, "x", True)
            for shape in fixed
        ),
        Check("workers changed after settling", changes(own.moments).count, 0),
    ]
    figures = {
        **{f"requests/s {shape}": turns[shape].rate for shape in shapes},
        **{f"cores used by others {shape}": turns[shape].others for shape in shapes},
        "workers settled": mean(moment.total for moment in own.moments),
        "workers each second": own.workers,
    }
    return Outcome(label, number, checks, figures)


def _turn(shape: Shape, scenario: Scenario, settle_s: float, seconds: float) -> Turn:
    generator = choose_generator()
    with serving(shape) as target, Watch(target, 0.1) as watch:
        began_ns, used_s, busy_s = time.time_ns(), target.child.cpu_s(), machine_busy_s()
        # One run: a pause between two would be a change of the load.
        seen, share = generator.run(target.child.port, scenario, settle_s + seconds, None)
        took_s = (time.time_ns() - began_ns) / _NS
        used_s, busy_s = target.child.cpu_s() - used_s, machine_busy_s() - busy_s
        settled_ns = began_ns + int(settle_s * _NS)
        moments = watch.between(settled_ns, settled_ns + int(seconds * _NS))
    if len(moments) < 2:
        raise ServerError(f"{shape}: it did not say how it is")
    others = (busy_s - used_s) / took_s - share
    return Turn(rate(moments), seen.errors, others, moments, per_second(watch.moments))


def machine_busy_s() -> float:
    """Return the processor seconds that everybody has used so far."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def rate(moments: Sequence[Moment]) -> float:
    """Return the requests per second that the server counted."""
    first, last = moments[0], moments[-1]
    return (last.requests - first.requests) / (last.at_ns - first.at_ns) * _NS


def per_second(moments: Sequence[Moment]) -> str:
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
