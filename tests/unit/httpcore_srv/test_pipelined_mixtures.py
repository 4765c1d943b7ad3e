"""Pipelined requests of all kinds behind one another: every answer whole and in its place."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from tests.unit.httpcore_srv.pipelined_rig import (
    GOOD,
    LAST,
    Mixture,
    bytes_of,
    make_calm,
    mixed_worker,
    read_answers,
    some_requests,
)
from tests.unit.httpcore_srv.worker_in_thread import WorkerInThread, running

Served = tuple[Mixture, WorkerInThread]


@pytest.fixture(scope="module", params=[False, True], ids=["simple", "revocable"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    app, worker = mixed_worker(revocable=request.param)
    with running(worker):
        yield app, worker


@pytest.fixture(scope="module", params=[False, True], ids=["simple", "revocable"])
def served_by_one_thread(request: pytest.FixtureRequest) -> Iterator[Served]:
    app, worker = mixed_worker(revocable=request.param, max_threads=1)
    with running(worker):
        yield app, worker


def answer_all(served: Served, *kinds: str) -> None:
    """Send requests of these kinds at once; their answers must come in order."""
    app, worker = served
    make_calm(worker, app.clock)
    requests = some_requests(*kinds)
    with worker.connect() as client:
        client.send(b"".join(map(bytes_of, requests)))
        read_answers(client, requests)
    worker.until_connections(0)


@pytest.mark.parametrize("first", GOOD)
def test_a_request_of_any_kind_may_follow_any_other(served: Served, first: str) -> None:
    for second in GOOD + LAST:
        answer_all(served, "quick", first, second, "quick")


@pytest.mark.parametrize("first", GOOD)
def test_one_thread_will_do(served_by_one_thread: Served, first: str) -> None:
    for second in GOOD + LAST:
        answer_all(served_by_one_thread, first, second, "quick")


@pytest.mark.parametrize(
    ("taken", "last"), list(product(["stuck", "race", "midway", "after", "hinted"], LAST))
)
def test_what_is_held_again_after_a_takeover_keeps_its_place(
    served: Served, taken: str, last: str
) -> None:
    answer_all(served, "quick", taken, "quick", "calm", "quick", "quick", taken, "quick", last)


@pytest.mark.parametrize("first", GOOD)
def test_two_clients_in_one_batch_each_get_their_own(served: Served, first: str) -> None:
    app, worker = served
    for second in GOOD:
        make_calm(worker, app.clock)
        one, other = worker.connect(), worker.connect()
        worker.until_connections(2)
        requests = some_requests("quick", first, second, "quick")
        others = some_requests("quick", second, first, "quick")
        with worker.paused():
            one.send(b"".join(map(bytes_of, requests)))
            other.send(b"".join(map(bytes_of, others)))
        read_answers(one, requests)
        read_answers(other, others)
        one.close()
        other.close()
        worker.until_connections(0)
