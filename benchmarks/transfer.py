"""Scenarios whose figure is megabytes per second: contents that are large."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Final

from benchmarks import counting
from benchmarks.cores import Cores
from benchmarks.load import LoadError, listen_to
from benchmarks.processes import probe, running
from benchmarks.sample import Outcome
from benchmarks.scenarios import Scenario
from benchmarks.server import Server
from benchmarks.transfer_load import PATIENCE_S, Summary

_GRACE_S: Final = 2 * PATIENCE_S


@dataclass(frozen=True, slots=True)
class _Run:
    seen: Summary
    load_share: float


def measure(
    server: Server, scenario: Scenario, cores: Cores, seconds: float, warm_up_s: float
) -> Outcome:
    """Move contents for `seconds`, after `warm_up_s` that do not count.

    Raises: ServerError, LoadError.
    """
    with running(server, scenario, cores.server) as child:
        if warm_up_s:
            _load(child.port, scenario, warm_up_s, cores.load)
        probe(child.port, scenario)
        cpu_before_s, before = child.cpu_s(), counting.switches(child.pid)
        run = _load(child.port, scenario, max(seconds, scenario.least_seconds), cores.load)
        cpu_used_s, after = child.cpu_s() - cpu_before_s, counting.switches(child.pid)
        seen, requests = run.seen, max(1, run.seen.requests)
        figures = {
            "mb_s": seen.rate * (scenario.upload_bytes or scenario.download_bytes) / 1e6,
            "rate": seen.rate,
            "p50_us": seen.p50_us,
            "p90_us": seen.p90_us,
            "p99_us": seen.p99_us,
            "cpu_us": cpu_used_s / requests * 1e6,
            "memory_mb": child.memory_mb(),
            "load_share": run.load_share,
            "switches": counting.switched(before, after) / requests,
        }
        notes = tuple(f"{count} x {what}" for what, count in seen.errors.items())
        return Outcome(figures, sum(seen.errors.values()), notes)


def count(server: Server, scenario: Scenario, cores: Cores) -> float:
    """Return the system calls per transfer, in a turn of its own: counting slows it down.

    Raises: ServerError, LoadError, CountError.
    """
    with running(server, scenario, cores.server) as child:
        with counting.traced(child.pid) as counted:
            run = _load(child.port, scenario, 0.5, cores.load)
        return counted[0] / max(1, run.seen.requests)


def _load(port: int, scenario: Scenario, seconds: float, core: int | None) -> _Run:
    argv = [sys.executable, "-m", "benchmarks.transfer_load", str(port)]
    argv += [str(scenario.connections), str(seconds), scenario.method, scenario.path]
    argv += [str(scenario.upload_bytes), str(scenario.download_bytes)]
    said, share = listen_to("the generator", argv, seconds + _GRACE_S, core)
    seen = Summary(**json.loads(said))
    if not seen.requests:
        raise LoadError(f"no transfer was finished: {seen.errors}")
    return _Run(seen, share)
