"""Scenarios whose figure is a rate: small requests, as many as the connections can carry."""

from __future__ import annotations

from benchmarks import counting
from benchmarks.cores import Cores
from benchmarks.load import Measurement, choose_generator
from benchmarks.processes import probe, running
from benchmarks.sample import Outcome
from benchmarks.scenarios import Scenario
from benchmarks.server import Server

_COUNTED_S = 1.0


def measure(
    server: Server, scenario: Scenario, cores: Cores, seconds: float, warm_up_s: float
) -> Outcome:
    """Load the server for `seconds`, after `warm_up_s` that do not count.

    Raises: ServerError, LoadError.
    """
    generator = choose_generator()
    with running(server, scenario, cores.server) as child:
        if warm_up_s:
            generator.run(child.port, scenario, warm_up_s, cores.load)
        probe(child.port, scenario)  # still right after the warm-up, with all its threads
        cpu_before_s, before = child.cpu_s(), counting.switches(child.pid)
        seen, load_share = generator.run(child.port, scenario, seconds, cores.load)
        cpu_used_s, after = child.cpu_s() - cpu_before_s, counting.switches(child.pid)
        requests = max(1, seen.requests)
        figures = {
            "rate": seen.rate,
            "cpu_us": cpu_used_s / requests * 1e6,
            "memory_mb": child.memory_mb(),
            "load_share": load_share,
            "switches": counting.switched(before, after) / requests,
            **(_latencies(seen) if scenario.pipeline == 1 else {}),
        }
        if scenario.ideal_rate:
            figures["ideal"] = seen.rate / scenario.ideal_rate
        errors, notes = _errors(seen, scenario)
        return Outcome(figures, errors, notes)


def count(server: Server, scenario: Scenario, cores: Cores) -> float:
    """Return the system calls per request, in a turn of its own: counting slows it down.

    Raises: ServerError, LoadError, CountError.
    """
    with running(server, scenario, cores.server) as child:
        with counting.traced(child.pid) as counted:
            seen, _ = choose_generator().run(child.port, scenario, _COUNTED_S, cores.load)
        return counted[0] / max(1, seen.requests)


def _latencies(seen: Measurement) -> dict[str, float]:
    """Return what the generator has said of them.

    Not for pipelined requests: wrk takes one time for all that were sent together, and puts it
    right by an interval that is made of single answers.
    """
    names = ("p50_us", "p90_us", "p99_us", "p999_us")
    return {name: value for name in names if (value := getattr(seen, name))}


def _errors(seen: Measurement, scenario: Scenario) -> tuple[int, tuple[str, ...]]:
    """Return how many errors there were, and what they were."""
    sockets = dict(seen.socket_errors)
    notes = []
    if scenario.closes and 0 < sockets.get("read", 0) <= seen.requests:
        # The client wants it closed: wrk counts an end that the answer has not announced.
        notes.append(f"{sockets.pop('read')} answers did not say that the connection would close")
    kinds = [f"{count} {kind} error(s)" for kind, count in sockets.items()]
    if seen.error_responses:
        kinds.append(f"{seen.error_responses} response(s) of status 400 and above")
    if kinds:
        notes.append(f"{', '.join(kinds)} beside {seen.requests} requests")
    return seen.error_responses + sum(sockets.values()), tuple(notes)
