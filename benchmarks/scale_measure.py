"""How each kind of curve is measured for one server: one point after another."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Final

from benchmarks.apps import HELLO_BODY, JSON_BODY, SLEEP_S, SLEPT_BODY
from benchmarks.cores import Cores, pinned
from benchmarks.crowd import Crowd, Kind
from benchmarks.family import of_family
from benchmarks.hostile import get, keeps_quiet
from benchmarks.processes import Running, ServerError, free_port, running, stop
from benchmarks.scale_apps import COMPUTED_BODY
from benchmarks.scale_curves import CONNECTIONS, THREADS, WORKERS_CONNECTIONS, Curve
from benchmarks.scale_load import (
    LARGE_BYTES,
    Figures,
    Wanted,
    changing_script,
    fields,
    load,
    measure,
    measure_transfer,
    post_script,
)
from benchmarks.scale_servers import Budget, with_budget
from benchmarks.scale_transfer import Ask
from benchmarks.scenarios import Scenario
from benchmarks.servers import ROOT, Server

FEW_IDLE: Final = 10
START_TIMEOUT_S: Final = 30.0
_WARM_UP_S: Final = 1.0
_ARRIVALS_PER_S: Final = 2500.0
_ARRIVAL_TIMEOUT_S: Final = 60.0
_GLANCE_S: Final = 0.2
_RETRY_S: Final = 0.001
_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class Turn:
    """One server's turn at one curve."""

    curve: Curve
    server: Server
    cores: Cores
    seconds: float


Points = Iterator[tuple[int, Figures]]


class Missing(Exception):
    """Connections that should be there are not."""


def take(turn: Turn) -> Points:
    """Yield size and figures of each point.

    Raises: ServerError, LoadError, Errors, TransferError, Missing or OSError at the first
        point that cannot be measured; those before it have been yielded.
    """
    return MEASURES[turn.curve.kind](turn)


# -- one server for all points ----------------------------------------------------------------


def _headers(turn: Turn) -> Points:
    with _serving(turn, Budget(threads=THREADS)) as child:
        for count in turn.curve.sizes:
            yield count, _measure(turn, child, Wanted(turn.curve.path, fields(count)))


def _changing(turn: Turn) -> Points:
    with _serving(turn, Budget(threads=THREADS)) as child:
        for count in turn.curve.sizes:
            script = changing_script(turn.curve.path, count)
            yield count, _measure(turn, child, Wanted(turn.curve.path, script=script))


def _response(turn: Turn) -> Points:
    with _serving(turn, Budget(threads=THREADS)) as child:
        for size in turn.curve.sizes:
            path = f"{turn.curve.path}?{size}"
            yield size, _body(turn, child, size, Wanted(path), Ask(path, answers=size))


def _request(turn: Turn) -> Points:
    with _serving(turn, Budget(threads=THREADS)) as child:
        for size in turn.curve.sizes:
            path, said = turn.curve.path, b"%d" % size
            ask = Ask(path, sends=size, answers=len(said), expected=said)
            script = post_script(size) if size else ""
            yield size, _body(turn, child, size, Wanted(path, script=script), ask)


def _body(turn: Turn, child: Running, size: int, wanted: Wanted, ask: Ask) -> Figures:
    """Measure bodies of one size; a quick one is checked once before wrk takes over."""
    measure_transfer(child, ask, 0.0)
    if size < LARGE_BYTES:
        figures = _measure(turn, child, wanted)
    else:
        with pinned(turn.cores.load):
            figures = measure_transfer(child, ask, turn.seconds)
    return {**figures, "mb_s": figures["rate"] * size / _MB}


def _idle(turn: Turn) -> Points:
    with _serving(turn, Budget(threads=THREADS, connections=turn.curve.sizes[-1])) as child:
        for count, crowd in _crowds(turn, child):
            figures = _measure(turn, child, Wanted(turn.curve.path))
            _see_all(crowd, count)  # none was given up for the load
            yield count, figures


def _memory(turn: Turn) -> Points:
    budget = Budget(threads=THREADS, connections=turn.curve.sizes[-1])
    few = 0
    with _serving(turn, budget) as child:
        for count, _ in _crowds(turn, child, FEW_IDLE):
            pss = of_family(child.pid).pss
            if count == FEW_IDLE:
                few = pss
            else:
                each = (pss - few) / (count - FEW_IDLE)
                yield count, {"idle_bytes": each, "memory_mb": pss / _MB}


def _crowds(turn: Turn, child: Running, *first: int) -> Iterator[tuple[int, Crowd]]:
    """Yield once for each size, with so many connections that have been answered once.

    Raises: Missing if they cannot be opened.
    """
    crowd = Crowd(("127.0.0.1", child.port), starts_per_s=_ARRIVALS_PER_S)
    kind = Kind("idle", keeps_quiet(get(turn.curve.path)), is_good=True)
    here = 0
    try:
        for count in (*first, *turn.curve.sizes):
            crowd.add(kind, count - here)
            here = count
            with pinned(turn.cores.load):  # who is turned away comes again
                crowd.run_for(_ARRIVAL_TIMEOUT_S, lambda: crowd.is_settled)
            _see_all(crowd, count)
            yield count, crowd
    finally:
        crowd.close()


def _see_all(crowd: Crowd, count: int) -> None:
    """Raises: Missing if not all connections are there."""
    tally = crowd.tallies["idle"]
    lost = tally.cut
    crowd.run_for(_GLANCE_S)
    if tally.settled < count or tally.cut > lost:
        why = f"; {tally.failures[-1]}" if tally.failures else ""
        raise Missing(f"{tally.settled:,} of {count:,} idle connections{why}")


# -- a server for each point ------------------------------------------------------------------


def _threads(turn: Turn) -> Points:
    for count in turn.curve.sizes:
        with _serving(turn, Budget(threads=count)) as child:
            figures = _measure(turn, child, Wanted(turn.curve.path, connections=count))
        figures["ideal"] = figures["rate"] / (count / SLEEP_S)
        yield count, figures


def _workers(turn: Turn) -> Points:
    """Measure the load generator and all workers where the kernel puts them."""
    turn = _unpinned(turn)
    usable = len(os.sched_getaffinity(0))
    for count in turn.curve.sizes:
        with _serving(turn, Budget(count, THREADS)) as child:
            wanted = Wanted(turn.curve.path, connections=WORKERS_CONNECTIONS)
            figures = _measure(turn, child, wanted)
        figures["per_core"] = figures["rate"] / min(count, usable)
        yield count, figures


def _pss(turn: Turn) -> Points:
    turn = _unpinned(turn)
    for count in turn.curve.sizes:
        with _serving(turn, Budget(count, THREADS)) as child:
            yield count, {"memory_mb": of_family(child.pid).pss / _MB}


def _start(turn: Turn) -> Points:
    turn = _unpinned(turn)
    for count in turn.curve.sizes:
        yield count, _first_answer(turn, Budget(count, THREADS))


def _first_answer(turn: Turn, budget: Budget) -> Figures:
    """Start a server and ask it until it answers.

    Raises: ServerError if it does not.
    """
    port = free_port()
    argv = with_budget(turn.server, budget).argv(port, _scenario(turn.curve))
    with tempfile.TemporaryFile() as log:
        began_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,  # for stop()
        )
        try:
            while (forked_s := _ask_birth(port, turn.curve.path)) is None:
                if time.clock_gettime(time.CLOCK_BOOTTIME) - began_s > START_TIMEOUT_S:
                    raise ServerError("no answer in time")
                time.sleep(_RETRY_S)
            now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        finally:
            stop(process)
    # The kernel's record of a process may say up to 10 ms too early.
    forked_s = max(forked_s, began_s)
    return {"start_ms": (now_s - began_s) * 1e3, "fork_ms": (now_s - forked_s) * 1e3}


def _ask_birth(port: int, path: str) -> float | None:
    """Return when the process that answers was forked; None if nobody does."""
    connection = HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return float(connection.getresponse().read())
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()


# -- common -----------------------------------------------------------------------------------


@contextmanager
def _serving(turn: Turn, budget: Budget) -> Iterator[Running]:
    """Serve inside the block, already warm."""
    server = with_budget(turn.server, budget)
    with running(server, _scenario(turn.curve), turn.cores.server) as child:
        # No more than have a thread where they wait: what nobody waits for any more would still
        # have its turns when the measurement begins.
        count = budget.threads if turn.curve.needs_threads else CONNECTIONS
        load(child.port, Wanted(turn.curve.path, connections=count), _WARM_UP_S, turn.cores.load)
        yield child


def _measure(turn: Turn, child: Running, wanted: Wanted) -> Figures:
    return measure(child, wanted, turn.seconds, turn.cores.load)


def _scenario(curve: Curve) -> Scenario:
    return Scenario(curve.name, curve.summary, curve.app, _BODIES[curve.app], path=curve.path)


def _unpinned(turn: Turn) -> Turn:
    return Turn(turn.curve, turn.server, Cores(None, None), turn.seconds)


_BODIES: Final[Mapping[str, bytes]] = {
    "benchmarks.apps:hello": HELLO_BODY,
    "benchmarks.apps:sleep": SLEPT_BODY,
    "benchmarks.flask_app:app": JSON_BODY,
    "benchmarks.scale_apps:body": b"",
    "benchmarks.scale_apps:upload": b"0",
    "benchmarks.scale_apps:compute": COMPUTED_BODY,
    "benchmarks.scale_born_app:app": b"",  # never compared
}

MEASURES: Final[Mapping[str, Callable[[Turn], Points]]] = {
    "headers": _headers,
    "changing": _changing,
    "response": _response,
    "request": _request,
    "idle": _idle,
    "memory": _memory,
    "threads": _threads,
    "workers": _workers,
    "pss": _pss,
    "start": _start,
}
