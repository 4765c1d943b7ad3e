"""What is lost: kept connections through every change, SIGKILLed workers, the end of the server."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from statistics import median
from typing import Any, Final

from benchmarks.elastic_load import Load, Seen
from benchmarks.elastic_scaling import said
from benchmarks.elastic_series import (
    NEVER,
    is_explained,
    ready_pids,
    seconds_until_replaced,
)
from benchmarks.elastic_server import Moment, Shape, Watch, has_ended, serving
from benchmarks.elastic_verdict import Check, Outcome
from benchmarks.hostile import get

PATIENCE_S: Final = 5.0
WORKING: Final = get("/sleep?ms=20")
SLEEPING: Final = get("/sleep?ms=100")
FRESH: Final = get("/sleep?ms=20", "Connection: close")
_NS: Final = 1_000_000_000
_BROKEN_WITHIN_NS: Final = 50_000_000  # of the kill: the kernel closes a dead process's sockets
_CLIENTS: Final = 200
# As many at the least as at the most: every killed worker has to be replaced.
_FIXED: Final = Shape(6, 6, 2)


def kills(name: str, number: int, *, quick: bool) -> Outcome:
    """Kill a random worker each second while fresh and kept connections are at work."""
    count = 8 if quick else 20
    with (
        serving(_FIXED) as target,
        Load(target.address, seed=number) as load,
        Watch(target, 0.01) as watch,
    ):
        load.run_for(1)
        before = target.status()
        flow = load.fresh(FRESH, is_poisson=True)
        flow.pace(100)
        kept = load.keep(24, WORKING, 0.25)
        load.run_for(2)
        killed: list[tuple[int, int]] = []
        for _ in range(count):
            pid = load.chance.choice(ready_pids(watch.moments[-1]))
            killed.append((time.time_ns(), pid))
            os.kill(pid, signal.SIGKILL)
            load.run_for(1)
        load.finish(PATIENCE_S)
        load.run_for(1)
        after = target.status()
        moments = watch.moments
    return _judge_kills(name, number, [flow.seen, kept[0].seen], killed, moments, before, after)


def _judge_kills(
    name: str,
    number: int,
    kinds: Sequence[Seen],
    killed: Sequence[tuple[int, int]],
    moments: Sequence[Moment],
    before: dict[str, Any],
    after: dict[str, Any],
) -> Outcome:
    failures = [failure for seen in kinds for failure in seen.failures]
    moments_ns = [moment_ns for moment_ns, _ in killed]
    closed_ns = [moment_ns for seen in kinds for moment_ns in seen.closed_idle]

    def is_strange(moment_ns: int) -> bool:
        return not is_explained(moment_ns, moments_ns, _BROKEN_WITHIN_NS)

    strange = [failure for failure in failures if is_strange(failure.moment_ns)]
    strangely_closed = [moment_ns for moment_ns in closed_ns if is_strange(moment_ns)]
    again = [
        seconds_until_replaced(moments, moment_ns, pid, _FIXED.min_workers)
        for moment_ns, pid in killed
    ]
    answered = sum(len(seen.answered) for seen in kinds)
    sent = sum(seen.sent for seen in kinds)
    ended, lost, deaths = (after[key] - before[key] for key in ("requests", "lost", "restarts"))
    # A request may be answered and its worker killed before it is counted as ended: it counts
    # as lost then. One that was sent and not begun counts nowhere.
    off = max(0, answered - ended - lost, ended + lost - sent) + abs(deaths - len(killed))
    checks = (
        Check("broken requests that no killed worker held", len(strange), 0, each=True),
        Check("connections closed that none held", len(strangely_closed), 0, each=True),
        Check("replacement ready after, median", median(again), 0.2, "s"),
        Check("counters off by", off, 0, each=True),
    )
    figures = {
        "kills": len(killed),
        "sent": sent,
        "answered": answered,
        "broken": len(failures),
        "broken per kill": len(failures) / len(killed),
        "kept connections closed idle": len(closed_ns),
        "ended by status": ended,
        "lost by status": lost,
        "restarts by status": deaths,
        "replacement ready, longest s": max(again),
    }
    notes = [*(note for seen in kinds for note in said(seen))]
    notes += [f"not explained by a kill: {failure}" for failure in strange[:10]]
    return Outcome(name, number, checks, figures, notes)


def term(name: str, number: int, *, quick: bool) -> Outcome:
    """Send SIGTERM while 200 clients keep their connections and ask now and then."""
    with serving(Shape(2, 16, 1)) as target, Load(target.address, seed=number) as load:
        kept = load.keep(_CLIENTS, WORKING, 2.0)
        load.run_for(3 if quick else 6)
        seen = kept[0].seen
        before = len(seen.failures), len(seen.closed_idle), len(seen.answered)
        load.reopens = False
        pid = target.pid
        began_ns = time.time_ns()
        target.signal(signal.SIGTERM)
        is_over = load.run_for(10, lambda: has_ended(pid))
        took_s = (time.time_ns() - began_ns) / _NS if is_over else NEVER
        load.finish(PATIENCE_S)
    lost = len(seen.failures) - before[0]
    checks = (
        Check("requests lost on the wire", lost, 0, each=True),
        Check("exit after", took_s, 3, "s"),
        Check("failed before SIGTERM", before[0] + before[1], 0, each=True),
    )
    figures = {
        "clients": _CLIENTS,
        "answered before": before[2],
        "answered after SIGTERM": len(seen.answered) - before[2],
        "told Connection: close": seen.closed_politely,
        "closed while idle": len(seen.closed_idle) - before[1],
    }
    return Outcome(name, number, checks, figures, said(seen))
