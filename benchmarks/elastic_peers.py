"""gunicorn in the burst and in the imbalance, with the same number of request slots."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from benchmarks.elastic_app import BODY
from benchmarks.elastic_imbalance import judge_imbalance, turn_slow
from benchmarks.elastic_load import Load
from benchmarks.elastic_scaling import QUICK, Burst, burst_figures, drive, said
from benchmarks.elastic_server import APP
from benchmarks.elastic_verdict import Outcome
from benchmarks.processes import running
from benchmarks.scenarios import Scenario
from benchmarks.servers import Server

WORKERS: Final = 8
THREADS: Final = 2


def burst(name: str, number: int, *, quick: bool) -> Outcome:
    """Measure gunicorn in the burst: its workers are fixed, there are slots enough."""
    label = f"{name}, gunicorn {WORKERS} x {THREADS}"
    with _serving() as address, Load(address, seed=number) as load:
        seen, (quiet, wave, _) = drive(load, QUICK if quick else Burst())
    figures = {"errors": len(seen.failures), **burst_figures(seen, quiet, wave)}
    figures["p99 in the burst / unloaded p50"] = (
        figures["burst p99 ms"] / figures["unloaded p50 ms"]
    )
    return Outcome(label, number, figures=figures, notes=said(seen), is_peer=True)


def imbalance(name: str, number: int, *, quick: bool) -> Outcome:
    """Measure gunicorn with four slow connections."""
    label = f"{name}, gunicorn {WORKERS} x {THREADS}"
    with _serving() as address, Load(address, seed=number) as load:
        seen = turn_slow(load, quick=quick)
    judged = judge_imbalance(label, number, seen)
    figures = {check.what: check.value for check in judged.checks} | dict(judged.figures)
    return dataclasses.replace(judged, checks=(), figures=figures, is_peer=True)


@contextmanager
def _serving() -> Iterator[tuple[str, int]]:
    server = Server("gunicorn", "gunicorn", "gunicorn", _command)
    with running(server, Scenario("elastic", "", APP, BODY, threads=THREADS), None) as child:
        yield ("127.0.0.1", child.port)


def _command(port: int, app: str, threads: int) -> tuple[str, ...]:
    # The control socket is a file in the user's home: two servers would meet there.
    pool = ("-k", "gthread", "-w", str(WORKERS), "--threads", str(threads))
    return ("-m", "gunicorn", *pool, "--no-control-socket", "-b", f"127.0.0.1:{port}", app)
